"""The end of a run: its footers are read, proved to add up to the plan, and the manifest is written, last.

A run that was interrupted is ended the same way by the next one, with the status `adopted`.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from beam_pipeline import schema
from beam_pipeline.dataset import parts
from beam_pipeline.dataset.contract import Contract
from beam_pipeline.dataset.layout import RUN_PREFIX, Layout, relative_failures
from beam_pipeline.dataset.plan import Plan, read_plan
from beam_pipeline.errors import DatasetError
from beam_pipeline.storage import Storage
from beam_pipeline.uris import join, name_of, parent

COMPLETE, STOPPED, ADOPTED = "complete", "stopped", "adopted"
# Footers read at once: each is a few small reads, which on an object store are all latency.
FOOTERS_AT_ONCE = 16


def publish(layout: Layout, plan: Plan, contract: Contract, status: str, storage: Storage) -> dict[str, Any]:
    """Publishes a run.

    Args:
      layout: of the dataset.
      plan: of the run.
      contract: of the dataset.
      status: `complete` where every shard must be there; `stopped` or `adopted` where some may be missing.
      storage: the way to files.

    Returns:
      The manifest, of which `schemas/manifest-v1.json` is the published form.

    Raises:
      DatasetError: where the parts do not add up to the plan. Nothing is published then.
    """
    published = read_manifest(layout, plan.run_id, storage)
    if published is not None:  # another attempt at this step came first
        return published
    footers = _footers(layout, plan, storage)
    missing = [work for work in plan.work if work.shard not in footers]
    if missing and status == COMPLETE:
        raise DatasetError(f"run {plan.run_id!r} lacks {len(missing)} of its {len(plan.work)} parts")
    for work in plan.work:
        if work.shard in footers:
            _check(footers[work.shard], work.rows)
    if not missing:
        status = COMPLETE if status == STOPPED else status
    found = [footers[shard] for shard in sorted(footers)]
    _write_failures(layout, plan.run_id, contract, found, storage)
    manifest = _manifest(plan, contract, found, status, sum(work.rows for work in missing))
    _reconcile(manifest["counts"])
    if not storage.create(layout.manifest(plan.run_id), json.dumps(manifest, indent=1).encode()):
        return read_manifest(layout, plan.run_id, storage) or manifest
    return manifest


def read_manifest(layout: Layout, run_id: str, storage: Storage) -> dict[str, Any] | None:
    """The manifest of a run, or None while it is not published.

    Raises:
      DatasetError: where the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(storage.read(layout.manifest(run_id)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DatasetError(f"{layout.manifest(run_id)!r} is damaged: {error}") from error
    return found


def run_ids(layout: Layout, storage: Storage) -> list[str]:
    """The ids of all runs that have written anything down, sorted."""
    names = (name_of(info.uri) for info in storage.list(layout.runs))
    return [name for name in names if name.startswith(RUN_PREFIX)]  # file managers leave files of their own


def published_runs(layout: Layout, storage: Storage) -> list[dict[str, Any]]:
    """The manifests of all published runs, oldest first."""
    found = (read_manifest(layout, run_id, storage) for run_id in run_ids(layout, storage))
    return sorted((m for m in found if m is not None), key=lambda m: (m["finished_at"], m["run_id"]))


def adopt_interrupted(layout: Layout, contract: Contract, keep: str, storage: Storage) -> list[dict[str, Any]]:
    """Ends every run that was interrupted, but for the run `keep`, which is to go on. Nothing moves.

    Its finished parts are published with a manifest of their own. What it had not finished is planned again by the
    next run. Must be called under the dataset's lock.

    Returns:
      The manifests written.
    """
    adopted = []
    for run_id in run_ids(layout, storage):
        if run_id == keep or storage.exists(layout.manifest(run_id)):
            continue
        plan = read_plan(layout, run_id, storage)
        if plan is None:  # it had not begun to read pictures
            storage.delete_folder(layout.run(run_id))
        else:
            adopted.append(publish(layout, plan, contract, ADOPTED, storage))
    return adopted


def remove_leftovers(layout: Layout, storage: Storage) -> list[str]:
    """Removes what dead attempts left: temporary files, and parts that their run's manifest does not name.

    Must be called under the dataset's lock.

    Returns:
      What was removed.
    """
    removed = []
    for folder in storage.list(layout.embeddings):
        run_id = name_of(folder.uri).removeprefix("run_id=")
        manifest = read_manifest(layout, run_id, storage)
        named = {part["name"] for part in manifest["parts"]} if manifest else None
        for info in storage.list(folder.uri):
            name = name_of(info.uri)
            void = name.startswith("part-") and named is not None and name not in named
            if _is_temporary(name) or void:
                storage.delete(join(folder.uri, name))
                removed.append(info.uri)
    for run_id in run_ids(layout, storage):
        run = layout.run(run_id)
        for folder_uri in (run, parent(layout.work_list(run_id, "")), parent(layout.failures(run_id))):
            for info in storage.list(folder_uri):
                if _is_temporary(name_of(info.uri)):
                    storage.delete(info.uri)
                    removed.append(info.uri)
    return removed


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _footers(layout: Layout, plan: Plan, storage: Storage) -> dict[int, parts.Footer]:
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        names = [parts.part_of(plan, work) for work in plan.work]
        found = pool.map(lambda name: parts.read_footer(layout, plan.run_id, name, storage), names)
        return {footer.shard: footer for footer in found if footer is not None}


def _check(footer: parts.Footer, planned: int) -> None:
    found = footer.rows + footer.failures.num_rows
    if found != planned:
        raise DatasetError(f"part {footer.name!r} accounts for {found} pictures, its work list has {planned}")


def _write_failures(
    layout: Layout, run_id: str, contract: Contract, footers: Sequence[parts.Footer], storage: Storage
) -> None:
    uri = layout.failures(run_id)
    if not any(footer.failures.num_rows for footer in footers):
        return
    with storage.temporary(uri) as path:
        with pq.ParquetWriter(path, schema.failure_schema(contract.carried), compression="zstd") as writer:
            for footer in footers:
                if footer.failures.num_rows:
                    writer.write_table(footer.failures)
        # Without a manifest, what lies there is of an attempt that was killed, perhaps before the last parts came.
        storage.delete(uri)
        storage.commit(path, uri)


def _manifest(
    plan: Plan, contract: Contract, footers: Sequence[parts.Footer], status: str, unfinished: int
) -> dict[str, Any]:
    planned = plan.counts
    skipped = {
        "already_embedded": planned.already_embedded,
        "already_failed": planned.already_failed,
        "over_limit": planned.over_limit,
        "unfinished": unfinished,
    }
    first_failed = sum(footer.first_failed for footer in footers)
    committed = {footer.shard for footer in footers}
    kinds = Counter(kind for footer in footers for kind in footer.failures.column("kind").to_pylist())
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "run_id": plan.run_id,
        "status": status,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "fingerprint": contract.fingerprint,
        "counts": {
            "read": planned.read,
            "embedded": sum(footer.rows for footer in footers),
            "failed": sum(footer.failures.num_rows for footer in footers),
            "skipped": sum(skipped.values()),
            "duplicates": planned.duplicates,
            "conflicting": planned.conflicting,
        },
        "skipped": skipped,
        "first_attempts": {
            "tried": sum(work.first_attempts for work in plan.work if work.shard in committed),
            "failed": first_failed,
        },
        "failures": {
            "file": relative_failures(plan.run_id) if kinds else None,
            "kinds": dict(kinds.most_common()),
        },
        "parts": [
            {
                "name": footer.name,
                "rows": footer.rows,
                "failed": footer.failures.num_rows,
                "size_bytes": footer.size_bytes,
                "attempt": footer.attempt,
            }
            for footer in footers
        ],
        "settings": plan.settings,
        "plan": asdict(planned),
        "made_by": parts.made_by(),
    }


def _reconcile(counts: dict[str, int]) -> None:
    accounted = counts["embedded"] + counts["failed"] + counts["skipped"] + counts["duplicates"]
    if counts["read"] != accounted:
        raise DatasetError(f"{counts['read']} rows were read, {accounted} are accounted for: {counts}")
