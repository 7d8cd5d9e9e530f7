"""Lists of pictures -> rows: text, CSV, JSON lines and Parquet, gzip'd text too. What a row means, `inputs.py` says.

Rows are read one after the other, never all at once. A bad row costs itself alone; a list that cannot be read is an
error.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.errors import ConfigurationError, nearest
from beam_pipeline.references import CarriedColumn, to_transit
from beam_pipeline.storage import Storage
from beam_pipeline.uris import redacted, without_query

LIST_SUFFIXES = {".txt": "text", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
LIST_KINDS = frozenset(LIST_SUFFIXES.values())
# Rows of a Parquet list that are held at once.
ROWS_AT_ONCE = 4096
# JSON lines that are looked at to learn the names of a list's columns.
LINES_OF_HEAD = 100
# What a list raises that is truncated or otherwise not what its name says, at its head or further down.
_BROKEN_LIST = (EOFError, zlib.error, gzip.BadGzipFile, csv.Error, pa.ArrowInvalid)
# What Parquet columns of URIs come as; the bytes of writers that do not mark text, and nothing but nulls.
_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_null,
)


@dataclass(frozen=True)
class Columns:
    """Which columns of a list are read.

    Args:
      uri: the column of the URI.
      carried: the columns to carry through.
      identity: the column that replaces the URI as identity, or None. It is one of the carried ones.
    """

    uri: str = "uri"
    carried: tuple[CarriedColumn, ...] = ()
    identity: str | None = None


# The URI as it stands in the list, the carried values, and why the row cannot be used, where it cannot.
Row = tuple[str | None, tuple[Any, ...], str | None]


def list_kind(uri: str) -> str | None:
    """The kind of list that a name promises, or None for a picture."""
    name = without_query(uri).lower().removesuffix(".gz")
    return next((kind for suffix, kind in LIST_SUFFIXES.items() if name.endswith(suffix)), None)


def text_problem(uri: str | None) -> str | None:
    """What keeps a text from being stored, or None: bytes that are no UTF-8, as names of files may have them."""
    if uri is None:
        return None
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8: the name cannot be stored"
    return None


def head_schema(uri: str, kind: str, columns: Columns, storage: Storage) -> pa.Schema | None:
    """The columns of a list. None for a list of plain URIs."""
    with storage.open(uri, as_stream=kind != "parquet") as raw:
        try:
            schema = _schema_of(raw, uri, kind)
        except (*_BROKEN_LIST, OSError, ValueError) as error:
            raise _unreadable(uri, error) from error
    if kind == "text":
        if columns.carried:
            raise ConfigurationError(f"{redacted(uri)!r} is a list of URIs alone, so it has no columns to keep")
        return None
    if schema is None:
        return None
    for name in (columns.uri, *(column.name for column in columns.carried)):
        if name not in schema.names:
            have = ", ".join(schema.names)
            remedy = " (--uri-column names it)" if name == columns.uri else ""
            raise ConfigurationError(
                f"{redacted(uri)!r} has no column {name!r}{remedy}{nearest(name, schema.names)} It has: {have}"
            )
        if schema.names.count(name) > 1:
            raise ConfigurationError(f"{redacted(uri)!r} has more than one column {name!r}")
    found = plain_type(schema.field(columns.uri).type)
    if not any(is_text(found) for is_text in _TEXT_TYPES):
        raise ConfigurationError(f"expected the column {columns.uri!r} of {redacted(uri)!r} to be text, found {found}")
    return schema


def _schema_of(raw: IO[bytes], uri: str, kind: str) -> pa.Schema | None:
    if kind == "parquet":
        return pq.ParquetFile(raw).schema_arrow
    with _text(raw, uri) as lines:
        if kind == "csv":
            header = next(_csv(lines), [])
            return pa.schema([(name, pa.string()) for name in header]) if header else None
        head = list(itertools.islice(_stripped(lines), LINES_OF_HEAD))
        if kind == "text" or not head:
            return None
        return pa.schema([(name, pa.string()) for name in _json_names(head)])


def _json_names(lines: Sequence[str]) -> list[str]:
    """The names in some JSON lines. A line may lack what is null in it, or be broken: one line is one failure."""
    names: dict[str, None] = {}
    problem = ""
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = problem or str(error)
            continue
        if isinstance(row, dict):
            names |= dict.fromkeys(name for name in row if text_problem(name) is None)
        else:
            problem = problem or f"found {type(row).__name__}"
    if not names:
        raise ValueError(f"expected a JSON object in each line; {problem or 'they are empty'}")
    return list(names)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A dictionary's values: categories are an encoding, not a type to promise a reader."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def rows(uri: str, kind: str, columns: Columns, storage: Storage) -> Iterator[Row]:
    """The rows of a list, in order: the URI as it stands there, the carried values, and what is wrong with the row.

    Raises:
      ConfigurationError: where the list cannot be read to its end.
    """
    try:
        yield from _rows_of_kind(uri, kind, columns, storage)
    except _BROKEN_LIST as error:
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"the list {redacted(uri)!r} cannot be read: {error}")


def _rows_of_kind(uri: str, kind: str, columns: Columns, storage: Storage) -> Iterator[Row]:
    with storage.open(uri, as_stream=kind != "parquet") as raw:
        if kind == "parquet":
            yield from _parquet_rows(raw, columns)
            return
        with _text(raw, uri) as lines:
            if kind == "text":
                yield from ((line, (), None) for line in _stripped(lines))
            elif kind == "csv":
                yield from _csv_rows(lines, columns)
            else:
                yield from _json_rows(lines, columns)


def _text(raw: IO[bytes], uri: str) -> io.TextIOWrapper:
    plain: Any = gzip.GzipFile(fileobj=raw) if without_query(uri).lower().endswith(".gz") else raw
    # A byte that is not UTF-8 spoils its own row, not the whole list.
    return io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        text = line.rstrip("\r\n")
        if text.strip():
            yield text


def _csv(lines: Iterable[str]) -> Iterator[list[str]]:
    # Fields of any length: csv's own limit of 128 KiB is a remnant that a signed URL with a policy can pass.
    csv.field_size_limit(1 << 24)
    # Strict: a quote that is never closed would swallow the rows after it, and with them their pictures.
    return csv.reader(lines, strict=True)


def _csv_rows(lines: Iterable[str], columns: Columns) -> Iterator[Row]:
    rows = _csv(lines)
    header = next(rows, None)
    if header is None:
        return
    wanted = [header.index(name) for name in (columns.uri, *(column.name for column in columns.carried))]
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            yield None, _nothing(columns), f"expected {len(header)} fields, found {len(row)}"
            continue
        uri, *texts = (row[place] for place in wanted)
        yield uri, *_cast_texts(texts, columns)


def _json_rows(lines: Iterable[str], columns: Columns) -> Iterator[Row]:
    for line in _stripped(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter for a thousand brackets
            yield None, _nothing(columns), f"not a line of JSON: {error}"
            continue
        if not isinstance(row, dict):
            yield None, _nothing(columns), f"expected a JSON object, found {type(row).__name__}"
            continue
        uri = row.get(columns.uri)
        if uri is not None and not isinstance(uri, str):
            yield None, _nothing(columns), f"expected {columns.uri!r} to be text, found {type(uri).__name__}"
            continue
        texts = [_json_text(row.get(column.name)) for column in columns.carried]
        yield uri, *_cast_texts(texts, columns)


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cast_texts(texts: Sequence[str | None], columns: Columns) -> tuple[tuple[Any, ...], str | None]:
    """Texts of a row -> values of the carried columns' types, and what is wrong with them."""
    values: list[Any] = []
    problem = None
    for text, column in zip(texts, columns.carried, strict=True):
        kind = column.type or pa.string()
        if pa.types.is_string(kind):
            values.append(text)
            problem = problem or (text_problem(text) and f"column {column.name!r} is not UTF-8")
            continue
        try:
            values.append(to_transit(pa.array([text or None], pa.string()).cast(kind))[0])
        except (pa.ArrowInvalid, UnicodeEncodeError) as error:
            values.append(None)
            problem = problem or f"column {column.name!r}: {error}"
    if problem:
        return _nothing(columns), problem
    return tuple(values), None


