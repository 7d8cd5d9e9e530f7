"""The plan: every reference in exactly one shard on every machine, work lists that lose nothing, one plan for a run."""

from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import columns, fix_plan, references
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.plan import (
    Plan,
    PlanCounts,
    WorkList,
    read_plan,
    read_work_list,
    shard_of,
    shards_for,
    write_plan,
    write_work_list,
)
from beam_pipeline.errors import DatasetError
from beam_pipeline.references import NO_URI, CarriedColumn, ImageReference, to_transit
from beam_pipeline.storage import Storage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("new", "images_per_shard", "workers", "batch_size", "shards"),
    [
        (0, 100, 8, 4, 0),
        (1, 100, 1, 4, 1),
        (100, 100, 1, 4, 1),
        (101, 100, 1, 4, 2),
        (101, 100, 8, 4, 8),  # eight workers have something to do
        (20, 100, 8, 4, 5),  # but no shard is less than a batch for their sake
        (3, 100, 8, 4, 1),
        (1000, 10, 8, 32, 100),  # a small shard may be less than a batch where that is asked for
    ],
)
def test_shards_are_as_many_as_asked_for_and_as_workers_need(new, images_per_shard, workers, batch_size, shards):
    assert shards_for(new, images_per_shard, workers, batch_size) == shards


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.integers(1, 1000), st.integers(1, 1024))
def test_shards_hold_on_average_no_more_than_asked_for(new, images_per_shard, workers, batch_size):
    shards = shards_for(new, images_per_shard, workers, batch_size)
    assert shards * images_per_shard >= new
    fewest = -(-new // images_per_shard)
    assert shards == fewest or (shards <= workers and shards * batch_size <= new)


@given(st.lists(TEXT, unique=True), st.integers(1, 40))
def test_every_reference_is_in_exactly_one_shard(uris, shards):
    found = Counter(uri for shard in range(shards) for uri in uris if shard_of(key_of(uri), shards) == shard)
    assert found == Counter(uris)


def key_of(uri: str) -> bytes:
    return ImageReference(uri, (0, 0, 0), identity=uri).key()


def test_shards_are_of_about_one_size():
    sizes = Counter(shard_of(key_of(f"s3://bucket/{number}.jpg"), 16) for number in range(16_000))
    assert sorted(sizes) == list(range(16))
    assert 850 < min(sizes.values()) <= max(sizes.values()) < 1150  # five standard deviations from 1,000


ASK_FOR_SHARDS = """
import json, sys
from beam_pipeline.dataset.plan import shard_of
from beam_pipeline.references import ImageReference
print(json.dumps([shard_of(ImageReference(u, (0, 0, 0), identity=u).key(), 7) for u in json.load(sys.stdin)]))
"""


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_another_process_with_another_hash_seed_finds_the_same_shards(seed):
    uris = ["/a/b.jpg", "s3://bucket/Fön 早.png", "x" * 500, *(f"/p/{number}" for number in range(100))]
    process = subprocess.run(
        [sys.executable, "-c", ASK_FOR_SHARDS],
        input=json.dumps(uris),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert json.loads(process.stdout) == [shard_of(key_of(uri), 7) for uri in uris]


def test_the_shard_of_a_uri_never_changes():
    # A run that goes on after an upgrade, on another machine, must find the same shards.
    uris = ("/a.jpg", "/b.jpg", "s3://b/c.jpg", "früh-早い.png")
    assert [key_of(uri).hex()[:8] for uri in uris] == ["4f96e8f7", "a48d5c48", "a559d67b", "4d6c56da"]


# One value of each type, as Arrow has it, beside a null.
VALUES = {
    "string": "Grüße 早 \0 \n",
    "large_string": "long",
    "binary": b"\xff\x00",
    "bool": True,
    "int8": -128,
    "int64": 2**63 - 1,
    "uint64": 2**64 - 1,
    "float16": 0.5,
    "float32": 0.25,
    "float64": 1e308,
    "date32": datetime.date(1969, 7, 20),
    "date64": datetime.date(2026, 11, 23),
    "time32[ms]": datetime.time(23, 59, 59, 999000),
    "time32[s]": datetime.time(12, 0, 1),
    "time64[us]": datetime.time(23, 59, 59, 999999),
    "timestamp[us]": datetime.datetime(1, 1, 1),
    "timestamp[s]": datetime.datetime(9999, 12, 31, 23, 59, 59),
    "duration[ms]": datetime.timedelta(days=-3, milliseconds=1),
}


def round_trip(folder: Path, refs: list[ImageReference], carried: tuple[CarriedColumn, ...]) -> list[ImageReference]:
    layout, storage = Layout(str(folder)), Storage()
    work = write_work_list(layout, "r-one", 3, refs, carried, storage)
    assert (work.shard, work.rows) == (3, len(refs))
    return read_work_list(layout, "r-one", work, carried, storage)


def test_a_work_list_keeps_carried_columns_of_every_type_and_their_nulls(tmp_path):
    carried = columns(*(f"c{place}:{alias}" for place, alias in enumerate(VALUES)))
    arrays = [pa.array([value, None], column.type) for value, column in zip(VALUES.values(), carried, strict=True)]
    first, nulls = zip(*(to_transit(array) for array in arrays), strict=True)
    refs = [
        ImageReference("/a.jpg", (0, 0, 0), first, "/a.jpg"),
        ImageReference("/b.jpg", (0, 0, 1), nulls, "/b.jpg", tried_before=True),
    ]
    assert round_trip(tmp_path, refs, carried) == refs


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("ns"), 1_700_000_000_123_456_789),  # in transit as an integer: Python has no nanoseconds
        (pa.timestamp("us", "Europe/Berlin"), 1_700_000_000_123_456),
        (pa.duration("ns"), -1),
        (pa.time64("ns"), 86_399_999_999_999),
        (pa.decimal128(38, 10), decimal.Decimal("-1234567890.0123456789")),
        (pa.list_(pa.int32()), [1, None, 3]),
        (pa.struct([("x", pa.int64()), ("y", pa.string())]), {"x": 1, "y": None}),
    ],
    ids=str,
)
def test_a_work_list_keeps_what_a_parquet_input_may_bring(tmp_path, kind, value):
    refs = [ImageReference(f"/{n}.jpg", (0, 0, n), (v,), f"/{n}.jpg") for n, v in enumerate([value, None])]
    assert round_trip(tmp_path, refs, (CarriedColumn("x", kind),)) == refs


