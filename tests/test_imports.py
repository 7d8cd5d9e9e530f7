"""Nothing is imported before it is needed: no TensorFlow for help or a constructor, no Beam outside its own layer."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "beam_pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))
# DESIGN: Beam is imported only here, since everything else is a core that works without it.
BEAM_LAYER = ("stages/", "cli/", "pipeline.py")
HEAVY = {"tensorflow", "keras"}

REPORT = "import json, sys; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
COMMAND = """
from beam_pipeline.cli.main import main
try:
    code = main({argv!r})
except SystemExit as end:
    code = end.code
assert not code, code
"""
SPEC = "from beam_pipeline import EmbeddingSpec; spec = EmbeddingSpec(model='ResNet50', layers=['conv1_conv:avg']);"


def imported_by(code: str) -> set[str]:
    """The packages that a fresh process has imported after it has run some code."""
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(process.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import beam_pipeline", {*HEAVY, "apache_beam", "pyarrow", "numpy", "fsspec"}),
        (SPEC, {*HEAVY, "apache_beam", "pyarrow"}),
        ("from beam_pipeline import open_dataset", {*HEAVY, "apache_beam"}),
        ("from beam_pipeline import embed, Work; Work()", {*HEAVY, "apache_beam"}),
        (f"{SPEC} from beam_pipeline import EmbedImages; EmbedImages(spec).with_failures()", HEAVY),
        (COMMAND.format(argv=["--help"]), {*HEAVY, "apache_beam"}),
        (COMMAND.format(argv=["--version"]), {*HEAVY, "apache_beam"}),
        (COMMAND.format(argv=["models"]), {*HEAVY, "apache_beam"}),
        (COMMAND.format(argv=["embed", "--help"]), {*HEAVY, "apache_beam"}),
        (COMMAND.format(argv=["layers", "--help"]), {*HEAVY, "apache_beam"}),
    ],
    ids=[
        "package", "spec", "open_dataset", "embed", "EmbedImages", "help", "version", "models", "embed help",
        "layers help",
    ],
)  # fmt: skip
def test_heavy_packages_wait_until_they_are_needed(code, without):
    assert imported_by(code) & without == set()


def test_the_measure_itself_sees_what_is_imported():
    assert "apache_beam" in imported_by("import beam_pipeline.pipeline")


def imports_in(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules that some nodes of a syntax tree import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: every node but those of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from outside_functions(child)


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def name_in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_in_package)
def test_beam_is_imported_only_in_its_layer_and_tensorflow_only_inside_functions(path):
    tree = tree_of(path)
    if not name_in_package(path).startswith(BEAM_LAYER):
        assert "apache_beam" not in packages(imports_in(ast.walk(tree)))
    assert packages(imports_in(outside_functions(tree))) & {*HEAVY, "h5py", "pillow_heif"} == set()


# What a place may not import, since it stands above it; every place that is not named here is of the core.
ABOVE = {
    "cli": set(),
    "launcher.py": {"cli"},
    "pipeline.py": {"cli", "launcher"},
    "stages": {"cli", "launcher", "pipeline", "stages"},  # stages do not import each other
}
ABOVE_CORE = {"cli", "launcher", "pipeline", "stages"}
LEAVES = {"errors.py", "metrics.py", "version.py", "uris.py"}


@pytest.mark.parametrize("path", FILES, ids=name_in_package)
def test_imports_run_downward_only(path):
    name = name_in_package(path)
    if name in ("__init__.py", "__main__.py"):  # the doors of the package
        return
    ours = {module for module in imports_in(ast.walk(tree_of(path))) if module.startswith("beam_pipeline.")}
    pieces = {module.split(".")[1] for module in ours}
    assert pieces & ABOVE.get(name.partition("/")[0], ABOVE_CORE) == set()
    if name in LEAVES:
        assert pieces <= {"errors"}


def test_public_names_are_what_the_package_says():
    import beam_pipeline

    assert [name for name in beam_pipeline.__all__ if not hasattr(beam_pipeline, name)] == []
    assert not hasattr(beam_pipeline, "nothing")
