"""What earlier runs did with which picture, keyed like the image references."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow.parquet as pq

from beam_pipeline.dataset.publish import published_runs
from beam_pipeline.earlier import EMBEDDED, failed_marker
from beam_pipeline.job import Job
from beam_pipeline.references import stable_key, to_transit

ROWS_AT_ONCE = 4096


class ReadEarlier(beam.PTransform):
    """Pipeline -> `PCollection[tuple[bytes, bytes]]`: a marker for each picture that a published run has tried."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, pbegin: beam.Pipeline) -> beam.PCollection[tuple[bytes, bytes]]:
        """Wires the step."""
        return (
            pbegin
            | "Dataset" >> beam.Create([None])
            | "Files" >> beam.ParDo(_Files(self._job))
            # A fusion break: the files of all runs are read by several workers.
            | "SpreadFiles" >> beam.Reshuffle()
            | "Identities" >> beam.ParDo(_Identities(self._job))
        )


class _Files(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: None) -> Iterator[tuple[str, str]]:
        storage, layout = self._job.storage(), self._job.layout
        if storage.exists(layout.plan(self._job.run_id)):
            return
        for manifest in published_runs(layout, storage):
            for part in manifest["parts"]:
                if part["rows"]:
                    yield layout.part(manifest["run_id"], part["name"]), ""
            if manifest["counts"]["failed"]:
                yield layout.failures(manifest["run_id"]), manifest["finished_at"]


class _Identities(beam.DoFn):
    """`(file, "")` for a part, `(file, time of the run)` for failure rows."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, str]) -> Iterator[tuple[bytes, bytes]]:
        uri, failed_at = element
        name = self._job.contract.identity_column
        columns = [name, "retryable"] if failed_at else [name]
        with self._job.storage().open(uri) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(ROWS_AT_ONCE, columns=columns):
                identities = to_transit(batch.column(name))  # as the inputs write them
                retryable = batch.column("retryable").to_pylist() if failed_at else [False] * len(identities)
                for identity, again in zip(identities, retryable, strict=True):
                    if identity is not None:
                        marker = failed_marker(failed_at, again) if failed_at else EMBEDDED
                        yield stable_key(str(identity)), marker