@pytest.mark.parametrize("name", ["_uri", "_identity", "_position", "_problem", "_tried_before", "a.b", "früh 早"])
def test_a_carried_column_may_have_any_name(tmp_path, name):
    refs = [ImageReference("/a.jpg", (0, 0, 0), ("value",), "/a.jpg")]
    assert round_trip(tmp_path, refs, columns(f"{name}:string")) == refs


def test_a_work_list_keeps_rows_that_cannot_be_used(tmp_path):
    refs = [
        ImageReference(None, (0, 0, 0), (None,), None, NO_URI),
        ImageReference(None, (0, 2, 0), (None,), None, "expected 3 fields, found 1"),
        ImageReference("/a.jpg", (1, 0, 0), (5,), "an id", "column 'id': not a number", tried_before=True),
    ]
    assert round_trip(tmp_path, refs, columns("id:int64")) == refs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(data=st.data())
def test_a_work_list_is_the_same_file_whatever_order_its_references_came_in(tmp_path, data):
    position = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**40))
    refs = [
        ImageReference(uri, place, (label,), uri, tried_before=tried)
        for uri, place, label, tried in data.draw(
            st.lists(st.tuples(TEXT, position, st.none() | TEXT, st.booleans()), unique_by=lambda one: one[1])
        )
    ]
    layout, storage, carried = Layout(str(tmp_path)), Storage(), columns("label:string")
    work = write_work_list(layout, "r-one", 0, refs, carried, storage)
    assert write_work_list(layout, "r-one", 0, data.draw(st.permutations(refs)), carried, storage) == work
    found = read_work_list(layout, "r-one", work, carried, storage)
    assert found == sorted(refs, key=lambda ref: ref.position), "in the order of the input"
    assert work.first_attempts == sum(not ref.tried_before for ref in refs)


