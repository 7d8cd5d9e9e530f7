"""A part says how it was made and what failed, is committed once whoever works at it, and is read by every reader."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from fakes import (
    FakeEngine,
    FakeMapEngine,
    columns,
    draw_pictures,
    fake_resolved,
    fix_plan,
    references,
    run_shard,
    use_fakes,
)

from beam_pipeline import Work, binding, embed, engines, open_dataset
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.parts import (
    BYTES_IN_GROUP,
    Footer,
    new_attempt,
    open_part,
    part_metadata,
    part_of,
    read_footer,
)
from beam_pipeline.dataset.plan import Plan, PlanCounts, WorkList
from beam_pipeline.errors import DatasetError, ImageFailure
from beam_pipeline.references import CarriedColumn, ImageReference
from beam_pipeline.results import Embedded, Failed
from beam_pipeline.schema import embedding_schema
from beam_pipeline.shard import ShardResult
from beam_pipeline.spec import EmbeddingSpec, ResolvedSpec
from beam_pipeline.storage import Storage

CARRIED = columns("id:int64", "label:string")
PLAN = Plan("r-one", 4, PlanCounts(), (WorkList(2, "00002-0123.parquet", 7, 7),))
WITH_MAP = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32, pooling="avg", layers=["block"])


def rows_of_shape(rows: int, resolved: ResolvedSpec, carried: tuple[CarriedColumn, ...] = ()) -> pa.RecordBatch:
    """Rows that hold no picture, only what their schema wants."""
    schema = embedding_schema(resolved.spec, resolved.shape_of, carried)
    arrays = []
    for field in schema:
        if field.type in (pa.string(), pa.int32(), pa.int64()):
            arrays.append(pa.array([str(n) if field.type == pa.string() else n for n in range(rows)], field.type))
        else:
            kind = getattr(field.type, "storage_type", field.type)
            flat = pa.array(np.arange(rows * kind.list_size, dtype=np.float32))
            array = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            arrays.append(pa.ExtensionArray.from_storage(field.type, array) if kind is not field.type else array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def failed(uri: str | None, *carried: object, tried_before: bool = False) -> Failed:
    reference = ImageReference(uri, (0, 1, 2), carried, uri, tried_before=tried_before)
    return Failed(reference, ImageFailure("fetch", "not_found", "there is no such file", retryable=True))


def write_part(layout: Layout, batches: Iterable[Embedded], resolved: ResolvedSpec, carried: Any = ()) -> str:
    """Writes the part of the plan's one list where it belongs. Returns the attempt's id."""
    attempt = new_attempt()
    path = Path(layout.part(PLAN.run_id, part_of(PLAN, PLAN.work[0])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_part(str(path), embedding_schema(resolved.spec, resolved.shape_of, carried), carried) as writer:
        for batch in batches:
            writer.write(batch)
        writer.close(part_metadata(PLAN, PLAN.work[0], resolved, writer, attempt))
    return attempt


def written(layout: Layout) -> pq.FileMetaData:
    return pq.read_metadata(layout.part(PLAN.run_id, part_of(PLAN, PLAN.work[0])))


def parts_in(output: Path) -> list[str]:
    """The name of every file under the run's parts, temporary ones too."""
    return sorted(path.name for path in (output / "embeddings/run_id=r-one").iterdir())


# What a part says of itself


