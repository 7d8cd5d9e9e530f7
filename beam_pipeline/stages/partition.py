"""The plan of a run: duplicates and earlier work taken out, what is new divided into shards, all of it written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.dataset.plan import (
    Plan,
    PlanCounts,
    WorkList,
    read_plan,
    shard_of,
    shards_for,
    write_plan,
    write_work_list,
)
from beam_pipeline.earlier import decide
from beam_pipeline.job import Job
from beam_pipeline.references import ImageReference

Keyed = tuple[bytes, bytes]


class PlanRun(beam.PTransform):
    """`{"references": …, "earlier": …}` -> `PCollection[WorkList]`, once work lists and `plan.json` are written."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, pcolls: dict[str, beam.PCollection[Keyed]]) -> beam.PCollection[WorkList]:
        """Wires the step."""
        job = self._job
        decided = (
            pcolls
            | "SamePicture" >> beam.CoGroupByKey()
            | "Decide" >> beam.ParDo(_Decide(job.work.retry_failed)).with_outputs("counts", main="new")
        )
        counts = decided.counts | "SumCounts" >> beam.CombineGlobally(_sum_counts)
        new = decided.new
        if job.work.limit is not None:
            first = beam.combiners.Top.Smallest(job.work.limit, key=_order)
            new = new | "FirstOfInput" >> first | "Flatten" >> beam.FlatMap(lambda found: found)
            counts = counts | "OverLimit" >> beam.Map(_limited, job.work.limit)
        total = beam.pvalue.AsSingleton(counts)
        lists = (
            new
            | "Shard" >> beam.Map(_sharded, job, total).with_output_types(tuple[int, bytes])
            | "SameShard" >> beam.GroupByKey()
            | "WriteWorkLists" >> beam.ParDo(_WriteWorkList(job))
        )
        return (
            lists.pipeline
            | "Once" >> beam.Create([None])
            | "WritePlan" >> beam.ParDo(_WritePlan(job), beam.pvalue.AsList(lists), total)
        )


class PlannedWork(beam.PTransform):
    """Pipeline -> `PCollection[WorkList]` of a run whose plan is fixed already."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, pbegin: beam.Pipeline) -> beam.PCollection[WorkList]:
        """Wires the step."""
        return pbegin | "Planned" >> beam.Create(list(self._plan.work))


class _Decide(beam.DoFn):
    def __init__(self, retry_failed: str) -> None:
        self._retry_failed = retry_failed

    def start_bundle(self) -> None:
        self._counts = PlanCounts()

    def process(self, element: tuple[bytes, dict[str, Iterable[bytes]]]) -> Iterator[Keyed]:
        key, found = element
        references = [ImageReference.unpack(packed) for packed in found["references"]]
        if not references:  # embedded earlier, and no longer in the input
            return
        decision = decide(references, found["earlier"], self._retry_failed)
        self._counts += decision.counts
        if decision.new is not None:
            yield key, decision.new.pack()

    def finish_bundle(self) -> Iterator[Any]:
        # One sum for each bundle, not a count for each picture.
        window = GlobalWindow()
        yield beam.pvalue.TaggedOutput("counts", WindowedValue(self._counts, window.max_timestamp(), (window,)))


class _WriteWorkList(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[WorkList]:
        shard, packed = element
        references = (ImageReference.unpack(one) for one in packed)
        job = self._job
        yield write_work_list(job.layout, job.run_id, shard, references, job.columns.carried, job.storage())


class _WritePlan(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: None, lists: Sequence[WorkList], counts: PlanCounts) -> Iterator[WorkList]:
        job, storage = self._job, self._job.storage()
        plan = read_plan(job.layout, job.run_id, storage)
        if plan is None:
            work = tuple(sorted(lists, key=lambda one: one.shard))
            planned = Plan(job.run_id, _shards(job, counts), counts, work, dict(job.settings))
            plan = write_plan(job.layout, planned, storage)
        yield from plan.work


def _order(element: Keyed) -> Any:
    return ImageReference.unpack(element[1]).order()


def _sharded(element: Keyed, job: Job, counts: PlanCounts) -> tuple[int, bytes]:
    key, packed = element
    return shard_of(key, _shards(job, counts)), packed


def _shards(job: Job, counts: PlanCounts) -> int:
    return shards_for(counts.new, job.work.images_per_shard, job.workers, job.work.batch_size)


def _sum_counts(counts: Iterable[PlanCounts]) -> PlanCounts:
    return sum(counts, PlanCounts())


def _limited(counts: PlanCounts, limit: int) -> PlanCounts:
    over = max(0, counts.new - limit)
    return counts + PlanCounts(over_limit=over, new=-over)
