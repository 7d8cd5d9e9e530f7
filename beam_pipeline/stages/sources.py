"""The inputs -> image references, keyed by the hash that duplicates share."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from beam_pipeline import metrics
from beam_pipeline.inputs import Source, expand, read
from beam_pipeline.job import Job


class ReadReferences(beam.PTransform):
    """Pipeline -> `PCollection[tuple[bytes, bytes]]`: each row of the inputs, packed, under its key.

    Nothing comes out once the run has a plan: an engine that starts the job again must not list the inputs again,
    since pictures would be lost or repeated as soon as the listing has changed.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, pbegin: beam.Pipeline) -> beam.PCollection[tuple[bytes, bytes]]:
        """Wires the step."""
        return (
            pbegin
            | "Inputs" >> beam.Create(list(self._job.sources))
            | "Lists" >> beam.ParDo(_Expand(self._job))
            # A fusion break: several lists are read by several workers.
            | "SpreadLists" >> beam.Reshuffle()
            | "Rows" >> beam.ParDo(_Read(self._job))
        )


class _Expand(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, source: Source) -> Iterator[Source]:
        storage = self._job.storage()
        if not storage.exists(self._job.layout.plan(self._job.run_id)):
            yield from expand(source, storage)


class _Read(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._rows = beam.metrics.Metrics.counter(metrics.NAMESPACE, metrics.READ)

    def process(self, source: Source) -> Iterator[tuple[bytes, bytes]]:
        for reference in read(source, self._job.columns, self._job.storage(), self._job.layout.root):
            self._rows.inc()
            yield reference.key(), reference.pack()