def test_a_footer_tells_rows_failures_and_attempt(tmp_path):
    layout, resolved = Layout(str(tmp_path)), fake_resolved()
    batches = [
        Embedded(rows_of_shape(3, resolved, CARRIED), (failed("/gone", 7, "x"),), 0),
        Embedded(rows_of_shape(0, resolved, CARRIED), (failed(None), failed("/f", None, None, tried_before=True)), 0),
        Embedded(rows_of_shape(2, resolved, CARRIED), (), 0),
    ]
    attempt = write_part(layout, batches, resolved, CARRIED)
    footer = read_footer(layout, "r-one", "part-00002-of-00004.parquet", Storage())
    assert footer is not None
    assert (footer.name, footer.run_id, footer.shard) == ("part-00002-of-00004.parquet", "r-one", 2)
    assert (footer.attempt, footer.rows, footer.first_failed) == (attempt, 5, 1)
    assert footer.size_bytes == Path(layout.part("r-one", footer.name)).stat().st_size
    common = {"stage": "fetch", "kind": "not_found", "message": "there is no such file", "retryable": True}
    common |= {"position": [0, 1, 2]}
    assert footer.failures.to_pylist() == [
        {"uri": "/gone", "id": 7, "label": "x", "tried_before": False} | common,
        {"uri": None, "id": None, "label": None, "tried_before": False} | common,
        {"uri": "/f", "id": None, "label": None, "tried_before": True} | common,
    ]


def test_a_part_found_anywhere_says_how_it_was_made(tmp_path):
    layout, resolved = Layout(str(tmp_path)), fake_resolved()
    attempt = write_part(layout, [Embedded(rows_of_shape(2, resolved), (failed("/gone"),), 0)], resolved)
    stored = written(layout).metadata
    assert json.loads(stored[b"beam_embed.spec"]) == resolved.spec.to_json()
    part = json.loads(stored[b"beam_embed.part"])
    assert part.pop("made_by").keys() >= {"beam-embed", "keras", "tensorflow", "pillow", "pyarrow", "python", "host"}
    assert part == {
        "run_id": "r-one", "shard": 2, "shards": 4, "attempt": attempt, "rows": 2, "failed": 1, "first_failed": 1,
        "fingerprint": resolved.spec.fingerprint, "schema_version": 1,
    }  # fmt: skip


def test_attempts_have_ids_of_their_own():
    assert len({new_attempt() for _ in range(100)}) == 100


# How it is written


@pytest.mark.parametrize("batch", [1, 32, 300, 1000, 1024, 5000])
def test_row_groups_have_at_most_1024_rows(tmp_path, batch):
    layout, resolved = Layout(str(tmp_path)), fake_resolved()
    total = 5000 if batch > 1 else 1100
    write_part(layout, [Embedded(rows_of_shape(batch, resolved), (), 0)] * (total // batch), resolved)
    metadata = written(layout)
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sum(groups) == metadata.num_rows == total // batch * batch
    assert max(groups) == 1024


@pytest.mark.parametrize(("side", "most"), [(128, 16), (181, 8), (1024, 1)])
def test_row_groups_of_large_maps_have_at_most_16_mib(tmp_path, side, most):
    layout = Layout(str(tmp_path))
    resolved = fake_resolved(WITH_MAP, shapes={"block": (side, side, 16)})
    row_bytes = side * side * 16 * 4
    write_part(layout, [Embedded(rows_of_shape(3, resolved), (), 0)] * (1 if most == 1 else 8), resolved)
    metadata = written(layout)
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sum(groups) == (3 if most == 1 else 24)
    assert max(groups) <= most
    assert most == 1 or max(groups) * row_bytes <= BYTES_IN_GROUP < 2 * max(groups) * row_bytes


def test_vectors_are_plain_zstd_without_dictionary_or_byte_stream_split(tmp_path):
    layout, resolved = Layout(str(tmp_path)), fake_resolved(WITH_MAP, shapes={"block": (4, 4, 3)})
    write_part(layout, [Embedded(rows_of_shape(50, resolved, CARRIED), (), 0)], resolved, CARRIED)
    group = written(layout).row_group(0)
    chunks = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    vectors = [chunk for path, chunk in chunks.items() if path.startswith(("embedding", "block"))]
    assert len(vectors) == 2
    for chunk in vectors:
        assert not chunk.has_dictionary_page
        assert set(chunk.encodings) == {"PLAIN", "RLE"}
    assert not any("BYTE_STREAM_SPLIT" in chunk.encodings for chunk in chunks.values())
    assert {path for path, chunk in chunks.items() if chunk.has_dictionary_page} == {"format"}


def test_a_part_that_is_not_finished_is_no_part(tmp_path):
    layout, resolved = Layout(str(tmp_path)), fake_resolved()

    def interrupted() -> Iterator[Embedded]:
        yield Embedded(rows_of_shape(2, resolved), (), 0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_part(layout, interrupted(), resolved)
    with pytest.raises(DatasetError, match="not written by beam-embed"):
        read_footer(layout, "r-one", part_of(PLAN, PLAN.work[0]), Storage())


# What is no part


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def break_footer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-60] + b"\xff" * 52 + content[-8:])


def forget(*keys: bytes) -> Any:
    def rewrite(path: Path) -> None:
        table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({k: v for k, v in metadata.items() if k not in (*keys, b"ARROW:schema")})

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "no readable Parquet file"),
        (lambda path: path.write_bytes(b"PAR1 by no means PAR1"), "no readable Parquet file"),
        (cut, "no readable Parquet file"),
        (break_footer, "no readable Parquet file"),
        (forget(b"beam_embed.part"), "not written by beam-embed"),
        (forget(b"beam_embed.failures"), "not written by beam-embed"),
        (lambda path: pq.write_table(pa.table({"uri": ["a"]}), path), "not written by beam-embed"),
    ],
    ids=["empty", "other bytes", "cut", "broken footer", "no part", "no failures", "another table"],
)
def test_a_file_that_is_no_part_is_an_error_that_names_it(tmp_path, damage, message):
    layout, resolved = Layout(str(tmp_path)), fake_resolved()
    write_part(layout, [Embedded(rows_of_shape(2, resolved), (), 0)], resolved)
    name = part_of(PLAN, PLAN.work[0])
    damage(Path(layout.part("r-one", name)))
    with pytest.raises(DatasetError, match=message) as raised:
        read_footer(layout, "r-one", name, Storage())
    assert layout.part("r-one", name) in str(raised.value)


