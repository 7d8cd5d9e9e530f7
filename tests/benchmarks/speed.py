"""How fast the job is beside what this machine could do at best, on the same pictures in the same run.

    .venv/bin/python tests/benchmarks/speed.py --model MobileNetV2 --images 2000

Prints the bare model over images in memory, decoding alone, the ceiling that follows from the two, the whole job in
steady state as a share of that ceiling, the share of Parquet, `model.predict` in batches, and the time before the
first picture. Ratios between lines of one run are the result; img/s alone say something about the machine only.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from beam_pipeline import EmbeddingSpec, Work, binding, embed, engines, model
from beam_pipeline.cli import quiet
from beam_pipeline.dataset.parts import PartWriter
from beam_pipeline.embedder import default_threads
from beam_pipeline.engines import Engine
from beam_pipeline.fetch import fetch
from beam_pipeline.images import DecodedImage, decode, prepare_decoder
from beam_pipeline.progress import TALLY
from beam_pipeline.spec import Limits
from beam_pipeline.storage import Storage

HEIGHT, WIDTH = 400, 512  # 0.2 megapixels
DISTINCT = 64
# Pictures for the lines that repeat the same work over and over: enough for some seconds each.
SAMPLE = 320


@dataclass(frozen=True)
class Round:
    """What one round measured: img/s, seconds, and the share of time spent in writing Parquet."""

    model: float
    decode: float
    job: float
    first_s: float
    parquet: float

    @property
    def ceiling(self) -> float:
        """Model and decoder each had all cores to themselves; together they need the sum of their times."""
        return 1 / (1 / self.model + 1 / self.decode)


def draw(folder: Path, count: int) -> list[str]:
    """JPEGs of 0.2 megapixels with the frequencies of photographs (amplitude falls as one over frequency)."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :])
    frequency[0, 0] = 1
    encoded = []
    for _ in range(DISTINCT):
        noise = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH))) / frequency
        pixels = np.fft.irfft2(noise, (HEIGHT, WIDTH))
        pixels = 128 + 50 * (pixels - pixels.mean((1, 2), keepdims=True)) / pixels.std((1, 2), keepdims=True)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded[number % DISTINCT])
    return [str(path) for path in paths]


