"""The work: shards into parts for the job, and URIs into record batches for pipelines of one's own.

Both are thin; both call one `Embedder`, one for each process however many threads it has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline import binding, engines, metrics
from beam_pipeline.dataset.plan import WorkList, read_plan
from beam_pipeline.embedder import Embedder
from beam_pipeline.errors import DatasetError
from beam_pipeline.job import Job
from beam_pipeline.progress import TALLY
from beam_pipeline.references import ImageReference
from beam_pipeline.results import Embedded, Failed
from beam_pipeline.shard import embed_shard
from beam_pipeline.spec import EmbeddingSpec, Limits, ResolvedSpec
from beam_pipeline.storage import Storage

# URIs that EmbedImages gathers before it embeds them: enough that the stream's start and end do not count.
URIS_AT_ONCE = 1024
FAILURES_TAG = "failures"


class EmbedShards(beam.PTransform):
    """`PCollection[WorkList]` -> `PCollection[int]`, the numbers of the shards whose parts are committed."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, work: beam.PCollection[WorkList]) -> beam.PCollection[int]:
        """Wires the step."""
        # A fusion break: without it one worker would keep all shards of the plan it has written.
        return work | "SpreadShards" >> beam.Reshuffle() | "EmbedShard" >> beam.ParDo(EmbedShard(self._job))