def test_where_no_part_is_there_is_no_footer(tmp_path):
    assert read_footer(Layout(str(tmp_path)), "r-one", "part-00000-of-00001.parquet", Storage()) is None


# The commit


def one_shard(folder: Path, count: int = 9) -> tuple[Layout, Plan]:
    layout = Layout(str(folder / "out"))
    uris = [*draw_pictures(folder / "in", count), str(folder / "in" / "gone.png")]
    return layout, fix_plan(layout, "r-one", [references(uris)])


def same_footer(left: Footer, right: Footer) -> bool:
    return left.attempt == right.attempt and left.rows == right.rows and left.failures.equals(right.failures)


def rows_on_disk(layout: Layout) -> list[str]:
    return pads.dataset(layout.embeddings).to_table(columns=["uri"])["uri"].to_pylist()


def test_a_shard_becomes_one_part_with_its_rows_and_failures(tmp_path):
    layout, plan = one_shard(tmp_path)
    result = run_shard(layout, plan, plan.work[0])
    assert result.ours
    assert (result.footer.rows, result.footer.failures["kind"].to_pylist()) == (9, ["not_found"])
    assert parts_in(tmp_path / "out") == ["part-00000-of-00001.parquet"]
    assert rows_on_disk(layout) == [str(tmp_path / "in" / f"p{n:04d}.png") for n in range(9)]


def test_a_shard_with_only_failures_commits_a_part_without_rows(tmp_path):
    layout = Layout(str(tmp_path / "out"))
    plan = fix_plan(layout, "r-one", [references(["/nowhere/a", "/nowhere/b"])])
    engine = FakeEngine()
    result = run_shard(layout, plan, plan.work[0], engine)
    assert (result.ours, result.footer.rows, result.footer.failures.num_rows) == (True, 0, 2)
    assert engine.calls == 0
    table = pq.read_table(layout.part("r-one", result.footer.name))
    assert (table.num_rows, "embedding" in table.column_names) == (0, True)
    assert not run_shard(layout, plan, plan.work[0]).ours