def _nothing(columns: Columns) -> tuple[None, ...]:
    return (None,) * len(columns.carried)


def _parquet_rows(raw: IO[bytes], columns: Columns) -> Iterator[Row]:
    names = [columns.uri, *(column.name for column in columns.carried)]
    for batch in pq.ParquetFile(raw).iter_batches(ROWS_AT_ONCE, columns=list(dict.fromkeys(names))):
        uris = _uris(batch.column(columns.uri))
        carried: list[list[Any]] = []
        problems: list[str | None] = [None] * len(uris)
        for column in columns.carried:
            values, wrong = _cast_column(batch.column(column.name), column)
            carried.append(values)
            problems = [old or new for old, new in zip(problems, wrong, strict=True)]
        rows = zip(*carried, strict=True) if carried else itertools.repeat(())
        for uri, row, problem in zip(uris, rows, problems, strict=False):
            yield uri, tuple(row), problem


def _uris(array: pa.Array) -> list[str | None]:
    # Through bytes: nothing in a Parquet file vouches for its text being UTF-8, and one such row is one failure.
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return [
        None if one is None else one.decode("utf-8", "surrogateescape") for one in array.cast(pa.binary()).to_pylist()
    ]


def _cast_column(array: pa.Array, column: CarriedColumn) -> tuple[list[Any], list[str | None]]:
    kind = column.type or array.type
    try:
        return to_transit(array.cast(kind)), [None] * len(array)
    except (pa.ArrowInvalid, UnicodeDecodeError):  # one value or more would lose something: find out which
        values: list[Any] = []
        problems: list[str | None] = []
        for place in range(len(array)):
            try:
                values += to_transit(array.slice(place, 1).cast(kind))
                problems.append(None)
            except (pa.ArrowInvalid, UnicodeDecodeError) as error:
                values.append(None)
                problems.append(f"column {column.name!r}: {error}")
        return values, problems
