"""The command line: every mistake has its own line and exit code, every picture its row, and the numbers add up."""

from __future__ import annotations

import argparse
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeEngine, draw_pictures, use_fakes
from PIL import Image

from beam_pipeline import open_dataset
from beam_pipeline.applications import APPLICATIONS
from beam_pipeline.cli import display, quiet, values
from beam_pipeline.cli import embed as embed_command
from beam_pipeline.cli.main import main

MODEL = ["--model", "MobileNetV2", "--weights", "random:1", "--target-size", "32", "--batch-size", "4"]
NUMBERS = ("read", "embedded", "failed", "skipped", "duplicates")


@pytest.fixture
def fakes(monkeypatch) -> list[FakeEngine]:
    """The command without TensorFlow; the engines that it loads."""
    monkeypatch.setattr(quiet, "import_tensorflow", lambda: None)
    return use_fakes(monkeypatch)


def command(*argv: object) -> int:
    """Runs the command in this process. argparse ends it with SystemExit, everything else with a return."""
    try:
        return main([str(one) for one in argv])
    except SystemExit as end:
        return int(end.code or 0)


def embed(folder: Path, source: object, *more: object) -> int:
    return command("embed", "--input", source, "--output", folder / "out", *MODEL, *more)


def printed_numbers(text: str) -> dict[str, int]:
    """The numbers of the summary."""
    found = re.findall(rf"^  ({'|'.join(NUMBERS)}) +([\d,]+)(?:   .*)?$", text, re.MULTILINE)
    assert [name for name, _ in found] == list(NUMBERS)
    return {name: int(number.replace(",", "")) for name, number in found}


def reconcile(numbers: dict[str, int]) -> None:
    assert numbers["read"] == sum(number for name, number in numbers.items() if name != "read")


def manifest_of(folder: Path) -> dict[str, Any]:
    return open_dataset(str(folder / "out")).runs[-1]


# Exit codes


def test_a_job_that_is_done_exits_with_0_and_prints_numbers_that_add_up(tmp_path, fakes, capsys):
    paths = draw_pictures(tmp_path / "in", 5)
    (tmp_path / "list.txt").write_text("\n".join([*paths, paths[0], "gone.png"]))
    assert embed(tmp_path, tmp_path / "list.txt") == 0
    output = capsys.readouterr()
    assert printed_numbers(output.out) == {"read": 7, "embedded": 5, "failed": 1, "skipped": 0, "duplicates": 1}
    reconcile(printed_numbers(output.out))
    run = manifest_of(tmp_path)["run_id"]
    for said in (
        "column   embedding: a vector of 12 float32",
        f"output   {tmp_path}/out, run {run}",
        f"  failed               1   1 not_found   see failures/run_id={run}/part-00000.parquet",
    ):
        assert said in output.out.splitlines()
    assert output.out.startswith("model    MobileNetV2 at 32x32, weights random:1 sha256:")
    assert re.search(rf"^run {run} complete after \d+ s, [\d.]+ img/s$", output.out, re.MULTILINE)
    assert output.err == ""
    assert embed(tmp_path, tmp_path / "list.txt", "--run-id", "again") == 0
    again = capsys.readouterr().out
    assert printed_numbers(again) == {"read": 7, "embedded": 0, "failed": 1, "skipped": 5, "duplicates": 1}
    assert "5 already embedded" in again
    assert embed(tmp_path, tmp_path / "list.txt", "--run-id", "again") == 0
    assert "run r-again is published already; nothing was done" in capsys.readouterr().out


def test_a_job_that_fails_exits_with_1_and_one_line(tmp_path, fakes, capsys, monkeypatch):
    draw_pictures(tmp_path / "in", 3)

    def burst(*args: object) -> None:
        raise RuntimeError("first line\nthe disk is full")

    monkeypatch.setattr("beam_pipeline.stages.publish.publish", burst)
    assert embed(tmp_path, tmp_path / "in") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("beam-embed: the job failed: ")
    assert "the disk is full" in lines[0]
    assert lines[1] == "  --verbose shows where"


