"""The end of the run as a step of the pipeline: counts reconciled, failure rows and manifest written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam

from beam_pipeline.dataset.plan import read_plan
from beam_pipeline.dataset.publish import COMPLETE, STOPPED, publish
from beam_pipeline.errors import DatasetError
from beam_pipeline.job import Job


class PublishRun(beam.PTransform):
    """`PCollection[int]` of committed shards -> `PCollection[str]`, the id of the published run."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, shards: beam.PCollection[int]) -> beam.PCollection[str]:
        """Wires the step. The side input is what makes it wait for every shard."""
        once = shards.pipeline | "Once" >> beam.Create([None])
        return once | "Publish" >> beam.ParDo(_Publish(self._job), beam.pvalue.AsList(shards))


class _Publish(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: None, shards: Sequence[int]) -> Iterator[str]:
        job, storage = self._job, self._job.storage()
        plan = read_plan(job.layout, job.run_id, storage)
        if plan is None:
            raise DatasetError(f"run {job.run_id!r} has no plan")
        status = COMPLETE if job.deadline is None else STOPPED
        publish(job.layout, plan, job.contract, status, storage)
        yield job.run_id
