"""Every kind of input gives its references in order, with what they carry, and a bad row costs itself alone."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gzip
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import columns, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.inputs import Source, check_sources, expand, parse_source, read
from beam_pipeline.lists import Columns, list_kind
from beam_pipeline.references import NO_URI, CarriedColumn, ImageReference, from_transit
from beam_pipeline.storage import Storage

STORAGE = Storage()


def checked(*texts: object, uri: str = "uri", keep: tuple[str, ...] = (), identity: str | None = None):
    """What the launcher makes of `--input`, `--uri-column`, `--keep-columns` and `--id-column`."""
    return check_sources([str(text) for text in texts], Columns(uri, columns(*keep), identity), STORAGE)


def references(*texts: object, **wanted: object) -> list[ImageReference]:
    """Checks the inputs and reads them all."""
    sources, settled = checked(*texts, **wanted)
    expanded = [one for source in sources for one in expand(source, STORAGE)]
    return [reference for source in expanded for reference in read(source, settled, STORAGE)]


def uris(*texts: object, **wanted: object) -> list[str | None]:
    return [reference.uri for reference in references(*texts, **wanted)]


def rows(*texts: object, **wanted: object) -> list[tuple]:
    """URI, carried values and problem of each row."""
    return [(found.uri, found.carried, found.problem) for found in references(*texts, **wanted)]


def carried_column(path: object, *keep: str) -> pa.Array:
    """The first carried column as it will be written."""
    sources, settled = checked(path, keep=keep)
    values = [found.carried[0] for found in read(sources[0], settled, STORAGE)]
    return from_transit(values, settled.carried[0].type)


def refused(*texts: object, **wanted: object) -> str:
    with pytest.raises(ConfigurationError) as raised:
        checked(*texts, **wanted)
    return str(raised.value)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_list(path: Path, content: str | bytes) -> Path:
    """A list as it stands, compressed where its name says so."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)
    return path


# Pictures named directly


TREE = ["a.png", "b/c.jpg", "b/d/e.png", "b/f.png", ".g.png", ".h/i.png", "b/.j.png"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "b/d/e.png", "b/f.png"]),
        ("**", ["a.png", "b/c.jpg", "b/d/e.png", "b/f.png"]),
        ("b/*", ["b/c.jpg", "b/f.png"]),
        ("b/**/e.*", ["b/d/e.png"]),
        ("b/[cf].*", ["b/c.jpg", "b/f.png"]),
        (".*.png", [".g.png"]),
    ],
)
def test_a_pattern_stands_for_the_pictures_that_it_matches(tmp_path, pattern, names):
    touch(tmp_path, *TREE)
    assert uris(tmp_path / pattern) == [str(tmp_path / name) for name in names]


def test_a_folder_stands_for_every_file_under_it_but_hidden_ones(tmp_path):
    touch(tmp_path, *TREE)
    expected = sorted(str(tmp_path / name) for name in ("a.png", "b/c.jpg", "b/d/e.png", "b/f.png"))
    assert sorted(uris(tmp_path)) == expected
    assert sorted(uris(f"{tmp_path}/")) == expected
    assert sorted(uris(f"file://{tmp_path}")) == expected


def test_a_single_picture_stands_for_itself_whatever_its_name(tmp_path):
    names = ["a.png", "b.unknown", "with space.png", "100%.png", "a%20b.png", "num#ber.png", "q?*[x].png", "früh.png"]
    touch(tmp_path, *names)
    for name in names:
        assert references(tmp_path / name) == [
            ImageReference(str(tmp_path / name), (0, 0, 0), identity=str(tmp_path / name))
        ]