def test_a_part_that_is_there_is_reported_and_nothing_is_computed(tmp_path):
    layout, plan = one_shard(tmp_path)
    first = run_shard(layout, plan, plan.work[0])
    before = Path(layout.part("r-one", first.footer.name)).read_bytes()
    (tmp_path / "in" / "p0000.png").unlink()  # it would be another part today
    engine = FakeEngine()
    second = run_shard(layout, plan, plan.work[0], engine)
    assert (second.ours, engine.calls) == (False, 0)
    assert same_footer(second.footer, first.footer)
    assert Path(layout.part("r-one", first.footer.name)).read_bytes() == before


class WaitingEngine(FakeEngine):
    """Works only when all others are at work too, so that all have seen that there is no part yet."""

    def __init__(self, together: Any) -> None:
        super().__init__()
        self._together = together

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        if not self.calls:
            self._together.wait()
        return super().__call__(pixels)


def check_one_winner(layout: Layout, results: list[tuple[bool, Footer]], racers: int) -> None:
    assert sorted(ours for ours, _ in results) == [False] * (racers - 1) + [True]
    winner = next(footer for ours, footer in results if ours)
    assert all(same_footer(footer, winner) for _, footer in results), "the loser reports the winner's"
    assert parts_in(Path(layout.root)) == [winner.name], "and leaves nothing of its own"
    uris = rows_on_disk(layout)
    assert len(uris) == len(set(uris)) == winner.rows == 9