def model_alone(engine: Engine, spec: EmbeddingSpec) -> float:
    """Images already in memory, batch by batch."""
    shape = (engine.batch_size, *spec.image.target_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batches = SAMPLE // engine.batch_size
    engine(pixels)
    begun = time.perf_counter()
    for _ in range(batches):
        engine(pixels)
    return batches * engine.batch_size / (time.perf_counter() - begun)


def decode_alone(paths: list[str], spec: EmbeddingSpec) -> float:
    """Read and decode as the job does, with as many threads, and nothing else."""
    limits, storage = Limits(), Storage()

    def one(path: str) -> DecodedImage:
        return decode(fetch(path, limits, storage).data, spec.image, limits)

    with ThreadPoolExecutor(default_threads()) as pool:
        begun = time.perf_counter()
        for _ in pool.map(one, paths):
            pass
        return len(paths) / (time.perf_counter() - begun)


def whole_job(folder: Path, output: Path, spec: EmbeddingSpec, batch_size: int) -> tuple[float, float, float]:
    """Pictures to Parquet: img/s from the first finished batch to the last, seconds before it, Parquet's share."""
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            done = TALLY.read().embedded
            if done and (not seen or done != seen[-1][1]):
                seen.append((time.perf_counter(), done))

    TALLY.reset()
    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    with timed(PartWriter, "write", "close") as writing:
        embed(str(folder), str(output), spec, work=Work(batch_size=batch_size))
    ended = time.perf_counter()
    over.set()
    watcher.join()
    (first, at_first), (last, at_last) = seen[0], seen[-1]
    # The end of the last part is work too; what follows it (publishing, once a run) is not of the steady state.
    return (at_last - at_first) / (last - first), first - begun, sum(writing) / (ended - first)


class timed:  # reads as a verb where it is used
    """Seconds spent in some methods of a class while it is open."""

    def __init__(self, owner: type, *names: str) -> None:
        self._owner, self._originals = owner, {name: getattr(owner, name) for name in names}
        self._seconds: list[float] = []

    def __enter__(self) -> list[float]:
        for name, original in self._originals.items():
            setattr(self._owner, name, self._wrapped(original))
        return self._seconds

    def __exit__(self, *error: object) -> None:
        for name, original in self._originals.items():
            setattr(self._owner, name, original)

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self._seconds.append(time.perf_counter() - begun)

        return call


def predict_in_batches(paths: list[str], spec: EmbeddingSpec, weights: str, batch_size: int) -> float:
    """The loop of a notebook: `load_img`, `preprocess_input`, `Model.predict` on batches."""
    import keras

    built = model.build(spec, weights)

    def run(some: list[str]) -> None:
        images = [keras.utils.load_img(path, target_size=spec.image.target_size) for path in some]
        pixels = np.stack([keras.utils.img_to_array(image) for image in images])
        built.network.predict(np.asarray(built.preprocess(pixels)), batch_size=batch_size, verbose=0)

    run(paths[:batch_size])
    begun = time.perf_counter()
    for start in range(0, len(paths), batch_size):
        run(paths[start : start + batch_size])
    return len(paths) / (time.perf_counter() - begun)


def main() -> None:
    """Draws, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MobileNetV2")
    parser.add_argument("--images", type=int, default=2000, help="pictures of the whole job (default: 2000)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="each line is the median of so many (default: 3)")
    args = parser.parse_args()
    quiet.silence()
    quiet.import_tensorflow()
    prepare_decoder()
    spec = EmbeddingSpec(model=args.model, weights="random:1")
    with tempfile.TemporaryDirectory(prefix="beam-embed-speed-") as name:
        measure(args, spec, Path(name))


def measure(args: argparse.Namespace, spec: EmbeddingSpec, folder: Path) -> None:
    """All lines, in rounds, so that a change of the machine's speed meets each line alike."""
    (folder / "pictures").mkdir()
    paths = draw(folder / "pictures", args.images)
    size = statistics.mean(os.path.getsize(path) for path in paths)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{args.model}, {args.images} JPEGs of {WIDTH}x{HEIGHT} ({size / 1000:.0f} kB), batches of {args.batch_size},"
    )
    print(f"{cores} cores, {args.rounds} rounds, medians")
    storage = Storage()
    resolved = binding.resolve(spec, storage)
    engine = engines.load(resolved, storage, args.batch_size, args.images)
    rounds = []
    for number in range(args.rounds):
        bare = [model_alone(engine, spec)]
        decoding = [decode_alone(paths[:SAMPLE], spec)]
        job, first, parquet = whole_job(folder / "pictures", folder / f"out{number}", spec, args.batch_size)
        bare.append(model_alone(engine, spec))
        decoding.append(decode_alone(paths[:SAMPLE], spec))
        rounds.append(Round(statistics.mean(bare), statistics.mean(decoding), job, first, parquet))
    predict = predict_in_batches(paths[:SAMPLE], resolved.spec, resolved.weights.uri, args.batch_size)

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    shares = ", ".join(f"{one.job / one.ceiling:.2f}" for one in rounds)
    print(f"  bare model, images in memory   {median(lambda r: r.model):8.1f} img/s")
    print(f"  read and decode alone          {median(lambda r: r.decode):8.1f} img/s")
    print(f"  ceiling: the two one by one    {median(lambda r: r.ceiling):8.1f} img/s")
    print(f"  the job, steady                {median(lambda r: r.job):8.1f} img/s")
    print(f"  the job's share of the ceiling {median(lambda r: r.job / r.ceiling):8.2f}   ({shares})")
    print(f"  writing Parquet                {100 * median(lambda r: r.parquet):8.1f} % of the time")
    print(f"  model.predict in batches       {predict:8.1f} img/s")
    print(f"  before the first picture       {median(lambda r: r.first_s):8.1f} s")


if __name__ == "__main__":
    main()
