"""A part: the Parquet file of one shard, which is the only commit. Its footer says how it was made and what failed."""

from __future__ import annotations

import base64
import json
import os
import platform
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline import schema
from beam_pipeline.dataset.layout import Layout, part_name
from beam_pipeline.dataset.plan import Plan, WorkList
from beam_pipeline.errors import DatasetError
from beam_pipeline.references import CarriedColumn, from_transit
from beam_pipeline.results import Embedded, Failed
from beam_pipeline.spec import ResolvedSpec
from beam_pipeline.storage import Storage
from beam_pipeline.version import VERSION

# Row groups end at 1,024 rows or 16 MiB, whichever comes first: read at 790 MB/s, written in bounded memory.
ROWS_IN_GROUP = 1024
BYTES_IN_GROUP = 16 * 1024 * 1024
# Plain pages: a dictionary of floats costs time and saves nothing, and BYTE_STREAM_SPLIT shuts Spark 3.5 out. Level 1:
# level 3 is as large and takes 1.7 times as long.
WRITER_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_byte_stream_split": False}
# Columns in which values repeat, so that a dictionary helps.
DICTIONARY_COLUMNS = ["format"]


@dataclass(frozen=True)
class Footer:
    """What a committed part says of itself.

    Args:
      run_id: the run it belongs to.
      shard: its number.
      attempt: id of the attempt that committed it.
      rows: embedding rows in it.
      first_failed: those of its failures that no earlier run had tried; see `WorkList.first_attempts`.
      failures: the failure rows of its shard, of `schema.failure_schema`.
      size_bytes: of the file.
    """

    name: str
    run_id: str
    shard: int
    attempt: str
    rows: int
    first_failed: int
    failures: pa.Table = field(repr=False)
    size_bytes: int


class PartWriter:
    """Writes one part to a temporary file; see `open_part`."""

    def __init__(self, path: str, arrow_schema: pa.Schema, carried: Sequence[CarriedColumn]) -> None:
        dictionary: Any = [name for name in DICTIONARY_COLUMNS if name in arrow_schema.names]
        self._writer = pq.ParquetWriter(path, arrow_schema, use_dictionary=dictionary, **WRITER_OPTIONS)
        self._carried = carried
        self._batches: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._failed: list[Failed] = []
        self.rows = 0

    def write(self, embedded: Embedded) -> None:
        """Adds what one batch gave."""
        self._failed += embedded.failures
        if embedded.rows.num_rows:
            self._batches.append(embedded.rows)
            self.rows += embedded.rows.num_rows
            self._waiting_rows += embedded.rows.num_rows
            self._waiting_bytes += embedded.rows.nbytes
        if self._waiting_rows >= ROWS_IN_GROUP or self._waiting_bytes >= BYTES_IN_GROUP:
            self._flush()

    @property
    def failed(self) -> int:
        """Failure rows so far."""
        return len(self._failed)

    @property
    def first_failed(self) -> int:
        """Failure rows so far of pictures that no earlier run had tried."""
        return sum(one.reference.is_first_attempt for one in self._failed)

    def close(self, metadata: dict[bytes, bytes]) -> None:
        """Writes the last rows and the footer, with the failure rows in it."""
        self._flush()
        packed = base64.b64encode(_packed(failure_table(self._failed, self._carried)))
        self._writer.add_key_value_metadata(metadata | {schema.FAILURES_KEY: packed})
        self._writer.close()

    def abandon(self) -> None:
        """Closes the file without caring what is in it."""
        self._writer.close()

    def _flush(self) -> None:
        if self._batches:
            table = pa.Table.from_batches(self._batches)
            width = max(1, table.nbytes // table.num_rows)
            self._writer.write_table(table, row_group_size=max(1, min(ROWS_IN_GROUP, BYTES_IN_GROUP // width)))
            self._batches = []
            self._waiting_rows = self._waiting_bytes = 0


@contextmanager
def open_part(path: str, arrow_schema: pa.Schema, carried: Sequence[CarriedColumn]) -> Iterator[PartWriter]:
    """A writer for one part's temporary file. Close it with its metadata; otherwise it is abandoned."""
    writer = PartWriter(path, arrow_schema, carried)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise


def part_metadata(
    plan: Plan, work: WorkList, resolved: ResolvedSpec, writer: PartWriter, attempt: str
) -> dict[bytes, bytes]:
    """The metadata of a part, beside its failures: the spec, the shard, the attempt, and what it was made with."""
    part = {
        "run_id": plan.run_id,
        "shard": work.shard,
        "shards": plan.shards,
        "attempt": attempt,
        "rows": writer.rows,
        "failed": writer.failed,
        "first_failed": writer.first_failed,
        "fingerprint": resolved.spec.fingerprint,
        "schema_version": schema.SCHEMA_VERSION,
        "made_by": made_by(),
    }
    spec = schema.to_metadata(schema.SPEC_KEY, resolved.spec.to_json())
    return spec | schema.to_metadata(schema.PART_KEY, part)


def new_attempt() -> str:
    """An id for one attempt at one shard."""
    return uuid.uuid4().hex


def read_footer(layout: Layout, run_id: str, name: str, storage: Storage) -> Footer | None:
    """The footer of a committed part, or None where it is not there.

    Raises:
      DatasetError: where the file is no part.
    """
    uri = layout.part(run_id, name)
    try:
        with storage.open(uri) as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(0)
            metadata = pq.read_metadata(handle)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:  # a damaged Parquet file is either, depending on where
        raise DatasetError(f"{uri!r} is no readable Parquet file: {error}") from error
    stored = metadata.metadata or {}
    if schema.PART_KEY not in stored or schema.FAILURES_KEY not in stored:
        raise DatasetError(f"{uri!r} was not written by beam-embed")
    part = json.loads(stored[schema.PART_KEY])
    failures = pa.ipc.open_stream(base64.b64decode(stored[schema.FAILURES_KEY])).read_all()
    if part["rows"] != metadata.num_rows:
        raise DatasetError(f"{uri!r} says it has {part['rows']} rows and has {metadata.num_rows}")
    return Footer(
        name, part["run_id"], part["shard"], part["attempt"], part["rows"], part["first_failed"], failures, size
    )


def failure_table(failed: Sequence[Failed], carried: Sequence[CarriedColumn]) -> pa.Table:
    """Failure rows of `schema.failure_schema`."""
    kind = schema.failure_schema(carried)
    columns: dict[str, list[Any]] = {
        "uri": [one.reference.uri for one in failed],
        "stage": [one.failure.stage for one in failed],
        "kind": [one.failure.kind for one in failed],
        "message": [one.failure.message for one in failed],
        "retryable": [one.failure.retryable for one in failed],
        "tried_before": [one.reference.tried_before for one in failed],
        "position": [list(one.reference.position) for one in failed],
    }
    for place, column in enumerate(carried):
        columns[column.name] = [one.reference.carried[place] if one.reference.carried else None for one in failed]
    return pa.table([from_transit(columns[field.name], field.type) for field in kind], schema=kind)


def part_of(plan: Plan, work: WorkList) -> str:
    """The name of the part of a work list."""
    return part_name(work.shard, plan.shards)


def made_by() -> dict[str, str]:
    """What a part was made with: recorded, not part of the fingerprint, since versions agree to rounding."""
    from importlib.metadata import version

    packages = ("tensorflow", "keras", "apache-beam", "numpy", "pillow", "pyarrow")
    return {
        "beam-embed": VERSION,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
    }


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
