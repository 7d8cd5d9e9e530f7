"""Every command and every Python example of the README runs, in its order, in one folder, as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import draw_pictures
from test_weights import published_weights

PROJECT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (PROJECT / "README.md").read_text(), re.S)
# Not run here: it is what runs this test.
SELF = "./launch/test.sh"
INSTEAD = {
    # The folder of this test is not the project's.
    "./launch/run.sh": str(PROJECT / "launch" / "run.sh"),
    # A benchmark's figures need minutes and a machine to itself: here it is only shown to run.
    "--images 2000": "--images 40 --rounds 1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the README takes for granted: photographs, a list of them, and the weights a network would give."""
    root = tmp_path_factory.mktemp("readme")
    for name in ("owl", "cat", "face"):
        [drawn] = draw_pictures(root / "drawn", 1, "jpg", seed=len(name))
        (root / "photos").mkdir(exist_ok=True)
        shutil.move(drawn, root / "photos" / f"{name}.jpg")
    (root / "labelled.csv").write_text("uri,id,label\nphotos/owl.jpg,1,bird\nphotos/cat.jpg,2,mammal\n")
    for alpha in (1.0, 0.35):
        name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
        where = root / "keras" / "models" / name
        published_weights("MobileNetV2", where, include_top=False, alpha=alpha, input_shape=(224, 224, 3))
    for name in ("tests", ".venv"):
        (root / name).symlink_to(PROJECT / name)
    return root


def _as_run_here(text: str) -> str:
    for written, run in INSTEAD.items():
        text = text.replace(written, run)
    return text


@pytest.mark.slow
def test_every_command_of_the_readme_runs(folder):
    assert len(BLOCKS) >= 12
    environment = os.environ | {
        "KERAS_HOME": str(folder / "keras"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    printed = []
    for language, text in BLOCKS:
        lines = "\n".join(line for line in _as_run_here(text).splitlines() if line != SELF)
        command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, lines], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    everything = "\n".join(printed)
    assert re.search(r"embedded +3\b", everything)
    assert "is most like" in everything
    assert "the nearest is of the same kind" in everything, "run.sh without arguments runs the demo"
    assert "'kind': 'not_found'" in everything


def test_the_readme_shows_what_the_command_prints():
    """The summary in the README has the lines that the code prints, with its own labels."""
    shown = (PROJECT / "README.md").read_text()
    for label in ("read", "embedded", "failed", "skipped", "duplicates"):
        assert re.search(rf"^  {label} +\d+$", shown, re.M)
