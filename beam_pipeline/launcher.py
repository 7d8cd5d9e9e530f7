"""The whole job from Python: checks, resolves, locks, ends interrupted runs, runs the pipeline, reads the manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_pipeline import binding
from beam_pipeline.dataset import contract as contracts
from beam_pipeline.dataset.contract import Contract
from beam_pipeline.dataset.layout import Layout, run_id_from
from beam_pipeline.dataset.lock import locked
from beam_pipeline.dataset.plan import Plan, read_plan
from beam_pipeline.dataset.publish import adopt_interrupted, read_manifest, remove_leftovers
from beam_pipeline.errors import ConfigurationError, DatasetError
from beam_pipeline.inputs import check_sources
from beam_pipeline.job import Job, Work
from beam_pipeline.lists import Columns
from beam_pipeline.progress import TALLY
from beam_pipeline.references import CarriedColumn
from beam_pipeline.schema import check_carried_names
from beam_pipeline.spec import EmbeddingSpec, Limits
from beam_pipeline.storage import Storage
from beam_pipeline.uris import absolute, is_local, local_path, redacted


@dataclass(frozen=True)
class Observer:
    """What a caller may want to hear of while a job is on its way.

    Args:
      ready: called with the job when all checks are done and work is about to begin.
      adopted: called with the manifest of each interrupted run that was ended.
      resumed: called with the plan of a run that goes on; its inputs are not read again.
    """

    ready: Callable[[Job], None] = lambda job: None
    adopted: Callable[[Mapping[str, Any]], None] = lambda manifest: None
    resumed: Callable[[Plan], None] = lambda plan: None


@dataclass(frozen=True)
class Finished:
    """What came out of a call.

    Args:
      manifest: of the run.
      already_published: whether the run had been published before this call, which then did nothing.
      seconds: that the pipeline took.
    """

    manifest: dict[str, Any]
    already_published: bool
    seconds: float

    @property
    def failure_ratio(self) -> float:
        """Share of the pictures tried for the first time that failed."""
        first = self.manifest["first_attempts"]
        return first["failed"] / first["tried"] if first["tried"] else 0.0


def embed(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    spec: EmbeddingSpec,
    *,
    uri_column: str = "uri",
    keep_columns: Sequence[str | CarriedColumn] = (),
    id_column: str | None = None,
    run_id: str | None = None,
    work: Work | None = None,
    limits: Limits | None = None,
    storage_options: Mapping[str, Any] | None = None,
    runner: str = "FnApiRunner",
    beam_options: Sequence[str] = (),
    observer: Observer | None = None,
) -> Finished:
    """Embeds a corpus of images into a dataset: the command `beam-embed embed`, from Python.

    Args:
      inputs: globs, folders, pictures, and lists of URIs (text, CSV, JSON lines, Parquet).
      output: the folder of the dataset.
      spec: what is computed.
      uri_column: the column of the lists that holds the URI.
      keep_columns: columns to carry through, as `name` or `name:type`.
      id_column: the column that identifies a picture instead of its URI; it is carried through as well.
      run_id: of this run; by default made of the time. A run that is published is not run again.
      work: how it is done.
      limits: what a picture may cost.
      storage_options: for remote file systems; see `Storage`.
      runner: a Beam runner's name.
      beam_options: further flags for Beam.
      observer: told how far it is.

    Returns:
      The run's manifest. A run in which too many pictures failed is published all the same; see `failure_ratio`.

    Raises:
      ConfigurationError: for a mistake in the call, before any work starts.
      DatasetError: where the dataset is not in a state to go on, or another run is at work on it.

    Example:
      >>> embed("photos/**/*.jpg", "out", EmbeddingSpec(model="ResNet50"))  # doctest: +SKIP
    """
    from beam_pipeline import pipeline  # Beam takes a second to import

    options = pipeline.parse_options(runner, beam_options)
    observer = observer or Observer()
    storage = Storage(storage_options)
    layout = Layout(absolute(os.fspath(output)))
    run_id = run_id_from(run_id)
    done = read_manifest(layout, run_id, storage)
    if done is not None:
        return Finished(done, already_published=True, seconds=0.0)
    texts = [os.fspath(one) for one in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    wanted = _columns(uri_column, keep_columns, id_column, contracts.read_contract(layout, storage))
    sources, columns = check_sources(texts, wanted, storage, layout.root)
    _check_output(layout)
    resolved = binding.resolve(spec, storage)
    check_carried_names(resolved.spec, columns.carried)
    contract = Contract.of(resolved, columns.carried, id_column)
    work = work or Work()
    with locked(layout, run_id, storage):
        contracts.fix_contract(layout, contract, storage)
        if not pipeline.is_in_process(options):
            resolved = binding.share(resolved, layout.weights, storage)
        for manifest in adopt_interrupted(layout, contract, run_id, storage):
            observer.adopted(manifest)
        remove_leftovers(layout, storage)
        settings = _settings(texts, spec, work, runner)
        planned = read_plan(layout, run_id, storage)
        if planned is not None:
            _check_same_inputs(planned, settings)
            observer.resumed(planned)
        job = Job(
            resolved=resolved,
            contract=contract,
            layout=layout,
            run_id=run_id,
            sources=tuple(sources),
            columns=columns,
            work=work,
            limits=limits or Limits(),
            workers=pipeline.workers(options),
            deadline=None if work.stop_after_s is None else time.time() + work.stop_after_s,
            storage_options=dict(storage_options or {}),
            settings=settings,
        )
        observer.ready(job)
        TALLY.reset()
        begun = time.monotonic()
        pipeline.run_pipeline(job, options, planned)
        seconds = time.monotonic() - begun
        manifest = _published(layout, run_id, storage)
    return Finished(manifest, already_published=False, seconds=seconds)


def _columns(
    uri_column: str, keep: Sequence[str | CarriedColumn], id_column: str | None, existing: Contract | None
) -> Columns:
    """The wanted columns. Types that the dataset's first run has fixed hold for all later ones."""
    if isinstance(keep, str):
        raise ConfigurationError(f"keep_columns is a sequence of columns, received {keep!r}")
    carried = [column if isinstance(column, CarriedColumn) else CarriedColumn.parse(column) for column in keep]
    if id_column is not None and id_column not in [column.name for column in carried]:
        carried.append(CarriedColumn(id_column))
    fixed = {column.name: column.type for column in existing.carried} if existing else {}
    typed = tuple(replace(column, type=fixed.get(column.name)) if column.type is None else column for column in carried)
    return Columns(uri_column, typed, id_column)