def test_a_dataset_that_is_in_use_or_damaged_exits_with_1(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 3)
    assert embed(tmp_path, tmp_path / "in") == 0
    (tmp_path / "out" / "_dataset.json").write_text("{")
    capsys.readouterr()
    assert embed(tmp_path, tmp_path / "in") == 1
    assert re.fullmatch(r"beam-embed: '.*/_dataset\.json' is damaged: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(("allowed", "code"), [("0.5", 0), ("0.4", 0), ("0.39", 3), ("0", 3)])
def test_more_failures_than_allowed_exit_with_3_and_are_published_all_the_same(tmp_path, fakes, allowed, code):
    paths = draw_pictures(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text("\n".join([*paths, "gone.png", "away.png"]))
    assert embed(tmp_path, tmp_path / "list.txt", "--max-failure-ratio", allowed) == code
    assert len(open_dataset(str(tmp_path / "out"))) == 3


def test_only_first_attempts_count_as_failures(tmp_path, fakes):
    [path] = draw_pictures(tmp_path / "in", 1)
    (tmp_path / "list.txt").write_text(f"{path}\ngone.png")
    assert [embed(tmp_path, tmp_path / "list.txt", "--max-failure-ratio", 0) for _ in range(2)] == [3, 0]
    assert manifest_of(tmp_path)["counts"]["failed"] == 1


def test_an_interrupt_in_the_job_is_known_however_deep_it_is_wrapped(tmp_path, fakes, capsys, monkeypatch):
    draw_pictures(tmp_path / "in", 3)

    def interrupted(self: FakeEngine, pixels: np.ndarray) -> None:
        raise KeyboardInterrupt

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(FakeEngine, "__call__", interrupted)
    monkeypatch.setattr(os, "_exit", leave)
    assert embed(tmp_path, tmp_path / "in") == 130
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].endswith("run the same command again to go on")
    assert output.err == ""


def test_an_interrupt_outside_the_job_exits_with_130(monkeypatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("beam_pipeline.cli.models.print", interrupted, raising=False)
    assert command("models") == 130


# Mistakes in the call: (arguments, what is said). IN is a folder with a picture, OUT does not exist yet.

MISTAKES = {
    "pattern": (["--input", "IN/*.tiff"], "the pattern 'IN/*.tiff' matches no file"),
    "missing list": (["--input", "IN/list.csv"], "there is no file or folder 'IN/list.csv'"),
    "no picture": (["--input", "IN/nothing.jpg"], "there is no file or folder 'IN/nothing.jpg'"),
    "empty input": (["--input", ""], "an --input is empty"),
    "missing column": (
        ["--input", "IN/data.csv", "--keep-columns", "lable"],
        "'IN/data.csv' has no column 'lable'; did you mean 'label'? It has: uri, label, number",
    ),
    "missing URI column": (
        ["--input", "IN/data.csv", "--uri-column", "url"],
        "'IN/data.csv' has no column 'url' (--uri-column names it); did you mean 'uri'? It has: uri, label, number",
    ),
    "missing id column": (
        ["--input", "IN/data.csv", "--id-column", "nummer"],
        "'IN/data.csv' has no column 'nummer'; did you mean 'number'? It has: uri, label, number",
    ),
    "columns of no list": (["--keep-columns", "label"], "'IN' is no list, so it has no columns to keep"),
    "column type": (
        ["--input", "IN/data.csv", "--keep-columns", "number:int65"],
        "unknown type 'int65' for column 'number'; known are int64, float64, bool, string, date32, timestamp[us] "
        "and the other names of pyarrow.type_for_alias",
    ),
    "column name": (
        ["--input", "IN/data.csv", "--keep-columns", "uri"],
        "a carried column cannot be called 'uri': the output has a column of that name",
    ),
    "no URIs": (["--input", "IN/empty.txt"], "the inputs hold no URIs at all: 'IN/empty.txt'"),
    "model": (
        ["--model", "Xeption"],
        "unknown model 'Xeption'; did you mean 'Xception' or 'InceptionV3'? 'beam-embed models' lists all 40",
    ),
    "model argument": (
        ["--model-arg", "aplha=0.5"],
        "MobileNetV2 takes no argument 'aplha'; did you mean 'alpha'? It takes: alpha, classes, classifier_activation",
    ),
    "model argument without value": (
        ["--model-arg", "alpha"],
        "argument --model-arg: expected KEY=VALUE, received 'alpha'; 'beam-embed embed --help' shows what there is",
    ),
    "size": (
        ["--target-size", "31"],
        "target_size 31x31 is too small for MobileNetV2: each side needs at least 32 pixels",
    ),
    "size text": (
        ["--target-size", "32X32"],
        "argument --target-size: expected pixels such as 224, or HEIGHTxWIDTH such as 180x320, received '32X32'; "
        "'beam-embed embed --help' shows what there is",
    ),
    "pooling": (
        ["--layer", "block_1_expand:mean"],
        "unknown pooling 'mean' for layer 'block_1_expand'; it is one of avg, max, none, flatten",
    ),
    "weights": (
        ["--weights", "imagnet"],
        "weights are 'imagenet', 'random:SEED' or a file ending in .weights.h5 or .h5, received 'imagnet'",
    ),
    "seed": (
        ["--weights", "random:x"],
        "expected random:SEED with a seed from 0 to 4294967295, received 'random:x'",
    ),
    "flag": (["--batchsize", "3"], "unknown option --batchsize; did you mean --batch-size?"),
    "flag of Beam": (
        ["--temp_locatoin", "/tmp"],
        "unknown option --temp_locatoin; did you mean 'temp_location' or 'template_location' or "
        "'profile_temp_location'? neither beam-embed nor Beam has it",
    ),
    "flag of nobody": (["--zzz"], "unknown option --zzz; neither beam-embed nor Beam has it"),
    "value of a flag of Beam": (
        ["--direct_num_workers", "many"],
        "Beam refuses its options: argument --direct_num_workers: invalid int value: 'many'",
    ),
    "pattern that the shell has expanded": (
        [__file__],
        f"unexpected argument {__file__!r}; quote a pattern, so that the shell leaves it alone",
    ),
    "stray argument": (["another.jpg"], "unexpected argument 'another.jpg'"),
    "stop-after": (
        ["--stop-after", "6 hours"],
        "argument --stop-after: expected a duration such as 90s, 30m or 6h, received '6 hours'; "
        "'beam-embed embed --help' shows what there is",
    ),
    "stop at once": (["--stop-after", "0"], "stop_after must be more than nothing, received 0.0 s"),
    "bytes": (
        ["--max-image-bytes", "1 GiB"],
        "argument --max-image-bytes: expected bytes such as 1000000 or 64MB, received '1 GiB'; "
        "'beam-embed embed --help' shows what there is",
    ),
    "no bytes": (["--max-image-bytes", "0"], "max_image_bytes must be at least 1, received 0"),
    "no batch": (["--batch-size", "0"], "batch_size must be at least 1, received 0"),
    "no limit": (["--limit", "0"], "limit must be at least 1, received 0"),
    "ratio": (["--max-failure-ratio", "50"], "max_failure_ratio lies between 0 and 1, received 50.0"),
    "run id": (
        ["--run-id", "../x"],
        "a run id has up to 100 letters, digits, '.', '_' and '-', and begins with a letter or digit; "
        "received '../x'",
    ),
    "store": (
        ["--input", "nosuch://x/*.jpg"],
        "unknown scheme 'nosuch'; fsspec knows no such file system",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_call_is_one_line_and_leaves_nothing_behind(tmp_path, fakes, capsys, mistake):
    source = tmp_path / "in"
    [path] = draw_pictures(source, 1)
    (source / "data.csv").write_text(f"uri,label,number\n{path},a,1\n")
    (source / "empty.txt").write_text("\n\n")
    given, message = MISTAKES[mistake]
    given = [text.replace("IN", str(source)) if text.startswith("IN") else text for text in given]
    first = [] if "--input" in given else ["--input", source]
    assert command("embed", *first, "--output", tmp_path / "out", *MODEL, *given) == 2
    output = capsys.readouterr()
    assert output.err == f"beam-embed: {message}\n".replace("'IN", f"'{source}")
    assert output.out == ""
    assert not (tmp_path / "out").exists()
    assert not fakes, "no model is loaded"


def test_an_unknown_runner_is_a_mistake_in_the_call(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 1)
    assert embed(tmp_path, tmp_path / "in", "--runner", "NoSuchRunner") == 2
    assert capsys.readouterr().err.startswith("beam-embed: the runner 'NoSuchRunner' cannot be used: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner", "direct", "fnapirunner"])
def test_the_runner_of_this_process_has_several_names(tmp_path, fakes, runner):
    draw_pictures(tmp_path / "in", 1)
    assert embed(tmp_path, tmp_path / "in", "--runner", runner, "--direct_num_workers", "1") == 0


def test_flags_that_are_missing_are_named(capsys):
    assert command("embed") == 2
    assert capsys.readouterr().err == (
        "beam-embed: the following arguments are required: --input, --output, --model; "
        "'beam-embed embed --help' shows what there is\n"
    )


@pytest.mark.parametrize("argv", [["embd"], [], ["models", "--jsn"], ["files"]])
def test_a_mistake_outside_of_embed_is_one_line_too(argv, capsys):
    assert command(*argv) == 2
    assert re.fullmatch(r"beam-embed: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_is_a_file_is_refused(tmp_path, fakes, capsys, output):
    draw_pictures(tmp_path / "in", 1)
    (tmp_path / "file").write_text("mine")
    assert command("embed", "--input", tmp_path / "in", "--output", tmp_path / output, *MODEL) == 2
    assert capsys.readouterr().err == (
        f"beam-embed: the output '{tmp_path / output}' cannot be written: '{tmp_path / 'file'}' is a file\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_may_not_be_written_is_refused(tmp_path, fakes, capsys, monkeypatch):
    draw_pictures(tmp_path / "in", 1)
    (tmp_path / "locked").mkdir()
    # Not by the folder's mode: tests are run by root too, who may write anywhere.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    assert command("embed", "--input", tmp_path / "in", "--output", tmp_path / "locked/out", *MODEL) == 2
    assert capsys.readouterr().err == (
        f"beam-embed: the output '{tmp_path / 'locked/out'}' cannot be written: "
        f"no permission to write to '{tmp_path / 'locked'}'\n"
    )
    assert list((tmp_path / "locked").iterdir()) == []


def test_an_output_on_a_full_disk_is_refused(tmp_path, fakes, capsys, monkeypatch):
    draw_pictures(tmp_path / "in", 1)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "makedirs", full)
    assert embed(tmp_path, tmp_path / "in") == 2
    assert capsys.readouterr().err.endswith("cannot be written: No space left on device\n")


def test_another_spec_for_a_dataset_is_a_mistake_that_names_the_differences(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 1)
    assert embed(tmp_path, tmp_path / "in") == 0
    capsys.readouterr()
    assert embed(tmp_path, tmp_path / "in", "--normalize") == 2
    assert "  spec.normalize: the dataset has false, this call true\n" in capsys.readouterr().err


# Bad pictures


def bad_pictures(folder: Path) -> dict[str, str | None]:
    """URIs as a list may name them -> the kind of failure, None for a picture that is embedded."""
    good = Path(draw_pictures(folder, 1)[0]).read_bytes()
    large = folder / "pixels.png"
    Image.new("L", (300, 300)).save(large)
    (folder / "folder.jpg").mkdir()
    files = {
        "empty.jpg": b"",
        "text.jpg": b"by no means a picture",
        "torn.png": good[: len(good) // 2],
        "bytes.png": good + b"\0" * 5000,
        "with space.png": good,
        "100%.png": good,
        "a%20b.png": good,
        "num#ber.png": good,
        "früh-早い-🙂.png": good,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    buffer = folder / "whole.jpg"
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer)
    (folder / "torn.jpg").write_bytes(buffer.read_bytes()[:1000])
    return {
        "p0000.png": None,
        "missing.png": "not_found",
        "folder.jpg": "is_a_folder",
        "empty.jpg": "empty",
        "text.jpg": "not_an_image",
        "torn.png": "corrupt",
        "torn.jpg": "corrupt",
        "bytes.png": "too_many_bytes",
        "pixels.png": "too_many_pixels",
        "nosuch://x/y.jpg": "unknown_scheme",
        "with space.png": None,
        "100%.png": None,
        "a%20b.png": None,
        "num#ber.png": None,
        "früh-早い-🙂.png": None,
    }


def as_csv(path: Path, uris: list[str | None]) -> Path:
    path.with_suffix(".csv").write_text("uri,number\n" + "".join(f"{uri or ''},{n}\n" for n, uri in enumerate(uris)))
    return path.with_suffix(".csv")


def as_jsonl(path: Path, uris: list[str | None]) -> Path:
    rows = [json.dumps({"uri": uri, "number": number}) for number, uri in enumerate(uris)]
    path.with_suffix(".jsonl").write_text("\n".join(rows))
    return path.with_suffix(".jsonl")


def as_parquet(path: Path, uris: list[str | None]) -> Path:
    table = pa.table({"uri": pa.array(uris, pa.string()), "number": range(len(uris))})
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
def test_each_bad_picture_is_one_failure_row_with_its_own_kind(tmp_path, fakes, capsys, write):
    kinds = bad_pictures(tmp_path / "in")
    uris = [*kinds, None, *["p0000.png"] * 99]
    listing = write(tmp_path / "in" / "list", uris)
    limits = ["--max-image-bytes", "5000", "--max-pixels", "80000", "--images-per-shard", "6"]
    code = embed(tmp_path, listing, *limits, "--keep-columns", "number:int64", "--max-failure-ratio", "1")
    assert code == 0
    numbers = printed_numbers(capsys.readouterr().out)
    assert numbers == {"read": 115, "embedded": 6, "failed": 10, "skipped": 0, "duplicates": 99}
    reconcile(numbers)
    assert manifest_of(tmp_path)["counts"] == numbers | {"conflicting": 99}
    stored = {"nosuch://x/y.jpg": "nosuch://x/y.jpg", None: None}
    place = {stored.get(uri, str(tmp_path / "in" / str(uri))): (n, kind) for n, (uri, kind) in enumerate(kinds.items())}
    dataset = open_dataset(str(tmp_path / "out"))
    rows = dataset.to_arrow().to_table(columns=["uri", "number"]).to_pylist()
    assert {row["uri"]: row["number"] for row in rows} == {u: n for u, (n, kind) in place.items() if kind is None}
    assert len(rows) == 6
    failures = dataset.failures().to_pylist()
    assert sorted((one["number"], one["uri"], one["kind"]) for one in failures) == sorted(
        [(n, uri, kind) for uri, (n, kind) in place.items() if kind is not None] + [(len(kinds), None, "no_uri")]
    )


def test_messages_of_failures_name_the_limit(tmp_path, fakes):
    [path] = draw_pictures(tmp_path / "in", 1)
    size = Path(path).stat().st_size
    assert embed(tmp_path, path, "--max-image-bytes", size, "--max-pixels", 40 * 36) == 0
    for number, (flag, limit, message) in enumerate(
        [
            ("--max-image-bytes", size - 1, f"{size} bytes are more than max_image_bytes={size - 1}"),
            ("--max-pixels", 40 * 36 - 1, "40x36 pixels are more than max_pixels=1439"),
        ]
    ):
        output = tmp_path / str(number)
        assert command("embed", "--input", path, "--output", output, *MODEL, flag, limit) == 3
        assert open_dataset(str(output)).failures()["message"].to_pylist() == [message]


# What is shown


def test_without_a_terminal_plain_lines_tell_how_far_it_is(tmp_path, fakes, capsys, monkeypatch):
    draw_pictures(tmp_path / "in", 8)
    monkeypatch.setattr(display, "PLAIN_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(display, "LOOK_EVERY_S", 0.001)
    shown = threading.Event()
    line, run = display._Meter.line, FakeEngine.__call__

    def noted(self: Any) -> str:
        text = line(self)
        shown.set()
        return text

    def waiting(self: FakeEngine, pixels: np.ndarray) -> dict[str, np.ndarray]:
        assert shown.wait(60)  # the model is not done before a line has been made
        return run(self, pixels)

    monkeypatch.setattr(display._Meter, "line", noted)
    monkeypatch.setattr(FakeEngine, "__call__", waiting)
    assert embed(tmp_path, tmp_path / "in") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "input    8 rows, 8 new pictures in 1 shard, about 349 B on disk" in lines
    assert "0/8 done, 0 failed, 0 skipped, 0.0 img/s, unknown left" in lines
    assert not [line for line in lines if "\x1b" in line], "no control characters in a log file"


def test_float16_is_said_to_be_unreadable_for_spark(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 1)
    assert embed(tmp_path, tmp_path / "in", "--dtype", "float16") == 0
    assert "note     no Spark can read float16 columns; DuckDB, Polars and pyarrow can" in capsys.readouterr().out


def test_nothing_new_is_said(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 2)
    for _ in range(2):
        assert embed(tmp_path, tmp_path / "in") == 0
    assert "input    2 rows, nothing new to embed" in capsys.readouterr().out.splitlines()


# The other subcommands


def test_models_lists_all_40(capsys):
    assert command("models") == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[1 : lines.index("")]
    assert [line.split()[0] for line in table] == list(APPLICATIONS)
    assert len(table) == 40
    assert "ResNet50" in {line.split()[0] for line in table}
    assert next(line for line in table if line.startswith("VGG19 ")).split() == [
        "VGG19", "224", "32", "512", "20,024,384", "143,667,240", "caffe",
    ]  # fmt: skip


def test_models_as_json_is_the_table(capsys):
    assert command("models", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 40
    assert rows[0]["name"] == "ConvNeXtTiny"
    assert {row["name"]: row["vector_size"] for row in rows} == {n: app.vector_size for n, app in APPLICATIONS.items()}


def test_files_lists_the_published_parts_that_have_rows(tmp_path, fakes, capsys):
    draw_pictures(tmp_path / "in", 9)
    assert embed(tmp_path, tmp_path / "in", "--images-per-shard", 3, "--run-id", "one") == 0
    (tmp_path / "out/embeddings/run_id=r-two").mkdir()
    (tmp_path / "out/embeddings/run_id=r-two/part-00000-of-00001.parquet").write_bytes(b"not published")
    capsys.readouterr()
    assert command("files", tmp_path / "out") == 0
    paths = capsys.readouterr().out.splitlines()
    assert paths == sorted(str(path) for path in (tmp_path / "out/embeddings/run_id=r-one").glob("*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in paths) == 9
    assert command("files", tmp_path / "in") == 1
    expected = f"beam-embed: there is no dataset at '{tmp_path / 'in'}': it has no _dataset.json\n"
    assert capsys.readouterr().err == expected


def test_the_version_is_told(capsys):
    assert command("--version") == 0
    assert re.fullmatch(r"beam-embed \d+\.\d+\.\d+\n", capsys.readouterr().out)


# Texts -> values


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.pair, "alpha=0.25", ("alpha", 0.25)),
        (values.pair, "a=1", ("a", 1)),
        (values.pair, "a=true", ("a", True)),
        (values.pair, "a=False", ("a", False)),
        (values.pair, "a=none", ("a", None)),
        (values.pair, "a=", ("a", "")),
        (values.pair, "a=b=c", ("a", "b=c")),
        (values.pair, "s3.key=AKIA/x+", ("s3.key", "AKIA/x+")),
        (values.pair, "a='1'", ("a", "1")),
        (values.size, "224", (224, 224)),
        (values.size, "180x320", (180, 320)),
        (values.size, "180,320", (180, 320)),
        (values.duration, "90", 90.0),
        (values.duration, "90s", 90.0),
        (values.duration, "1.5m", 90.0),
        (values.duration, "6h", 21600.0),
        (values.byte_count, "1000000", 1_000_000),
        (values.byte_count, "64MB", 64_000_000),
        (values.byte_count, "1kb", 1000),
        (values.byte_count, "2GB", 2_000_000_000),
        (values.names, "id,label", ["id", "label"]),
        (values.names, " id:int64 , ,label,", ["id:int64", "label"]),
        (values.names, "", []),
    ],
)
def test_texts_become_values(parse, text, value):
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.pair, "alpha"),
        (values.pair, "=1"),
        (values.pair, ""),
        (values.size, "224x"),
        (values.size, "-1"),
        (values.size, "1.5"),
        (values.size, "1x2x3"),
        (values.size, ""),
        (values.duration, "1d"),
        (values.duration, "-1s"),
        (values.duration, "s"),
        (values.duration, "1h30m"),
        (values.byte_count, "64 MB"),
        (values.byte_count, "1.5GB"),
        (values.byte_count, "MB"),
        (values.byte_count, "-1"),
    ],
)
def test_texts_that_mean_nothing_are_refused_as_received(parse, text):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        parse(text)
    assert str(raised.value).endswith(f"received {text!r}")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (15_500_000, "15.5 MB"), (2.5e9, "2.5 GB"), (8.2e13, "82 TB")],
)
def test_bytes_are_told_to_a_person(count, text):
    assert values.human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99.4, "99 s"), (100, "1 min"), (5999, "99 min"), (6000, "1 h 40 min")]
)
def test_times_are_told_to_a_person(seconds, text):
    assert values.human_time(seconds) == text


