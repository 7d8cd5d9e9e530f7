"""The real command, killed at any moment and run again: each picture once, nothing computed twice or left over."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import draw_pictures

from beam_pipeline import open_dataset
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.parts import read_footer
from beam_pipeline.storage import Storage

PICTURES = 600
IN_SHARD = 10
# A run that has not got so far in this time hangs.
PATIENCE_S = 300


def start(pictures: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """Starts the command as a user does."""
    flags = ["--model", "MobileNetV2", "--weights", "random:1", "--target-size", "32", "--batch-size", "4"]
    flags += ["--images-per-shard", str(IN_SHARD), "--input", str(pictures), "--output", str(output), *more]
    command = [sys.executable, "-m", "beam_pipeline", "embed", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )


def run(pictures: Path, output: Path, *more: str) -> str:
    """Runs the command to its end. What it prints."""
    process = start(pictures, output, *more)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    return out


def parts(output: Path) -> set[Path]:
    return set((output / "embeddings").rglob("*.parquet"))


def stop_after_parts(process: subprocess.Popen[str], output: Path, count: int, number: int) -> tuple[str, str]:
    """Sends a signal as soon as so many more parts are committed. What the process had printed."""
    there = len(parts(output))
    give_up = time.monotonic() + PATIENCE_S
    while len(parts(output)) < there + count:
        assert process.poll() is None, f"it ended before it could be stopped: {process.communicate()}"
        assert time.monotonic() < give_up
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE_S)


def attempts(output: Path) -> dict[str, str]:
    """The attempt id in the footer of every committed part, by its path in the dataset."""
    layout, found = Layout(str(output)), {}
    for path in parts(output):
        run_id = path.parent.name.removeprefix("run_id=")
        footer = read_footer(layout, run_id, path.name, Storage())
        assert footer is not None
        found[f"{run_id}/{path.name}"] = footer.attempt
    return found


def published_attempts(output: Path) -> dict[str, str]:
    manifests = [json.loads(path.read_text()) for path in output.glob("_runs/*/manifest.json")]
    return {f"{one['run_id']}/{part['name']}": part["attempt"] for one in manifests for part in one["parts"]}


def rows(output: Path) -> tuple[list[str], np.ndarray]:
    """URIs, sorted, and their vectors in the same order."""
    uris, vectors = open_dataset(str(output)).to_numpy()
    order = np.argsort(uris)
    return uris[order].tolist(), vectors[order]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "in"
    draw_pictures(folder, PICTURES)
    return folder


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_gives_what_an_undisturbed_one_gives(pictures, tmp_path):
    run(pictures, tmp_path / "undisturbed")
    output = tmp_path / "killed"
    kept: dict[str, str] = {}
    # A run of the night that is killed, started again under its name and killed further on; then one that adopts it.
    for flags, count in ((["--run-id", "night"], 1), (["--run-id", "night"], 7), ([], 2)):
        process = start(pictures, output, *flags)
        stop_after_parts(process, output, count, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        found = attempts(output)
        assert found.items() >= kept.items(), "what was committed stays as it is"
        assert len(found) >= len(kept) + count
        kept = found
    said = run(pictures, output)
    assert "was interrupted; its" in said
    assert published_attempts(output).items() >= kept.items(), "no part that was committed is computed again"
    assert published_attempts(output) == attempts(output), "and every part is published"
    uris, vectors = rows(output)
    wanted, expected = rows(tmp_path / "undisturbed")
    assert uris == wanted == sorted(str(path) for path in pictures.iterdir())
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-6)
    assert [path for path in output.rglob("*.tmp") if path.parent.name != "_locks"] == []
    assert list((output / "_locks").glob("*.json")) == []
    for manifest in open_dataset(str(output)).runs:
        counts = manifest["counts"]
        assert counts["read"] == counts["embedded"] + counts["failed"] + counts["skipped"] + counts["duplicates"]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(pictures, tmp_path):
    output = tmp_path / "out"
    process = start(pictures, output)
    out, err = stop_after_parts(process, output, 1, signal.SIGINT)
    assert process.returncode == 130
    assert out.splitlines()[-1] == (
        "interrupted; the parts that are finished are kept: run the same command again to go on"
    )
    assert err == ""
    assert list((output / "_locks").glob("*.json")) == [], "the next run need not wait"
    kept = attempts(output)
    assert "was interrupted; its" in run(pictures, output)
    assert published_attempts(output).items() >= kept.items()
    assert len(rows(output)[0]) == PICTURES