def test_a_picture_may_be_named_relative_to_the_working_directory(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.png")
    monkeypatch.chdir(tmp_path)
    for text in ("in/a.png", "./in/a.png", "in/*.png", "in", "in/../in/a.png"):
        assert uris(text) == [str(tmp_path / "in/a.png")]


def test_positions_count_inputs_files_and_rows(tmp_path):
    touch(tmp_path, "in/a.png", "in/b.png")
    write_list(tmp_path / "one.txt", "x\ny\n")
    write_list(tmp_path / "lists/1.txt", "p\n")
    write_list(tmp_path / "lists/2.txt", "q\nr\n")
    found = references(tmp_path / "in", tmp_path / "one.txt", tmp_path / "lists/*.txt")
    assert [(Path(one.uri).name, one.position) for one in found] == [
        ("a.png", (0, 0, 0)), ("b.png", (0, 0, 1)), ("x", (1, 0, 0)), ("y", (1, 0, 1)),
        ("p", (2, 0, 0)), ("q", (2, 1, 0)), ("r", (2, 1, 1)),
    ]  # fmt: skip


def test_a_file_name_that_is_not_utf8_is_a_row_with_a_problem(tmp_path):
    (tmp_path / "in").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    touch(tmp_path, "in/a.png")
    stored = str(tmp_path / "in") + "/\\udcff.png"
    for text in (tmp_path / "in", tmp_path / "in/*.png"):
        assert rows(text) == [
            (str(tmp_path / "in/a.png"), (), None),
            (stored, (), "not UTF-8: the name cannot be stored"),
        ]


# Lists


def csv_of(pairs: list[tuple[str, str]]) -> str:
    return "uri,label\n" + "".join(f"{uri},{label}\n" for uri, label in pairs)


def jsonl_of(pairs: list[tuple[str, str]]) -> str:
    return "".join(json.dumps({"uri": uri, "label": label}) + "\n" for uri, label in pairs)


def text_of(pairs: list[tuple[str, str]]) -> str:
    return "".join(f"{uri}\n" for uri, _ in pairs)


PAIRS = [("a.png", "cat"), ("/abs/b.png", "dog"), ("s3://bucket/c d%20#.png", ""), ("früh/早い.png", "früh")]
WRITERS = {"csv": csv_of, "jsonl": jsonl_of, "ndjson": jsonl_of, "txt": text_of}
NAMES = [f"list.{kind}{zipped}" for kind in WRITERS for zipped in ("", ".gz")] + ["LIST.CSV", "List.Txt.GZ"]


def writer_of(name: str):
    return WRITERS[name.lower().removesuffix(".gz").rpartition(".")[2]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_list_names_pictures_relative_to_itself(tmp_path, name, ending, bom):
    text = bom + writer_of(name)(PAIRS).replace("\n", ending)
    path = write_list(tmp_path / "deep" / name, text)
    expected = [
        str(tmp_path / "deep/a.png"), "/abs/b.png", "s3://bucket/c d%20#.png", str(tmp_path / "deep/früh/早い.png"),
    ]  # fmt: skip
    assert uris(path) == expected
    assert uris(write_list(tmp_path / "deep" / name, text.rstrip("\r\n"))) == expected
    if "txt" not in name.lower():
        assert [found.carried for found in references(path, keep=("label",))] == [(label,) for _, label in PAIRS]


@pytest.mark.parametrize("folder", ["", "/deep"])
@pytest.mark.parametrize("name", [*NAMES, "list.parquet"])
def test_a_remote_list_names_pictures_relative_to_itself(tmp_path, name, folder):
    base = f"memory:///{uuid.uuid4().hex}{folder}"
    pairs = [*PAIRS, ("./e.png", "x"), ("../f.png", "y")]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"uri": [uri for uri, _ in pairs]}), tmp_path / name)
    else:
        write_list(tmp_path / name, writer_of(name)(pairs))
    STORAGE.create(f"{base}/{name}", (tmp_path / name).read_bytes())
    expected = [
        f"{base}/a.png", "/abs/b.png", "s3://bucket/c d%20#.png", f"{base}/früh/早い.png", f"{base}/e.png",
        f"{base.rpartition('/')[0]}/f.png",
    ]  # fmt: skip
    assert uris(f"{base}/{name}") == expected
    assert uris(f"{base}/*{name[4:]}") == expected
    STORAGE.delete_folder(base)


def test_a_list_at_the_root_of_a_store_names_pictures_beside_it():
    name = f"{uuid.uuid4().hex}.txt"
    STORAGE.create(f"memory://{name}", b"a.png\n")
    assert uris(f"memory://{name}") == uris(f"memory:///{name}") == ["memory:///a.png"]
    STORAGE.delete(f"memory://{name}")