# With the real Keras


REAL = ["--model", "MobileNetV2", "--weights", "random:1", "--target-size", "32"]


def refused(folder: Path, *flags: object) -> int:
    draw_pictures(folder / "in", 1)
    code = command("embed", "--input", folder / "in", "--output", folder / "out", *REAL, *flags)
    assert not (folder / "out").exists()
    return code


def test_an_unknown_layer_is_a_mistake_with_the_nearest_names(tmp_path, capsys):
    assert refused(tmp_path, "--layer", "block_1_expnd") == 2
    assert re.fullmatch(
        r"beam-embed: unknown layer 'block_1_expnd' in MobileNetV2; did you mean 'block_1_expand'[^?]*\? "
        r"'beam-embed layers --model MobileNetV2' lists them all\n",
        capsys.readouterr().err,
    )


def test_a_weights_file_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert refused(tmp_path, "--weights", tmp_path / "gone.h5") == 2
    assert capsys.readouterr().err == f"beam-embed: there is no weights file '{tmp_path / 'gone.h5'}'\n"


@pytest.mark.slow
def test_weights_that_are_broken_or_of_another_model_are_mistakes(tmp_path, capsys):
    (tmp_path / "broken.h5").write_bytes(b"not HDF5")
    assert refused(tmp_path, "--weights", tmp_path / "broken.h5") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"beam-embed: the weights file '{tmp_path / 'broken.h5'}' is corrupt or truncated: ")
    import keras

    other = keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25, input_shape=(32, 32, 3))
    other.save_weights(tmp_path / "other.weights.h5")
    assert refused(tmp_path, "--weights", tmp_path / "other.weights.h5") == 2
    assert capsys.readouterr().err == (
        f"beam-embed: the weights '{tmp_path / 'other.weights.h5'}' do not fit MobileNetV2: they hold "
        f"{len(other.weights)} arrays; the model has 260 without the top and 262 with it\n"
    )


