"""The plan of a run: its work lists and `plan.json`, each created only if absent. Nobody plans a run twice.

A work list's name holds the digest of its content. Should an engine plan a second time while the first is still at
it, the lists of the two cannot be mixed up: the one `plan.json` that comes first names its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.dataset.layout import Layout
from beam_pipeline.errors import DatasetError
from beam_pipeline.references import CarriedColumn, ImageReference, from_transit, to_transit
from beam_pipeline.schema import SCHEMA_VERSION, carried_fields
from beam_pipeline.storage import Storage

# In front of carried columns' names in a work list: an input may have a column called `_uri`.
_CARRIED = "carried."


@dataclass(frozen=True)
class WorkList:
    """One shard as the plan knows it.

    Args:
      shard: its number, from 0.
      name: of its file among the run's work lists.
      rows: image references in it.
      first_attempts: those of them that no earlier run has tried. Rows without URI are none: nobody can tell whether
        an earlier run had them.
    """

    shard: int
    name: str
    rows: int
    first_attempts: int


@dataclass(frozen=True)
class PlanCounts:
    """What became of the rows of the input before any picture was read.

    Args:
      read: rows of the input.
      duplicates: rows whose picture another row names already.
      conflicting: those of them whose carried values differ from the row that was kept.
      already_embedded: pictures that an earlier run has embedded.
      already_failed: pictures that failed in an earlier run and are not to be tried again.
      over_limit: pictures left for another run by `--limit`.
      new: pictures of this run.
    """

    read: int = 0
    duplicates: int = 0
    conflicting: int = 0
    already_embedded: int = 0
    already_failed: int = 0
    over_limit: int = 0
    new: int = 0

    def __add__(self, other: PlanCounts) -> PlanCounts:
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return PlanCounts(**{name: mine + theirs for (name, mine), theirs in pairs})


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Args:
      run_id: of the run.
      shards: K. A shard without a work list has nothing in it.
      counts: how the rows of the input add up to it.
      work: the work lists, by shard.
      settings: what the run was asked for, for its manifest.
    """

    run_id: str
    shards: int
    counts: PlanCounts
    work: tuple[WorkList, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `plan.json`; `schemas/plan-v1.json` is its published form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "shards": self.shards,
            "counts": asdict(self.counts),
            "work": [asdict(one) for one in self.work],
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Plan:
        """The reverse of `to_json`."""
        work = tuple(WorkList(**one) for one in document["work"])
        counts = PlanCounts(**document["counts"])
        return cls(document["run_id"], document["shards"], counts, work, document["settings"])


def shards_for(new: int, images_per_shard: int, workers: int, batch_size: int) -> int:
    """K: as many shards as `images_per_shard` asks for; more and smaller ones where workers would stand idle.

    A shard of less than a batch would waste the batch's remainder, so there are never more than full batches.
    """
    if not new:
        return 0
    wanted = -(-new // images_per_shard)
    return max(wanted, min(workers, new // batch_size))


def shard_of(key: bytes, shards: int) -> int:
    """The shard of a reference, by the hash of its identity."""
    return int.from_bytes(key[:8], "big") % shards


def write_work_list(
    layout: Layout,
    run_id: str,
    shard: int,
    references: Iterable[ImageReference],
    carried: Sequence[CarriedColumn],
    storage: Storage,
) -> WorkList:
    """Writes the references of one shard, in the order of the input."""
    ordered = sorted(references, key=ImageReference.order)
    sink = pa.BufferOutputStream()
    pq.write_table(_to_table(ordered, carried), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    name = f"{shard:05d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    storage.create(layout.work_list(run_id, name), data)
    return WorkList(shard, name, len(ordered), sum(reference.is_first_attempt for reference in ordered))


def read_work_list(
    layout: Layout, run_id: str, work: WorkList, carried: Sequence[CarriedColumn], storage: Storage
) -> list[ImageReference]:
    """The references of one shard, in the order of the input.

    Raises:
      DatasetError: where the list is gone or is not the planned one.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read(layout.work_list(run_id, work.name))))
    except (OSError, pa.ArrowInvalid) as error:  # a damaged Parquet file is either, depending on where
        raise DatasetError(f"work list {work.name!r} of run {run_id!r} cannot be read: {error}") from error
    if table.num_rows != work.rows:
        raise DatasetError(f"work list {work.name!r} has {table.num_rows} rows, planned were {work.rows}")
    return list(_from_table(table, carried))


def write_plan(layout: Layout, plan: Plan, storage: Storage) -> Plan:
    """Fixes the plan of a run. Where one is fixed already, that one is returned."""
    data = json.dumps(plan.to_json(), indent=1).encode()
    if storage.create(layout.plan(plan.run_id), data):
        return plan
    fixed = read_plan(layout, plan.run_id, storage)
    if fixed is None:
        raise DatasetError(f"the plan of run {plan.run_id!r} was there and is gone")
    return fixed


def read_plan(layout: Layout, run_id: str, storage: Storage) -> Plan | None:
    """The fixed plan of a run, or None before there is one.

    Raises:
      DatasetError: where the file is damaged.
    """
    try:
        return Plan.from_json(json.loads(storage.read(layout.plan(run_id))))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{layout.plan(run_id)!r} is damaged: {error}") from error


def _to_table(references: Sequence[ImageReference], carried: Sequence[CarriedColumn]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "_uri": pa.array([r.uri for r in references], pa.string()),
        "_identity": pa.array([r.identity for r in references], pa.string()),
        "_position": pa.array([list(r.position) for r in references], pa.list_(pa.int64(), 3)),
        "_problem": pa.array([r.problem for r in references], pa.string()),
        "_tried_before": pa.array([r.tried_before for r in references], pa.bool_()),
    }
    for place, column in enumerate(carried_fields(carried)):
        values = [r.carried[place] if r.carried else None for r in references]
        columns[_CARRIED + column.name] = from_transit(values, column.type)
    return pa.table(columns)


def _from_table(table: pa.Table, carried: Sequence[CarriedColumn]) -> Iterator[ImageReference]:
    # Parquet has no seconds and no date64, and gives back milliseconds and date32.
    values = [to_transit(table.column(_CARRIED + field.name).cast(field.type)) for field in carried_fields(carried)]
    rows = zip(*values, strict=True) if values else iter([()] * table.num_rows)
    own = (table.column(name).to_pylist() for name in ("_uri", "_identity", "_position", "_problem", "_tried_before"))
    for (uri, identity, position, problem, tried), row in zip(zip(*own, strict=True), rows, strict=True):
        yield ImageReference(uri, tuple(position), tuple(row), identity, problem, tried)