def test_a_pattern_of_lists_stands_for_their_rows(tmp_path):
    write_list(tmp_path / "b.csv", csv_of([("1.png", "x")]))
    write_list(tmp_path / "a.csv", csv_of([("2.png", "y"), ("3.png", "z")]))
    write_list(tmp_path / "deep/c.csv", csv_of([("4.png", "w")]))
    touch(tmp_path, "d.png")
    expected = [str(tmp_path / name) for name in ("2.png", "3.png", "1.png", "deep/4.png")]
    found = references(tmp_path / "**/*.csv", keep=("label",))
    assert [one.uri for one in found] == expected
    assert [one.carried for one in found] == [("y",), ("z",), ("x",), ("w",)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("a.ndjson.gz", "jsonl"),
        ("a.PARQUET", "parquet"),
        ("a.png", None),
        ("csv", None),
        ("a.gz", None),
    ],
)
def test_a_name_promises_a_kind_of_list(name, kind):
    assert list_kind(f"s3://bucket/{name}") == kind
    assert Source(name, (0, 0), kind or "image").is_list is (kind is not None)


def test_blank_lines_are_no_rows(tmp_path):
    assert len(uris(write_list(tmp_path / "a.txt", "\n\na.png\n  \n\r\nb.png\n\n"))) == 2
    assert len(uris(write_list(tmp_path / "a.csv", "uri\n\na.png\n\n"))) == 1
    assert len(uris(write_list(tmp_path / "a.jsonl", '\n{"uri": "a"}\n\n'))) == 1


def test_a_line_of_text_is_a_uri_as_it_stands(tmp_path):
    lines = [
        " leading.png",
        "trailing.png ",
        "a,b.png",
        '"quoted".png',
        "tab\t.png",
        "form\x0cfeed.png",
        "sep\u2028.png",
    ]
    path = write_list(tmp_path / "a.txt", "\n".join(lines))
    assert uris(path) == [f"{tmp_path}/{line}" for line in lines]


def test_a_csv_field_may_hold_commas_quotes_and_lines(tmp_path):
    path = write_list(tmp_path / "a.csv", 'label,uri\n"a ""b"", c\nd","/x,y.png"\n')
    assert rows(path, keep=("label",)) == [("/x,y.png", ('a "b", c\nd',), None)]


def test_a_field_of_any_length_is_read(tmp_path):
    # A signed URL with a policy can be longer than what the csv module takes by itself.
    long = "https://h/a.png?sig=" + "x" * 200_000
    assert uris(write_list(tmp_path / "a.csv", f"uri,id\n{long},1\n")) == [long]
    assert uris(write_list(tmp_path / "b.csv", f"uri,{long}\na,b\n")) == [str(tmp_path / "a")]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_uri_column_may_have_another_name(tmp_path, name):
    path = tmp_path / name
    table = {"path": ["/a.png", "/b.png"], "uri": ["x", "y"]}
    if name == "a.parquet":
        pq.write_table(pa.table(table), path)
    elif name == "a.csv":
        write_list(path, "path,uri\n/a.png,x\n/b.png,y\n")
    else:
        write_list(path, '{"path": "/a.png", "uri": "x"}\n{"path": "/b.png", "uri": "y"}\n')
    assert uris(path, uri="path") == ["/a.png", "/b.png"]


# Rows that cannot be used