class EmbedShard(beam.DoFn):
    """One shard into one committed part."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shared = Shared()
        counter = beam.metrics.Metrics.counter
        self._embedded = counter(metrics.NAMESPACE, metrics.EMBEDDED)
        self._failed = counter(metrics.NAMESPACE, metrics.FAILED)
        self._bytes = counter(metrics.NAMESPACE, metrics.FETCHED_BYTES)
        self._committed = counter(metrics.NAMESPACE, metrics.SHARDS_COMMITTED)
        self._found = counter(metrics.NAMESPACE, metrics.SHARDS_FOUND)

    def setup(self) -> None:
        """Loads the model, once for each process, unless it is known already that there is nothing to embed.

        Engines that run one step after the other have the plan by now. It tells how many pictures there are, which
        decides how the model is best run; the others start all steps at once, and the model is then made for many.
        """
        self._storage = self._job.storage()
        self._plan = read_plan(self._job.layout, self._job.run_id, self._storage)
        if self._plan is None:
            self._embedder = self._load(None)
        elif self._plan.work:
            self._embedder = self._load(self._plan.counts.new // self._job.workers)

    def process(self, work: WorkList) -> Iterator[int]:
        """Embeds one shard, unless the time for it is over."""
        if self._job.deadline is not None and time.time() >= self._job.deadline:
            return
        job = self._job
        self._plan = self._plan or read_plan(job.layout, job.run_id, self._storage)
        if self._plan is None:
            raise DatasetError(f"run {job.run_id!r} has no plan")
        result = embed_shard(
            job.layout, self._plan, work, job.resolved, job.columns.carried, self._storage, self._embedder, self._count
        )
        if result.ours:
            self._committed.inc()
        else:
            self._found.inc()
            rows, failed = result.footer.rows, result.footer.failures.num_rows
            TALLY.add(rows, failed, found=rows + failed)
        yield work.shard

    def _load(self, images: int | None) -> Embedder:
        job = self._job
        embedder: Embedder = self._shared.acquire(
            lambda: make_embedder(
                job.resolved,
                self._storage,
                job.work.batch_size,
                job.work.threads,
                job.limits,
                job.columns.carried,
                images,
            )
        )
        return embedder

    def _count(self, embedded: Embedded) -> None:
        self._embedded.inc(embedded.rows.num_rows)
        self._failed.inc(len(embedded.failures))
        self._bytes.inc(embedded.fetched_bytes)
        TALLY.add(embedded.rows.num_rows, len(embedded.failures))


class EmbedImages(beam.PTransform):
    """`PCollection[str]` of URIs -> `PCollection[pyarrow.RecordBatch]`, for any sink.

    Args:
      spec: what is computed. The launcher resolves it when the transform is applied.
      batch_size: pictures in one call of the model.
      limits: what a picture may cost.
      storage_options: for remote file systems.
      staging: a folder to which the weights are copied for workers on other machines; None where every worker sees
        the launcher's files.

    URIs come from bounded input in the global window: batches are formed across elements. A picture that gives no
    vector is no row; it is counted in `images_failed` and logged once a bundle. With
    `.with_failures()` the transform gives two PCollections: the batches, and a dictionary for each failure.

    Example:
      >>> import apache_beam as beam
      >>> spec = EmbeddingSpec(model="MobileNetV2", weights="random:1")
      >>> with beam.Pipeline("FnApiRunner") as p:  # doctest: +SKIP
      ...     p | beam.Create(["a.jpg", "b.jpg"]) | EmbedImages(spec) | beam.Map(print)
    """

    def __init__(
        self,
        spec: EmbeddingSpec,
        *,
        batch_size: int = 32,
        limits: Limits | None = None,
        storage_options: Mapping[str, Any] | None = None,
        staging: str | None = None,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._batch_size = batch_size
        self._limits = limits or Limits()
        self._storage_options = dict(storage_options or {})
        self._staging = staging
        self._failures = False

    def with_failures(self) -> EmbedImages:
        """Makes the transform give `(batches, failures)`, and returns it."""
        self._failures = True
        return self

    def expand(self, uris: beam.PCollection[str]) -> Any:
        """Resolves the spec and wires the step."""
        storage = Storage(self._storage_options)
        resolved = binding.resolve(self._spec, storage)
        if self._staging:
            resolved = binding.share(resolved, self._staging, storage)
        work = _EmbedUris(resolved, self._batch_size, self._limits, self._storage_options)
        outputs = uris | "EmbedUris" >> beam.ParDo(work).with_outputs(FAILURES_TAG, main="batches")
        outputs.batches.element_type = pa.RecordBatch
        return (outputs.batches, outputs[FAILURES_TAG]) if self._failures else outputs.batches


class _EmbedUris(beam.DoFn):
    def __init__(
        self, resolved: ResolvedSpec, batch_size: int, limits: Limits, storage_options: Mapping[str, Any]
    ) -> None:
        self._resolved = resolved
        self._batch_size = batch_size
        self._limits = limits
        self._storage_options = storage_options
        self._shared = Shared()
        self._embedded = beam.metrics.Metrics.counter(metrics.NAMESPACE, metrics.EMBEDDED)
        self._failed = beam.metrics.Metrics.counter(metrics.NAMESPACE, metrics.FAILED)

    def setup(self) -> None:
        storage = Storage(self._storage_options)
        self._embedder: Embedder = self._shared.acquire(
            lambda: make_embedder(self._resolved, storage, self._batch_size, None, self._limits)
        )

    def start_bundle(self) -> None:
        self._waiting: list[str] = []
        self._failures = 0

    def process(self, uri: str) -> Iterator[Any]:
        self._waiting.append(uri)
        if len(self._waiting) >= URIS_AT_ONCE:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        window = GlobalWindow()
        for output in self._flush():
            tagged = isinstance(output, beam.pvalue.TaggedOutput)
            value = WindowedValue(output.value if tagged else output, window.max_timestamp(), (window,))
            yield beam.pvalue.TaggedOutput(output.tag, value) if tagged else value
        if self._failures:
            logging.getLogger(__name__).warning("%d pictures of this bundle gave no vector", self._failures)

    def _flush(self) -> Iterator[Any]:
        references = [ImageReference(uri, (0, 0, row), identity=uri) for row, uri in enumerate(self._waiting)]
        self._waiting = []
        for embedded in self._embedder.embed(references):
            self._embedded.inc(embedded.rows.num_rows)
            self._failed.inc(len(embedded.failures))
            self._failures += len(embedded.failures)
            if embedded.rows.num_rows:
                yield embedded.rows
            for failed in embedded.failures:
                yield beam.pvalue.TaggedOutput(FAILURES_TAG, _failure(failed))


def make_embedder(
    resolved: ResolvedSpec,
    storage: Storage,
    batch_size: int,
    threads: int | None,
    limits: Limits,
    carried: Any = (),
    images: int | None = None,
) -> Embedder:
    """Loads the engine and puts an `Embedder` around it."""
    engine = engines.load(resolved, storage, batch_size, images)
    return Embedder(resolved, engine, storage, limits=limits, carried=carried, threads=threads)


def _failure(failed: Failed) -> dict[str, Any]:
    failure = failed.failure
    return {
        "uri": failed.reference.uri,
        "stage": failure.stage,
        "kind": failure.kind,
        "message": failure.message,
        "retryable": failure.retryable,
    }