def _check_same_inputs(planned: Plan, settings: Mapping[str, Any]) -> None:
    """Refuses to go on with the plan of a run whose inputs were others: this call's would never be read."""
    before, now = planned.settings["inputs"], settings["inputs"]
    if before != now:
        raise ConfigurationError(
            f"run {planned.run_id!r} was begun with the inputs {before}, this call has {now}; "
            "a run goes on by its plan, so give the same inputs, or another run id"
        )


def _check_output(layout: Layout) -> None:
    """Refuses a local output that cannot be written, before the model is built; a remote one shows at the lock."""
    if not is_local(layout.root):
        return
    path = local_path(layout.root)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise ConfigurationError(f"the output {layout.root!r} cannot be written: {path!r} is a file")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"the output {layout.root!r} cannot be written: no permission to write to {path!r}")


def _settings(texts: Sequence[str], spec: EmbeddingSpec, work: Work, runner: str) -> dict[str, Any]:
    """What the run was asked for, for its manifest. Without storage options, which may hold secrets."""
    return {
        "inputs": [redacted(text) for text in texts],
        "weights": redacted(spec.weights),
        "runner": runner,
        "batch_size": work.batch_size,
        "images_per_shard": work.images_per_shard,
        "retry_failed": work.retry_failed,
        "limit": work.limit,
        "stop_after_s": work.stop_after_s,
        "max_failure_ratio": work.max_failure_ratio,
    }


def _published(layout: Layout, run_id: str, storage: Storage) -> dict[str, Any]:
    manifest = read_manifest(layout, run_id, storage)
    if manifest is None:
        raise DatasetError(f"the pipeline ended without publishing run {run_id!r}")
    return manifest