def test_a_row_without_uri_is_a_problem_of_that_row(tmp_path):
    csv = write_list(tmp_path / "a.csv", "uri,id\n,1\n/a.png,2\n")
    assert rows(csv, keep=("id",)) == [(None, ("1",), NO_URI), ("/a.png", ("2",), None)]
    lines = write_list(tmp_path / "a.jsonl", '{"id": 1}\n{"uri": null, "id": 2}\n{"uri": "", "id": 3}\n{"uri": "/a"}\n')
    assert rows(lines, keep=("id",)) == [
        (None, ("1",), NO_URI), (None, ("2",), NO_URI), (None, ("3",), NO_URI), ("/a", (None,), None),
    ]  # fmt: skip
    pq.write_table(pa.table({"uri": [None, "", "/a"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet", keep=("id",)) == [
        (None, (1,), NO_URI),
        (None, (2,), NO_URI),
        ("/a", (3,), None),
    ]
    assert [found.identity for found in references(csv)] == [None, "/a.png"]


NOT_UTF8 = "not UTF-8: the name cannot be stored"


@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_bytes_that_are_not_utf8_spoil_their_own_row(tmp_path, zipped):
    text = write_list(tmp_path / f"a.txt{zipped}", b"/a.png\n/\xff.png\n/b.png\n")
    assert rows(text) == [("/a.png", (), None), ("/\\udcff.png", (), NOT_UTF8), ("/b.png", (), None)]
    csv = write_list(tmp_path / f"a.csv{zipped}", b"uri,l\n/a,x\n/\xff,y\n/b,\xe9\n/c,z\n")
    assert rows(csv, keep=("l",)) == [
        ("/a", ("x",), None), ("/\\udcff", ("y",), NOT_UTF8), ("/b", (None,), "column 'l' is not UTF-8"),
        ("/c", ("z",), None),
    ]  # fmt: skip
    lines = write_list(tmp_path / f"a.jsonl{zipped}", b'{"uri": "/\xff"}\n{"uri": "/\\ud800"}\n{"uri": "/a"}\n')
    assert rows(lines) == [("/\\udcff", (), NOT_UTF8), ("/\\ud800", (), NOT_UTF8), ("/a", (), None)]


def test_text_in_parquet_that_is_not_utf8_spoils_its_own_row(tmp_path):
    held = pa.array([b"/a", b"/\xff", None, b"/b"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(held), held.buffers())  # as some writers leave it: unchecked
    pq.write_table(pa.table({"uri": text, "id": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    expected = [("/a", (1,), None), ("/\\udcff", (2,), NOT_UTF8), (None, (3,), NO_URI), ("/b", (4,), None)]
    assert rows(tmp_path / "a.parquet", keep=("id",)) == expected
    pq.write_table(pa.table({"uri": ["/w", "/x", "/y", "/z"], "l": text}), tmp_path / "b.parquet")
    found = references(tmp_path / "b.parquet", keep=("l",))
    assert [one.carried for one in found] == [("/a",), (None,), (None,), ("/b",)]
    assert [one.problem is None for one in found] == [True, False, True, True]
    assert found[1].problem.startswith("column 'l': 'utf-8' codec can't decode byte 0xff")


def test_a_csv_row_of_the_wrong_length_is_a_problem_of_that_row(tmp_path):
    path = write_list(tmp_path / "a.csv", "uri,id\n/a\n/b,1\n/c,2,3\n")
    assert rows(path, keep=("id",)) == [
        (None, (None,), "expected 2 fields, found 1"),
        ("/b", ("1",), None),
        (None, (None,), "expected 2 fields, found 3"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "not a line of JSON: Expecting value"),
        ('{"uri": "/a"', "not a line of JSON: Expecting ',' delimiter"),
        ("[1]", "expected a JSON object, found list"),
        ('"/a.png"', "expected a JSON object, found str"),
        ("null", "expected a JSON object, found NoneType"),
        ('{"uri": 5}', "expected 'uri' to be text, found int"),
        ('{"uri": ["/a"]}', "expected 'uri' to be text, found list"),
        ("[" * 100_000, "not a line of JSON: maximum recursion depth"),
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_that_is_no_json_object_is_a_problem_of_that_row_wherever_it_stands(tmp_path, line, problem, first):
    good = '{"uri": "/good", "id": 1}'
    path = write_list(tmp_path / "a.jsonl", "\n".join([line, good] if first else [good, line]))
    found = references(path, keep=("id",))
    bad, fine = found if first else reversed(found)
    assert (fine.uri, fine.carried, fine.problem) == ("/good", ("1",), None)
    assert (bad.uri, bad.carried) == (None, (None,))
    assert bad.problem.startswith(problem)


def test_a_json_line_may_lack_what_is_null_in_it(tmp_path):
    path = write_list(
        tmp_path / "a.jsonl", '{"uri": "/a"}\n{"uri": "/b", "label": "x"}\n{"uri": "/c", "label": null}\n'
    )
    assert rows(path, keep=("label",)) == [("/a", (None,), None), ("/b", ("x",), None), ("/c", (None,), None)]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["txt", "csv", "jsonl"]))
def test_whatever_bytes_a_list_holds_are_rows_or_a_mistake_and_nothing_else(tmp_path, content, kind):
    head = {"txt": b"/x\n", "csv": b"uri,id\n/x,1\n", "jsonl": b'{"uri": "/x", "id": 1}\n'}[kind]
    path = write_list(tmp_path / f"a.{kind}", head + content)
    if kind == "csv" and b'"' in content:  # a stray quote spoils the whole list
        with contextlib.suppress(ConfigurationError):
            references(path, keep=("id:int64",))
        return
    found = references(path, keep=() if kind == "txt" else ("id:int64",))
    assert found[0].uri == "/x"
    for reference in found:
        assert ImageReference.unpack(reference.pack()) == reference
        assert len(reference.carried) == (kind != "txt")
        assert (reference.uri is None) <= (reference.problem is not None)
        pa.array([reference.uri, reference.identity, reference.problem], pa.string())


# Carried columns


def test_columns_are_carried_in_the_order_in_which_they_were_asked_for(tmp_path):
    path = write_list(tmp_path / "a.csv", "a,uri,b,c\n1,/x,2,3\n")
    assert rows(path, keep=("c", "a")) == [("/x", ("3", "1"), None)]


def test_csv_and_json_values_are_text_unless_a_type_is_asked_for(tmp_path):
    csv = write_list(tmp_path / "a.csv", "uri,id,when,ok\n/x,007,2026-11-23,true\n/y,,,\n")
    sources, settled = checked(csv, keep=("id", "when:date32", "ok:bool"))
    assert settled.carried == columns("id:string", "when:date32", "ok:bool")
    days = (datetime.date(2026, 11, 23) - datetime.date(1970, 1, 1)).days
    assert [one.carried for one in read(sources[0], settled, STORAGE)] == [("007", days, True), ("", None, None)]
    lines = write_list(
        tmp_path / "a.jsonl", '{"uri": "/x", "v": 7}\n{"uri": "/y", "v": {"b": [1, "ü"]}}\n{"uri": "/z", "v": null}\n'
    )
    assert [one.carried[0] for one in references(lines, keep=("v",))] == ["7", '{"b": [1, "ü"]}', None]


TYPED = pa.table(
    {
        "uri": ["/a", "/b"],
        "nanoseconds": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
        "zoned": pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        "decimal": pa.array([decimal.Decimal("1.20"), None], pa.decimal128(10, 2)),
        "list": pa.array([[1, None], None], pa.list_(pa.int64())),
        "times": pa.array([[1], None], pa.list_(pa.timestamp("ns"))),
        "struct": pa.array([{"a": 1}, None], pa.struct([pa.field("a", pa.int8())])),
        "bytes": pa.array([b"\xff", None], pa.binary()),
        "day": pa.array([20_000, None], pa.date32()),
        "time": pa.array([86_399_999_999_999, None], pa.time64("ns")),
        "duration": pa.array([5, None], pa.duration("ns")),
        "flag": pa.array([True, None], pa.bool_()),
        "large": pa.array([2**64 - 1, None], pa.uint64()),
        "text": pa.array(["früh", None], pa.large_string()),
        "nothing": pa.array([None, None], pa.null()),
    }
)


@pytest.mark.parametrize("name", TYPED.column_names[1:])
def test_values_of_a_parquet_list_keep_their_types_and_every_digit(tmp_path, name):
    pq.write_table(TYPED, tmp_path / "a.parquet")
    stored = pq.read_table(tmp_path / "a.parquet")[name].combine_chunks()
    found = carried_column(tmp_path / "a.parquet", name)
    assert found.type == stored.type
    assert found.equals(stored)


def test_categories_are_carried_as_the_values_that_they_stand_for(tmp_path):
    labels = pa.array(["cat", "dog", None, "cat"]).dictionary_encode()
    pq.write_table(
        pa.table({"uri": pa.array(["/a", "/b", "/c", "/a"]).dictionary_encode(), "l": labels}), tmp_path / "a.parquet"
    )
    assert carried_column(tmp_path / "a.parquet", "l").equals(pa.array(["cat", "dog", None, "cat"]))
    assert uris(tmp_path / "a.parquet") == ["/a", "/b", "/c", "/a"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()], ids=str)
def test_uris_come_as_any_type_of_text(tmp_path, kind):
    pq.write_table(pa.table({"uri": pa.array(["/früh.png", None]).cast(kind)}), tmp_path / "a.parquet")
    assert uris(tmp_path / "a.parquet") == ["/früh.png", None]


def test_a_value_that_does_not_fit_its_type_is_a_problem_of_that_row(tmp_path):
    csv = write_list(tmp_path / "a.csv", "uri,id\n/a,1\n/b,x\n/c,1.5\n/d,9223372036854775808\n/e,\n")
    found = references(csv, keep=("id:int64",))
    assert [one.carried for one in found] == [(1,), (None,), (None,), (None,), (None,)]
    assert [one.uri for one in found] == ["/a", "/b", "/c", "/d", "/e"]
    assert [one.problem is None for one in found] == [True, False, False, False, True]
    assert found[1].problem.startswith("column 'id': Failed to parse string: 'x'")
    pq.write_table(pa.table({"uri": ["/a", "/b", "/c"], "id": [1, 2**40, None]}), tmp_path / "a.parquet")
    found = references(tmp_path / "a.parquet", keep=("id:int32",))
    assert [one.carried for one in found] == [(1,), (None,), (None,)]
    assert [one.problem is None for one in found] == [True, False, True]
    assert found[1].problem.startswith("column 'id': Integer value 1099511627776 not in range")


def test_a_problem_of_one_batch_of_parquet_rows_stays_in_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_pipeline.lists.ROWS_AT_ONCE", 3)
    ids = [1, 2, 300, 4, 5, 6, 7, 800]
    pq.write_table(pa.table({"uri": [f"/{n}" for n in ids], "id": ids}), tmp_path / "a.parquet")
    found = references(tmp_path / "a.parquet", keep=("id:uint8",))
    assert [one.carried[0] for one in found] == [1, 2, None, 4, 5, 6, 7, None]
    assert [one.uri for one in found if one.problem] == ["/300", "/800"]
    assert [one.position for one in found] == [(0, 0, row) for row in range(8)]


def test_lists_must_agree_on_the_type_of_a_column_unless_one_is_asked_for(tmp_path):
    write_list(tmp_path / "a.csv", "uri,id\n/a,1\n")
    pq.write_table(pa.table({"uri": ["/b"], "id": [2]}), tmp_path / "b.parquet")
    both = (tmp_path / "a.csv", tmp_path / "b.parquet")
    assert refused(*both, keep=("id",)) == "column 'id' is string and int64; say which with --keep-columns id:TYPE"
    assert rows(*both, keep=("id:int64",)) == [("/a", (1,), None), ("/b", (2,), None)]
    assert rows(*both, keep=("id:string",)) == [("/a", ("1",), None), ("/b", ("2",), None)]


def test_a_type_that_a_column_cannot_take_is_refused(tmp_path):
    pq.write_table(pa.table({"uri": ["/b"], "v": [[1]]}), tmp_path / "a.parquet")
    assert refused(tmp_path / "a.parquet", keep=("v:int64",)).startswith(
        "column 'v' is list<element: int64>, which is no int64"
    )


def test_the_id_column_is_the_identity(tmp_path):
    path = write_list(tmp_path / "a.csv", "uri,id\n/a,x\n/b,\n,y\n/c,0\n")
    found = references(path, keep=("id",), identity="id")
    assert [(one.uri, one.identity, one.problem) for one in found] == [
        ("/a", "x", None), ("/b", None, "the id column 'id' is empty"), (None, None, NO_URI), ("/c", "0", None),
    ]  # fmt: skip
    pq.write_table(pa.table({"uri": ["/a", "/b", "/c"], "id": [7, None, 0]}), tmp_path / "a.parquet")
    found = references(tmp_path / "a.parquet", keep=("id",), identity="id")
    assert [one.identity for one in found] == ["7", None, "0"]
    assert [one.problem for one in found] == [None, "the id column 'id' is empty", None]


def test_without_an_id_column_the_uri_is_the_identity(tmp_path):
    found = references(write_list(tmp_path / "a.csv", "uri,id\na.png,x\n"), keep=("id",))
    assert [(one.uri, one.identity) for one in found] == [(str(tmp_path / "a.png"), str(tmp_path / "a.png"))]


# Mistakes


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    path = write_list(tmp_path / "a.csv", "url,label,id\n/a,x,1\n")
    assert refused(path) == (
        f"'{path}' has no column 'uri' (--uri-column names it); did you mean 'url'? It has: url, label, id"
    )
    assert refused(path, uri="url", keep=("lable",)) == (
        f"'{path}' has no column 'lable'; did you mean 'label'? It has: url, label, id"
    )
    assert "has no column 'qqq'; It has: url" in refused(path, uri="url", keep=("qqq",))
    lines = write_list(tmp_path / "a.jsonl", '{"url": "/a"}\n')
    assert "has no column 'uri' (--uri-column names it); did you mean 'url'? It has: url" in refused(lines)
    pq.write_table(pa.table({"Uri": ["/a"]}), tmp_path / "a.parquet")
    assert "did you mean 'Uri'? It has: Uri" in refused(tmp_path / "a.parquet")


def test_each_list_of_a_pattern_must_have_the_columns(tmp_path):
    write_list(tmp_path / "a.csv", "uri,id\n/a,1\n")
    write_list(tmp_path / "b.csv", "uri\n/b\n")
    assert refused(tmp_path / "*.csv", keep=("id",)).startswith(f"'{tmp_path}/b.csv' has no column 'id'")


def test_a_column_that_a_list_has_twice_is_refused(tmp_path):
    path = write_list(tmp_path / "a.csv", "uri,id,id,x,x\n/a,1,2,3,4\n")
    assert refused(path, keep=("id",)) == f"'{path}' has more than one column 'id'"
    assert uris(path) == ["/a"], "what is not read may be there twice"


def test_a_parquet_column_that_is_no_text_holds_no_uris(tmp_path):
    for name, values in (("int64", [1]), ("list<element: string>", [["/a"]]), ("double", [1.5])):
        pq.write_table(pa.table({"uri": values}), tmp_path / "a.parquet")
        assert (
            refused(tmp_path / "a.parquet")
            == f"expected the column 'uri' of '{tmp_path}/a.parquet' to be text, found {name}"
        )


def test_pictures_have_no_columns_to_keep(tmp_path):
    touch(tmp_path, "in/a.png")
    text = write_list(tmp_path / "a.txt", "/a\n")
    csv = write_list(tmp_path / "a.csv", "uri,id\n/a,1\n")
    for source in (tmp_path / "in", tmp_path / "in/*.png", tmp_path / "in/a.png"):
        assert refused(csv, source, keep=("id",)) == f"'{source}' is no list, so it has no columns to keep"
    assert refused(text, keep=("id",)) == f"'{text}' is a list of URIs alone, so it has no columns to keep"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an --input is empty"),
        ("none.csv", "there is no file or folder 'none.csv'"),
        ("none/", "there is no file or folder 'none/'"),
        ("*.png", "the pattern '*.png' matches no file"),
        ("*/*.csv", "the pattern '*/*.csv' matches no file"),
        ("fold*", "the pattern 'fold*' matches no file"),
        ("memory://none-of-that/a.csv", "there is no file or folder 'memory://none-of-that/a.csv'"),
        ("memory://none-of-that/*", "the pattern 'memory://none-of-that/*' matches no file"),
        ("memry://bucket/a.csv", "unknown scheme 'memry'; did you mean 'memory'"),
    ],
)
def test_an_input_that_is_not_there_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refused(text).startswith(message)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", "\n \n"),
        ("a.txt", "\ufeff"),
        ("a.csv", ""),
        ("a.csv", "uri,id\n"),
        ("a.jsonl", ""),
        ("a.jsonl.gz", ""),
    ],
)
def test_inputs_without_any_row_are_refused(tmp_path, name, content):
    path = write_list(tmp_path / name, content)
    assert refused(path) == f"the inputs hold no URIs at all: '{path}'"


def test_an_empty_folder_or_parquet_list_is_refused_unless_another_input_has_rows(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "a.parquet")
    both = (tmp_path / "in", tmp_path / "a.parquet")
    assert refused(*both) == f"the inputs hold no URIs at all: '{both[0]}', '{both[1]}'"
    assert uris(*both, write_list(tmp_path / "a.txt", "/a\n")) == ["/a"]


def truncated(data: bytes) -> bytes:
    return gzip.compress(data)[:-12]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"uri\n/a\n"),
        ("a.txt.gz", b"\x1f\x8b"),
        ("a.csv.gz", truncated(b"uri\n" + b"/a\n" * 9)),
        ("a.jsonl.gz", gzip.compress(b"uri\n")[:12] + b"\xff" * 20),
        ("a.parquet", b"PAR1"),
        ("a.parquet", b""),
        ("a.jsonl", b"uri\n/a\n"),
        ("a.jsonl", b"[1]\n"),
        ("a.csv", b"uri,\xff\n/a,1\n"),
    ],
)
def test_a_list_that_is_not_what_its_name_says_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(f"the list '{tmp_path / name}' cannot be read: ")


