"""What `--input` names -> image references: a glob, a folder, one picture, or a list (text, CSV, JSON lines, Parquet).

`check_sources` looks before the work starts, without reading more than a list's head; `expand` and `read` do the work,
wherever the pipeline runs.
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
from beam_pipeline.references import NO_URI, CarriedColumn, ImageReference, from_transit, to_transit
from beam_pipeline.storage import Storage, has_glob
from beam_pipeline.uris import absolute, parent, redacted, without_query

LIST_SUFFIXES = {".txt": "text", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
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
class Source:
    """One input to read from.

    Args:
      uri: a pattern, a folder, a picture or a list, absolute.
      number: its place among the inputs, and below a pattern of lists its place among those.
      kind: `glob`, `folder`, `image`, `text`, `csv`, `jsonl` or `parquet`.
    """

    uri: str
    number: tuple[int, int]
    kind: str

    @property
    def is_list(self) -> bool:
        """Whether its rows name pictures, rather than it being pictures itself."""
        return self.kind in LIST_SUFFIXES.values()


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


def parse_source(text: str, number: int, storage: Storage) -> Source:
    """What one `--input` names, found out with one look at the store.

    Raises:
      ConfigurationError: where there is nothing of that name.
    """
    if not text:
        raise ConfigurationError("an --input is empty")
    uri = absolute(text)
    if has_glob(uri):
        if next(iter(storage.glob(uri)), None) is None:
            raise ConfigurationError(f"the pattern {redacted(text)!r} matches no file")
        return Source(uri, (number, 0), "glob")
    if storage.is_folder(uri):
        return Source(uri, (number, 0), "folder")
    if not storage.exists(uri):
        raise ConfigurationError(f"there is no file or folder {redacted(text)!r}")
    return Source(uri, (number, 0), list_kind(uri) or "image")


def list_kind(uri: str) -> str | None:
    """The kind of list that a name promises, or None for a picture."""
    name = without_query(uri).lower().removesuffix(".gz")
    return next((kind for suffix, kind in LIST_SUFFIXES.items() if name.endswith(suffix)), None)


def expand(source: Source, storage: Storage) -> Iterator[Source]:
    """A pattern that ends like a list stands for the lists that it matches; everything else for itself."""
    kind = list_kind(source.uri)
    if source.kind != "glob" or kind is None:
        yield source
        return
    for number, info in enumerate(storage.glob(source.uri)):
        yield Source(info.uri, (source.number[0], number), kind)


def read(source: Source, columns: Columns, storage: Storage) -> Iterator[ImageReference]:
    """The image references of one expanded source, in order, without holding them all.

    Carried columns must have their types. A row that cannot be used comes out as a reference with a `problem`.
    """
    if not source.is_list:
        for row, uri in enumerate(_pictures(source, storage)):
            yield _reference(uri, (*source.number, row), (), uri, _text_problem(uri))
        return
    base = parent(without_query(source.uri))
    names = [column.name for column in columns.carried]
    for row, (text, carried, problem) in enumerate(_rows(source, columns, storage)):
        named = absolute(text, base) if text else None
        identity = named
        if columns.identity is not None:
            value = carried[names.index(columns.identity)]
            identity = None if value in (None, "") else str(value)
            problem = problem or (f"the id column {columns.identity!r} is empty" if identity is None else None)
        yield _reference(named, (*source.number, row), carried, identity, problem or _text_problem(text))


def check_sources(texts: Sequence[str], columns: Columns, storage: Storage) -> tuple[list[Source], Columns]:
    """Checks every input and settles the types of the carried columns, before any work starts.

    Args:
      texts: the values of `--input`.
      columns: what is wanted; columns without a type get the type they have in the inputs.
      storage: the way to remote files.

    Raises:
      ConfigurationError: for an input that is not there, has no rows at all, or lacks a column.
    """
    sources = [parse_source(text, number, storage) for number, text in enumerate(texts)]
    expanded = [one for source in sources for one in expand(source, storage)]
    lists = [source for source in expanded if source.is_list]
    if columns.carried and len(lists) < len(expanded):
        other = next(source for source in expanded if not source.is_list)
        raise ConfigurationError(f"{redacted(other.uri)!r} is no list, so it has no columns to keep")
    schemas = [_head_schema(source, columns, storage) for source in lists]
    typed = tuple(_settle(column, schemas) for column in columns.carried)
    settled = Columns(columns.uri, typed, columns.identity)
    if not any(True for source in expanded for _ in itertools.islice(read(source, settled, storage), 1)):
        raise ConfigurationError("the inputs hold no URIs at all: " + ", ".join(repr(redacted(text)) for text in texts))
    return sources, settled


# Pictures and rows


def _pictures(source: Source, storage: Storage) -> Iterator[str]:
    if source.kind == "image":
        yield source.uri
        return
    infos = storage.walk(source.uri) if source.kind == "folder" else storage.glob(source.uri)
    for info in infos:
        yield info.uri


def _reference(
    uri: str | None, position: tuple[int, int, int], carried: tuple[Any, ...], identity: str | None, problem: str | None
) -> ImageReference:
    if not uri and not problem:
        problem = NO_URI
    return ImageReference(_storable(uri), position, carried, _storable(identity) if uri else None, problem)


def _storable(text: str | None) -> str | None:
    """The text with what no Parquet string can hold spelt out: bytes of a file name that are not UTF-8."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _text_problem(uri: str | None) -> str | None:
    if uri is None:
        return None
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8: the name cannot be stored"
    return None