def test_layers_lists_what_layer_can_ask_for(capsys):
    assert command("layers", "--model", "VGG19") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[1 : lines.index("")]]
    assert len(rows) == 22 + 1  # the input, 21 layers, and the pooling that gives the column `embedding`
    assert rows[1] == ["1", "block1_conv1", "Conv2D", "224x224x64", "12,845,056"]
    assert rows[21] == ["21", "block5_pool", "MaxPooling2D", "7x7x512", "100,352"]
    assert lines[-1].startswith("VGG19 at 224x224; ")
    assert command("layers", "--model", "VGG19", "--target-size", "64x96", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found[21] == {
        "index": 21, "name": "block5_pool", "type": "MaxPooling2D", "shape": [2, 3, 512], "bytes": 12288,
    }  # fmt: skip


@pytest.mark.parametrize("layers", [["--layer", "-2:avg", "--layer", "-1"], ["--layer=-2:avg", "--layer=-1"]])
def test_a_layer_is_counted_from_the_end_as_it_is_typed(layers, monkeypatch):
    monkeypatch.setattr(embed_command, "run", lambda args: asked.extend(args.layer) or 0)
    asked: list[str] = []
    assert main(["embed", "--input", "a", "--output", "b", "--model", "VGG16", *layers]) == 0
    assert asked == ["-2:avg", "-1"]


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (1200, "1,200 rows")])
def test_things_are_counted_in_words(count, text):
    assert values.human_count(count, "row") == text


def test_a_published_run_id_exits_with_0_whatever_the_run_was_like(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    monkeypatch.setattr(quiet, "import_tensorflow", lambda: None)
    (tmp_path / "list.txt").write_text("/gone.png")
    assert [embed(tmp_path, tmp_path / "list.txt", "--run-id", "night") for _ in range(2)] == [3, 0]