def test_a_list_that_breaks_off_further_down_says_so_instead_of_ending_early(tmp_path):
    whole = gzip.compress("".join(f"/{number * 7919 % 100_003}\n" for number in range(50_000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    sources, settled = checked(tmp_path / "a.txt.gz")
    with pytest.raises(ConfigurationError, match=r"a\.txt\.gz' cannot be read: Compressed file ended"):
        list(read(sources[0], settled, STORAGE))


def test_an_input_is_looked_at_once_and_its_kind_is_found(tmp_path):
    touch(tmp_path, "in/a.png")
    write_list(tmp_path / "a.csv", "uri\n/a\n")
    found = [parse_source(str(tmp_path / name), 3, STORAGE) for name in ("in", "in/*", "in/a.png", "a.csv", "*.csv")]
    assert [(one.kind, one.number) for one in found] == [
        ("folder", (3, 0)), ("glob", (3, 0)), ("image", (3, 0)), ("csv", (3, 0)), ("glob", (3, 0)),
    ]  # fmt: skip


def test_rows_are_read_one_after_the_other_and_never_all_at_once(tmp_path, monkeypatch):
    path = write_list(tmp_path / "a.txt", "/a\n" * 50_000)
    taken: list[int] = []
    opened = Storage.open

    class Counted:
        def __init__(self, handle) -> None:
            self._handle = handle

        def __getattr__(self, name: str):
            return getattr(self._handle, name)

        def read1(self, size: int) -> bytes:
            taken.append(size)
            return self._handle.read1(size)

        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None:
            self._handle.close()

    monkeypatch.setattr(Storage, "open", lambda self, uri, **how: Counted(opened(self, uri, **how)))
    found: Iterator[ImageReference] = read(parse_source(str(path), 0, STORAGE), Columns(), STORAGE)
    assert next(found).uri == "/a"
    assert len(taken) == 1
    assert sum(1 for _ in found) == 49_999
    assert len(taken) > 10


def test_settled_columns_have_their_types(tmp_path):
    path = write_list(tmp_path / "a.csv", "uri,id\n/a,1\n")
    assert checked(path, keep=("id",))[1] == Columns("uri", (CarriedColumn("id", pa.string()),))


# Lists on the web


@pytest.fixture
def web(tmp_path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback without range requests: its address, and the folder that it serves."""
    with serving(tmp_path / "web") as address:
        yield address, tmp_path / "web"


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.jsonl"])
def test_a_list_on_the_web_is_read_through_its_signed_address(web, name):
    address, folder = web
    plain = "uri,id\na.png,1\nhttps://other/b.png,2\n"
    if "jsonl" in name:
        plain = '{"uri": "a.png", "id": "1"}\n{"uri": "https://other/b.png", "id": "2"}\n'
    write_list(folder / name, plain)
    found = rows(f"{address}{name}?signature=a*b[c]", keep=("id",))
    assert found == [(f"{address}a.png", ("1",), None), ("https://other/b.png", ("2",), None)]


def test_no_message_about_a_list_shows_its_signature(web):
    address, folder = web
    write_list(folder / "list.csv", "url\na.png\n")
    for name in ("list.csv", "gone.csv"):
        message = refused(f"{address}{name}?signature=secret")
        assert name in message
        assert "secret" not in message


# Odd places


def test_a_quote_that_is_never_closed_swallows_no_pictures(tmp_path):
    path = write_list(tmp_path / "list.csv", 'uri,id\n/a.png,1\n"/b.png,2\n/c.png,3\n')
    assert "cannot be read: unexpected end of data" in refused(path)


def test_folders_behind_links_are_read_once(tmp_path):
    touch(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "in")
    assert uris(tmp_path / "in") == [str(tmp_path / "in/a.png"), str(tmp_path / "in/link/b.png")]


def test_a_working_folder_with_brackets_is_no_part_of_a_pattern(tmp_path, monkeypatch):
    touch(tmp_path, "a[1]/x.jpg")
    monkeypatch.chdir(tmp_path / "a[1]")
    assert uris("*.jpg") == [str(tmp_path / "a[1]/x.jpg")]
    assert refused("missing.txt") == "there is no file or folder 'missing.txt'"


def test_a_folder_of_lists_is_not_taken_for_pictures(tmp_path):
    touch(tmp_path, "list.parquet/part-0.parquet")
    assert "is a folder; name the lists in it with a pattern" in refused(tmp_path / "list.parquet")


def test_a_type_that_fits_no_row_is_a_mistake_in_the_call(tmp_path):
    path = write_list(tmp_path / "list.csv", "uri,label\n" + "/a.png,cat\n" * 300)
    assert "no row at the head of" in refused(path, keep=("label:int32",))
    assert "column 'label'" in refused(path, keep=("label:int32",))
    write_list(path, "uri,label\n/a.png,cat\n/b.png,7\n")
    assert [problem is None for _, _, problem in rows(path, keep=("label:int32",))] == [False, True]