def test_threads_that_work_at_one_shard_leave_one_part(tmp_path):
    layout, plan = one_shard(tmp_path)
    together = threading.Barrier(4, timeout=60)
    results: list[ShardResult] = []

    def work() -> None:
        results.append(run_shard(layout, plan, plan.work[0], WaitingEngine(together)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_one_winner(layout, [(result.ours, result.footer) for result in results], 4)


def work_in_process(layout: Layout, plan: Plan, together: Any, results: Any) -> None:
    result = run_shard(layout, plan, plan.work[0], WaitingEngine(together))
    results.put((result.ours, result.footer))


def test_processes_that_work_at_one_shard_leave_one_part(tmp_path):
    layout, plan = one_shard(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    together, results = spawn.Barrier(2, timeout=60), spawn.Queue()
    processes = [spawn.Process(target=work_in_process, args=(layout, plan, together, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    check_one_winner(layout, found, 2)


def test_an_attempt_that_comes_after_its_runs_manifest_gives_up(tmp_path):
    layout, plan = one_shard(tmp_path)

    class Overtaken(FakeEngine):
        def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            Path(layout.manifest("r-one")).write_text("{}")  # the run is published while this one is at work
            return super().__call__(pixels)

    with pytest.raises(DatasetError, match="'r-one' is published already; shard 0 comes too late"):
        run_shard(layout, plan, plan.work[0], Overtaken())
    assert parts_in(tmp_path / "out") == []


def test_an_attempt_that_fails_leaves_nothing(tmp_path):
    layout, plan = one_shard(tmp_path)

    class Broken(FakeEngine):
        def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            raise MemoryError("the model ran out of memory")

    with pytest.raises(MemoryError):
        run_shard(layout, plan, plan.work[0], Broken())
    assert parts_in(tmp_path / "out") == []
    assert run_shard(layout, plan, plan.work[0]).ours, "a retry finds the way free"


# Readers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A dataset of several runs with vectors, maps, carried columns and failures, among them a part without rows."""
    folder = tmp_path_factory.mktemp("readers")
    shapes = {"block": (8, 8, 3)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_fakes(monkeypatch)
        monkeypatch.setattr(binding, "resolve", lambda spec, storage: fake_resolved(spec, shapes=shapes))
        monkeypatch.setattr(engines, "load", lambda resolved, storage, size, images=None: FakeMapEngine(size))
        work = Work(batch_size=4, images_per_shard=6)
        for run, number in enumerate((20, 27)):
            paths = draw_pictures(folder / "in", number)
            rows = "".join(f"{path},{n},{'abc'[n % 3]}\n" for n, path in enumerate([*paths, "gone.png"]))
            (folder / "list.csv").write_text("uri,id,label\n" + rows)
            keep = ["id:int64", "label"]
            embed(
                str(folder / "list.csv"), str(folder / "out"), WITH_MAP, work=work, keep_columns=keep, run_id=f"{run}"
            )
        embed(str(folder / "list.csv"), str(folder / "out"), WITH_MAP, work=work, keep_columns=keep, run_id="2")
    return folder / "out"


def expected(dataset: Path, column: str) -> dict[str, np.ndarray]:
    uris, vectors = open_dataset(str(dataset)).to_numpy(column)
    assert len(set(uris)) == len(uris) == 27
    return dict(zip(uris, vectors.reshape(len(uris), -1), strict=True))


def agree(found: dict[str, Any], dataset: Path, column: str) -> None:
    wanted = expected(dataset, column)
    assert found.keys() == wanted.keys()
    for uri, vector in found.items():
        assert np.array_equal(np.asarray(vector, np.float32).reshape(-1), wanted[uri])


def test_the_dataset_for_readers_has_a_part_without_rows(dataset):
    parts = open_dataset(str(dataset)).runs[-1]["parts"]
    assert [(part["rows"], part["failed"]) for part in parts] == [(0, 1)]


@pytest.mark.parametrize("column", ["embedding", "block"])
def test_duckdb_reads_the_parts_as_they_lie(dataset, column):
    query = f"SELECT uri, {column}, run_id FROM read_parquet('{dataset}/embeddings/**/*.parquet')"
    rows = duckdb.sql(query).fetchall()
    agree({uri: vector for uri, vector, _ in rows}, dataset, column)
    assert {run_id for _, _, run_id in rows} == {"r-0", "r-1"}, "the folders are Hive partitions"


@pytest.mark.parametrize("column", ["embedding", "block"])
def test_polars_reads_the_parts_as_they_lie(dataset, column):
    frame = pl.read_parquet(f"{dataset}/embeddings/**/*.parquet")
    values = frame[column].to_arrow()
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    agree(dict(zip(frame["uri"].to_list(), storage.to_pylist(), strict=True)), dataset, column)


@pytest.mark.parametrize("column", ["embedding", "block"])
def test_pandas_reads_the_parts_as_they_lie(dataset, column):
    frame = pd.read_parquet(f"{dataset}/embeddings", columns=["uri", "id", column])
    agree(dict(zip(frame["uri"], frame[column], strict=True)), dataset, column)
    assert dict(zip(frame["uri"], frame["id"], strict=True)) == {
        str(dataset.parent / "in" / f"p{n:04d}.png"): n for n in range(27)
    }


def test_to_numpy_gives_vectors_and_maps_in_their_shapes(dataset):
    found = open_dataset(str(dataset))
    uris, vectors = found.to_numpy()
    assert (vectors.shape, vectors.dtype, uris.dtype) == ((27, 12), np.float32, object)
    same, maps = found.to_numpy("block")
    assert (maps.shape, maps.dtype) == ((27, 8, 8, 3), np.float32)
    assert list(same) == list(uris)
    table = found.to_arrow().to_table(columns=["block"])
    assert table.schema.field("block").type == pa.fixed_shape_tensor(pa.float32(), [8, 8, 3])
    tensors = [chunk.to_numpy_ndarray() for chunk in table["block"].chunks if len(chunk)]
    assert np.array_equal(np.concatenate(tensors), maps)


def test_a_column_that_is_no_vector_is_refused_with_the_nearest(dataset):
    with pytest.raises(DatasetError) as raised:
        open_dataset(str(dataset)).to_numpy("embeding")
    assert str(raised.value) == (
        "no vector column 'embeding'; did you mean 'embedding'? The dataset has: embedding, block"
    )
