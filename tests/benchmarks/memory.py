"""Peak memory of a run beside the number of URIs listed, and of URIs embedded by an earlier run. No model, no network.

    python tests/benchmarks/memory.py 10000 100000 1000000

Each line is two whole runs in processes of their own: the first embeds every URI with a fake engine and a picture
held in memory, the second finds every URI embedded already.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

TESTS = Path(__file__).parents[1]


def peak_kb(folder: Path, count: int) -> int:
    """Runs the job once in this process; the highest resident memory that it has had, in KB."""
    sys.path.insert(0, str(TESTS))
    from fakes import SPEC, FakeEngine, fake_resolved

    from beam_pipeline import Work, binding, embed, embedder, engines
    from beam_pipeline.fetch import FetchedImage

    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(buffer, "PNG")
    picture = FetchedImage(buffer.getvalue(), "mtime:1700000000000000000")
    listing = folder / "list.txt"
    if not listing.exists():
        listing.write_text("\n".join(f"/data/photos/2026/collection/picture-{i:09d}.jpg" for i in range(count)))

    def fetch(*args: object) -> FetchedImage:  # a Mock would remember every call
        return picture

    with (
        mock.patch.object(engines, "load", return_value=FakeEngine(32)),
        mock.patch.object(binding, "resolve", return_value=fake_resolved(SPEC)),
        mock.patch.object(embedder, "fetch", fetch),
    ):
        finished = embed(str(listing), str(folder / "out"), SPEC, work=Work(batch_size=32))
    counts = finished.manifest["counts"]
    assert counts["read"] == count == counts["embedded"] + counts["skipped"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(count: int) -> tuple[int, int]:
    """KB at the peak of a first run over `count` URIs, and of a second run that finds them embedded."""
    with tempfile.TemporaryDirectory(prefix="beam-embed-memory-") as folder:
        command = [sys.executable, __file__, "--one", folder, str(count)]
        peaks = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    first, second = (json.loads(text.splitlines()[-1]) for text in peaks)
    return first, second


def main() -> None:
    """Prints a table, with the growth from each line to the next in bytes for each URI."""
    if sys.argv[1] == "--one":
        print(peak_kb(Path(sys.argv[2]), int(sys.argv[3])))
        return
    before: tuple[int, tuple[int, int]] | None = None
    print(f"{'URIs':>10}{'listed, embedded':>20}{'growth':>10}{'listed, done before':>22}{'growth':>10}")
    for count in map(int, sys.argv[1:]):
        peaks = measure(count)
        growth = ["", ""]
        if before is not None:
            growth = [
                f"{1024 * (now - then) / (count - before[0]):.0f} B" for now, then in zip(peaks, before[1], strict=True)
            ]
        print(f"{count:>10,}{peaks[0] / 1024:>17,.0f} MB{growth[0]:>10}{peaks[1] / 1024:>19,.0f} MB{growth[1]:>10}")
        before = count, peaks


if __name__ == "__main__":
    main()