Row = tuple[str | None, tuple[Any, ...], str | None]


def _rows(source: Source, columns: Columns, storage: Storage) -> Iterator[Row]:
    try:
        yield from _rows_of_kind(source, columns, storage)
    except _BROKEN_LIST as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Source, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"the list {redacted(source.uri)!r} cannot be read: {error}")


def _rows_of_kind(source: Source, columns: Columns, storage: Storage) -> Iterator[Row]:
    with storage.open(source.uri, as_stream=source.kind != "parquet") as raw:
        if source.kind == "parquet":
            yield from _parquet_rows(raw, columns)
            return
        with _text(raw, source.uri) as lines:
            if source.kind == "text":
                yield from ((line, (), None) for line in _stripped(lines))
            elif source.kind == "csv":
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
    return csv.reader(lines)


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
            problem = problem or (_text_problem(text) and f"column {column.name!r} is not UTF-8")
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


# Looking before the work starts


def _head_schema(source: Source, columns: Columns, storage: Storage) -> pa.Schema | None:
    """The columns of a list. None for a list of plain URIs."""
    with storage.open(source.uri, as_stream=source.kind != "parquet") as raw:
        try:
            schema = _schema_of(raw, source)
        except (*_BROKEN_LIST, OSError, ValueError) as error:
            raise _unreadable(source, error) from error
    if source.kind == "text":
        if columns.carried:
            raise ConfigurationError(f"{redacted(source.uri)!r} is a list of URIs alone, so it has no columns to keep")
        return None
    if schema is None:
        return None
    for name in (columns.uri, *(column.name for column in columns.carried)):
        if name not in schema.names:
            have = ", ".join(schema.names)
            remedy = " (--uri-column names it)" if name == columns.uri else ""
            raise ConfigurationError(
                f"{redacted(source.uri)!r} has no column {name!r}{remedy}{nearest(name, schema.names)} It has: {have}"
            )
        if schema.names.count(name) > 1:
            raise ConfigurationError(f"{redacted(source.uri)!r} has more than one column {name!r}")
    kind = _plain(schema.field(columns.uri).type)
    if not any(is_text(kind) for is_text in _TEXT_TYPES):
        raise ConfigurationError(
            f"expected the column {columns.uri!r} of {redacted(source.uri)!r} to be text, found {kind}"
        )
    return schema


def _schema_of(raw: IO[bytes], source: Source) -> pa.Schema | None:
    if source.kind == "parquet":
        return pq.ParquetFile(raw).schema_arrow
    with _text(raw, source.uri) as lines:
        if source.kind == "csv":
            header = next(_csv(lines), [])
            return pa.schema([(name, pa.string()) for name in header]) if header else None
        head = list(itertools.islice(_stripped(lines), LINES_OF_HEAD))
        if source.kind == "text" or not head:
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
            names |= dict.fromkeys(name for name in row if _text_problem(name) is None)
        else:
            problem = problem or f"found {type(row).__name__}"
    if not names:
        raise ValueError(f"expected a JSON object in each line; {problem or 'they are empty'}")
    return list(names)


def _settle(column: CarriedColumn, schemas: Sequence[pa.Schema | None]) -> CarriedColumn:
    found = [_plain(schema.field(column.name).type) for schema in schemas if schema is not None]
    if column.type is None:
        if len(set(found)) > 1:
            kinds = " and ".join(str(kind) for kind in dict.fromkeys(found))
            raise ConfigurationError(
                f"column {column.name!r} is {kinds}; say which with --keep-columns {column.name}:TYPE"
            )
        return CarriedColumn(column.name, found[0] if found else pa.string())
    for kind in found:
        try:
            pa.array([], kind).cast(column.type)
            from_transit([], column.type)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise ConfigurationError(f"column {column.name!r} is {kind}, which is no {column.type}: {error}") from error
    return column


def _plain(kind: pa.DataType) -> pa.DataType:
    """A dictionary's values: categories are an encoding, not a type to promise a reader."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
