"""Fakes over mocks: an engine without TensorFlow, and pictures drawn by the code."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from beam_pipeline import binding, engines
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.plan import Plan, PlanCounts, WorkList, write_plan, write_work_list
from beam_pipeline.embedder import Embedder
from beam_pipeline.references import CarriedColumn, ImageReference
from beam_pipeline.shard import ShardResult, embed_shard
from beam_pipeline.spec import EmbeddingSpec, LayerOutput, ResolvedSpec, WeightsFile
from beam_pipeline.storage import Storage

SPEC = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32)
WIDTH = 12
DIGEST = "sha256:" + "fa" * 32


class FakeEngine:
    """Turns pixels into vectors that tell pictures apart: the means of 12 vertical thirds, by channel and half."""

    def __init__(self, batch_size: int = 4) -> None:
        self.batch_size = batch_size
        self.calls = 0

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        assert pixels.shape[0] == self.batch_size, "batches are of one shape"
        assert pixels.dtype == np.uint8
        self.calls += 1
        return {"embedding": fake_vectors(pixels)}


def fake_vectors(pixels: np.ndarray) -> np.ndarray:
    """`uint8[N, H, W, 3]` -> `float32[N, 12]`."""
    half, third = pixels.shape[1] // 2, pixels.shape[2] // 2
    blocks = [pixels[:, y : y + half, x : x + third].mean(axis=(1, 2)) for y in (0, half) for x in (0, third)]
    return np.concatenate(blocks, axis=1).astype(np.float32)


class FakeMapEngine(FakeEngine):
    """Gives a map too: the picture itself as floats, every fourth pixel, in the column `block`."""

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return super().__call__(pixels) | {"block": pixels[:, ::4, ::4].astype(np.float32) / 7}


def fake_resolved(
    spec: EmbeddingSpec = SPEC, digest: str = DIGEST, shapes: dict[str, tuple[int, ...]] | None = None
) -> ResolvedSpec:
    """A spec resolved without building a model. Columns that `shapes` does not name are vectors of 12."""
    file = WeightsFile("/nowhere.weights.h5", digest, "file")
    named = tuple(x for x in spec.layers if isinstance(x, LayerOutput))
    resolved = spec.resolved(file.identity, named)
    known = {output.column: (WIDTH,) for output in resolved.outputs} | (shapes or {})
    return ResolvedSpec(resolved, tuple(known.items()), file, 1000)


def use_fakes(monkeypatch, digest: str = DIGEST) -> list[FakeEngine]:
    """Makes jobs of this process run without TensorFlow. Returns the engines as they are loaded."""
    loaded: list[FakeEngine] = []

    def load(resolved: ResolvedSpec, storage: Storage, batch_size: int, images: int | None = None) -> FakeEngine:
        loaded.append(FakeEngine(batch_size))
        return loaded[-1]

    monkeypatch.setattr(engines, "load", load)
    monkeypatch.setattr(binding, "resolve", lambda spec, storage: fake_resolved(spec, digest))
    return loaded


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A plain web server for a folder, on loopback; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Says nothing."""


def draw_pictures(folder: Path, count: int, suffix: str = "png", seed: int = 0) -> list[str]:
    """Pictures of different colours; their absolute paths, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        path = folder / f"p{number:04d}.{suffix}"
        Image.fromarray(corners).resize((40, 36), Image.Resampling.BILINEAR).save(path)
        paths.append(str(path))
    return paths


def references(uris: list[str]) -> list[ImageReference]:
    """References to URIs in order, carrying nothing."""
    return [ImageReference(uri, (0, 0, row), identity=uri) for row, uri in enumerate(uris)]


def fix_plan(
    layout: Layout, run_id: str, lists: list[list[ImageReference]], carried: tuple[CarriedColumn, ...] = ()
) -> Plan:
    """A plan with one work list for each of the lists, all of it written down."""
    storage = Storage()
    work = [write_work_list(layout, run_id, shard, refs, carried, storage) for shard, refs in enumerate(lists)]
    new = sum(one.rows for one in work)
    return write_plan(layout, Plan(run_id, len(work), PlanCounts(read=new, new=new), tuple(work)), storage)


def run_shard(layout: Layout, plan: Plan, work: WorkList, engine: FakeEngine | None = None) -> ShardResult:
    """Embeds one work list with a fake engine."""
    resolved, storage = fake_resolved(), Storage()
    embedder = Embedder(resolved, engine or FakeEngine(), storage)
    return embed_shard(layout, plan, work, resolved, (), storage, embedder, lambda embedded: None)


def columns(*texts: str) -> tuple[CarriedColumn, ...]:
    """`"id:int64"` and the like as carried columns."""
    return tuple(CarriedColumn.parse(text) for text in texts)
