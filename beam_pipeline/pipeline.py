"""The way of the data, as code: inputs and earlier work -> plan -> shards -> parts -> publish."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from beam_pipeline.dataset.plan import Plan
from beam_pipeline.errors import ConfigurationError, nearest
from beam_pipeline.job import Job
from beam_pipeline.stages.earlier import ReadEarlier
from beam_pipeline.stages.embed import EmbedShards
from beam_pipeline.stages.partition import PlannedWork, PlanRun
from beam_pipeline.stages.publish import PublishRun
from beam_pipeline.stages.sources import ReadReferences

# Named directly: the class called DirectRunner first tries to download another engine, without a time limit.
IN_PROCESS = "FnApiRunner"
# Options that say how many processes will work at once, on one runner or another.
_WORKER_OPTIONS = ("direct_num_workers", "parallelism", "max_num_workers", "num_workers")


def build_pipeline(job: Job, pipeline: beam.Pipeline, planned: Plan | None = None) -> beam.PCollection[str]:
    """Wires one run.

    Args:
      job: what is to be done.
      pipeline: to wire it into.
      planned: the plan of a run that is to go on; its inputs are not read again.

    Returns:
      The id of the run, once it is published.
    """
    if planned is None:
        work = {
            "references": pipeline | "ReadReferences" >> ReadReferences(job),
            "earlier": pipeline | "ReadEarlier" >> ReadEarlier(job),
        } | "PlanRun" >> PlanRun(job)
    else:
        work = pipeline | "PlannedWork" >> PlannedWork(planned)
    return work | "EmbedShards" >> EmbedShards(job) | "PublishRun" >> PublishRun(job)


def run_pipeline(job: Job, options: PipelineOptions, planned: Plan | None = None) -> None:
    """Runs one run to its end.

    Raises:
      Exception: whatever the runner raises where the job failed.
    """
    pipeline = beam.Pipeline(options=options)
    build_pipeline(job, pipeline, planned)
    pipeline.run().wait_until_finish()


def parse_options(runner: str, flags: Sequence[str]) -> PipelineOptions:
    """Beam's options from a command line.

    Raises:
      ConfigurationError: for a runner that is not there, for a value that Beam refuses, and for a flag that neither
        Beam nor, as far as can be known here, the runner has.
    """
    # Beam takes its runners' names in any case, and without their ending.
    name = IN_PROCESS if runner.lower().removesuffix("runner") in ("direct", "fnapi") else runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigurationError(f"the runner {runner!r} cannot be used: {error}") from error
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):  # Beam's parser would print a hundred lines of usage and exit
            options = PipelineOptions([f"--runner={name}", *flags])
            given = set(options.get_all_options(retain_unknown_options=True))
    except SystemExit as error:
        reason = refusal.getvalue().strip().rpartition("error: ")[2]
        raise ConfigurationError(f"Beam refuses its options: {reason}") from error
    known = set(PipelineOptions([]).get_all_options())
    for unknown in sorted(given - known):
        # A portable runner's job server may have options of its own, which only it knows; in Beam's style of writing.
        if name == IN_PROCESS or "-" in unknown:
            raise ConfigurationError(
                f"unknown option --{unknown}{nearest(unknown, known)} neither beam-embed nor Beam has it"
            )
    return options


def is_in_process(options: PipelineOptions) -> bool:
    """Whether the workers are this process, and so see its files and its memory."""
    every: dict[str, Any] = options.get_all_options()
    return every.get("runner") == IN_PROCESS and every.get("direct_running_mode") in (None, "in_memory")


def workers(options: PipelineOptions) -> int:
    """How many processes the options give the work, at least one."""
    every: dict[str, Any] = options.get_all_options()
    return max(1, *(int(every.get(name) or 1) for name in _WORKER_OPTIONS))
