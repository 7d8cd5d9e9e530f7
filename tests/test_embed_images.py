"""`EmbedImages` in a pipeline of one's own gives what the `Embedder` alone gives, and every counter is exact."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline as PipelineUnderTest
from apache_beam.testing.util import assert_that
from fakes import SPEC, FakeEngine, draw_pictures, fake_resolved, references, use_fakes

from beam_pipeline import EmbeddingSpec, EmbedImages, Limits, Work
from beam_pipeline.dataset.contract import Contract
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.plan import Plan, read_plan
from beam_pipeline.embedder import Embedder
from beam_pipeline.inputs import Source
from beam_pipeline.job import Job
from beam_pipeline.lists import Columns
from beam_pipeline.metrics import NAMESPACE
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.storage import Storage

# By name: the class called DirectRunner looks for another engine first.
RUNNER = "FnApiRunner"


def run_counted(pipeline: beam.Pipeline) -> dict[str, int]:
    """Runs a pipeline to its end. Its counters."""
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    return {one.key.metric.name: one.committed for one in found}


def rows_alone(paths: list[str]) -> list[dict]:
    """What the `Embedder` gives without Beam, by URI."""
    embedded = Embedder(fake_resolved(), FakeEngine(), Storage()).embed(references(paths))
    return sorted(pa.Table.from_batches([one.rows for one in embedded]).to_pylist(), key=lambda row: row["uri"])


def are_rows(expected: list[dict]) -> Callable[[Iterable[pa.RecordBatch]], None]:
    def check(batches: Iterable[pa.RecordBatch]) -> None:
        found = [row for batch in batches for row in batch.to_pylist()]
        assert sorted(found, key=lambda row: row["uri"]) == expected

    return check


def are(expected: list[dict]) -> Callable[[Iterable[dict]], None]:
    def check(found: Iterable[dict]) -> None:
        assert sorted(found, key=lambda one: one["uri"]) == expected

    return check


def bad_pictures(folder: Path, good: str) -> list[str]:
    (folder / "torn.png").write_bytes(Path(good).read_bytes()[:60])
    (folder / "empty.png").write_bytes(b"")
    return [str(folder / "torn.png"), str(folder / "empty.png"), str(folder / "gone.png")]


@pytest.mark.parametrize("count", [1, 4, 23])
def test_a_pipeline_gives_the_rows_that_the_embedder_alone_gives(tmp_path, monkeypatch, count):
    engines = use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path, count)
    pipeline = PipelineUnderTest(runner=RUNNER)
    batches = pipeline | beam.Create(paths) | EmbedImages(SPEC, batch_size=4)
    assert batches.element_type == pa.RecordBatch
    assert_that(batches, are_rows(rows_alone(paths)))
    assert run_counted(pipeline) == {"images_embedded": count, "images_failed": 0}
    assert len(engines) == 1, "one model for the process"


def test_no_uris_give_no_batches(monkeypatch):
    use_fakes(monkeypatch)
    with PipelineUnderTest(runner=RUNNER) as pipeline:
        batches, failures = pipeline | beam.Create([]) | EmbedImages(SPEC).with_failures()
        assert_that(batches, are_rows([]), "batches")
        assert_that(failures, are([]), "failures")


def test_failures_come_out_beside_the_batches_when_asked_for(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path, 6)
    torn, empty, gone = bad_pictures(tmp_path, paths[0])
    pipeline = PipelineUnderTest(runner=RUNNER)
    uris = [torn, *paths, gone, empty]
    batches, failures = pipeline | beam.Create(uris) | EmbedImages(SPEC, batch_size=4).with_failures()
    assert_that(batches, are_rows(rows_alone(paths)), "batches")
    kinds = failures | beam.Map(lambda failure: failure | {"message": bool(failure["message"])})
    expected = [
        {"uri": empty, "stage": "fetch", "kind": "empty", "message": True, "retryable": False},
        {"uri": gone, "stage": "fetch", "kind": "not_found", "message": True, "retryable": True},
        {"uri": torn, "stage": "decode", "kind": "corrupt", "message": True, "retryable": False},
    ]
    assert_that(kinds, are(expected), "failures")
    assert run_counted(pipeline) == {"images_embedded": 6, "images_failed": 3}


def test_without_asking_failures_are_no_rows_but_are_counted_and_logged(tmp_path, monkeypatch, caplog):
    use_fakes(monkeypatch)
    caplog.set_level(logging.WARNING)
    paths = draw_pictures(tmp_path, 2)
    pipeline = PipelineUnderTest(runner=RUNNER)
    batches = pipeline | beam.Create([*paths, *bad_pictures(tmp_path, paths[0])]) | EmbedImages(SPEC)
    assert_that(batches, are_rows(rows_alone(paths)))
    assert run_counted(pipeline) == {"images_embedded": 2, "images_failed": 3}
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("beam_pipeline")]
    # One line a bundle, however many pictures; the runner may cut the input into several.
    assert sum(int(line.partition(" ")[0]) for line in warned) == 3
    assert all(line.endswith("pictures of this bundle gave no vector") for line in warned)


def test_limits_hold_in_a_pipeline_too(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    [path] = draw_pictures(tmp_path, 1)
    with PipelineUnderTest(runner=RUNNER) as pipeline:
        _, failures = pipeline | beam.Create([path]) | EmbedImages(SPEC, limits=Limits(max_pixels=5)).with_failures()
        kinds = failures | beam.Map(lambda failure: {"uri": failure["uri"], "kind": failure["kind"]})
        assert_that(kinds, are([{"uri": path, "kind": "too_many_pixels"}]))


def test_the_transform_pickles_before_it_is_applied(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path, 3)
    transform = pickle.loads(pickle.dumps(EmbedImages(SPEC, batch_size=4, storage_options={"s3.anon": True})))
    with PipelineUnderTest(runner=RUNNER) as pipeline:
        assert_that(pipeline | beam.Create(paths) | transform, are_rows(rows_alone(paths)))


def test_making_the_transform_neither_resolves_the_spec_nor_reads_anything(monkeypatch):
    def never(*args: object) -> None:
        pytest.fail("a constructor does no I/O")

    monkeypatch.setattr("beam_pipeline.binding.resolve", never)
    spec = EmbeddingSpec(model="VGG19", weights="/nowhere/vgg19.weights.h5")
    EmbedImages(spec, staging="s3://nowhere").with_failures()


def test_the_job_counts_every_row_picture_shard_and_byte(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 11)
    bad = bad_pictures(tmp_path / "in", paths[0])
    (tmp_path / "list.txt").write_text("\n".join([*paths, *bad, paths[0]]))
    resolved, layout = fake_resolved(), Layout(str(tmp_path / "out"))
    job = Job(
        resolved,
        Contract.of(resolved, (), None),
        layout,
        "r-one",
        (Source(str(tmp_path / "list.txt"), (0, 0), "text"),),
        Columns(),
        Work(batch_size=4, images_per_shard=1000),
        workers=3,
    )

    def run_job(planned: Plan | None) -> dict[str, int]:
        pipeline = PipelineUnderTest(runner=RUNNER)
        build_pipeline(job, pipeline, planned)
        return run_counted(pipeline)

    assert run_job(None) == {
        "rows_read": 15,
        "images_embedded": 11,
        "images_failed": 3,
        "shards_committed": 3,
        "fetched_bytes": sum(Path(path).stat().st_size for path in paths),
    }
    planned = read_plan(layout, "r-one", Storage())
    assert run_job(planned) == {"shards_found": 3}, "started again, it computes nothing twice"