def test_lists_of_other_content_have_other_names(tmp_path):
    layout, storage = Layout(str(tmp_path)), Storage()
    names = {write_work_list(layout, "r-one", 0, references([uri]), (), storage).name for uri in ("/a", "/b", "/a")}
    assert len(names) == 2
    assert {path.name for path in (tmp_path / "_runs/r-one/work").iterdir()} == names


def a_plan(shards: int = 1, run_id: str = "r-one") -> Plan:
    work = tuple(WorkList(shard, f"{shard:05d}-0123.parquet", 10, 9) for shard in range(shards))
    return Plan(run_id, shards, PlanCounts(11, 1, 1, new=10 * shards), work, {"inputs": ["a"], "limit": None})


def test_a_plan_is_read_as_it_was_written(tmp_path):
    layout = Layout(str(tmp_path))
    assert read_plan(layout, "r-one", Storage()) is None
    assert write_plan(layout, a_plan(3), Storage()) == a_plan(3)
    assert read_plan(layout, "r-one", Storage()) == a_plan(3)
    assert read_plan(layout, "r-two", Storage()) is None


def test_a_plan_is_never_written_twice(tmp_path):
    layout = Layout(str(tmp_path))
    write_plan(layout, a_plan(3), Storage())
    written = Path(layout.plan("r-one")).read_bytes()
    assert write_plan(layout, a_plan(5), Storage()) == a_plan(3), "the second is told of the first one's"
    assert Path(layout.plan("r-one")).read_bytes() == written
    assert [path.name for path in (tmp_path / "_runs/r-one").iterdir()] == ["plan.json"]


def test_of_plans_that_are_written_at_once_all_go_by_one(tmp_path):
    layout = Layout(str(tmp_path))
    start = threading.Barrier(8, timeout=60)
    fixed: list[Plan] = []

    def write(shards: int) -> None:
        start.wait()
        fixed.append(write_plan(layout, a_plan(shards), Storage()))

    threads = [threading.Thread(target=write, args=(shards,)) for shards in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fixed == [read_plan(layout, "r-one", Storage())] * 8


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def overwrite_footer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-60] + b"\xff" * 52 + content[-8:])


def shorten(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "cannot be read"),
        (cut, "cannot be read"),
        (overwrite_footer, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (shorten, "has 1 rows, planned were 2"),
    ],
    ids=["gone", "cut", "broken footer", "empty", "shortened"],
)
def test_a_work_list_that_is_not_the_planned_one_ends_the_run(tmp_path, damage, message):
    layout = Layout(str(tmp_path))
    [work] = fix_plan(layout, "r-one", [references(["/a", "/b"])]).work
    damage(Path(layout.work_list("r-one", work.name)))
    with pytest.raises(DatasetError, match=message) as raised:
        read_work_list(layout, "r-one", work, (), Storage())
    assert work.name in str(raised.value)


@pytest.mark.parametrize("content", [b"", b'{"run_id": "r-o', b"{}", b"[]", b"\xff"])
def test_a_damaged_plan_names_its_file(tmp_path, content):
    layout = Layout(str(tmp_path))
    write_plan(layout, a_plan(), Storage())
    Path(layout.plan("r-one")).write_bytes(content)
    with pytest.raises(DatasetError, match=r"plan\.json' is damaged"):
        read_plan(layout, "r-one", Storage())
