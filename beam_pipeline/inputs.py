"""What `--input` names -> image references: a glob, a folder, one picture, or a list of them.

`check_sources` looks before the work starts, without reading more than a list's head; `expand` and `read` do the work,
wherever the pipeline runs.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.lists import LIST_KINDS, Columns, head_schema, list_kind, plain_type, rows, text_problem
from beam_pipeline.references import NO_URI, CarriedColumn, ImageReference, from_transit
from beam_pipeline.storage import Storage, has_glob
from beam_pipeline.uris import absolute, join, parent, redacted, without_query

# Rows of each list that are looked at before the work starts.
ROWS_OF_HEAD = 100


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
        return self.kind in LIST_KINDS


def parse_source(text: str, number: int, storage: Storage) -> Source:
    """What one `--input` names, found out with one look at the store.

    Raises:
      ConfigurationError: where there is nothing of that name.
    """
    if not text:
        raise ConfigurationError("an --input is empty")
    if has_glob(text):
        pattern = absolute(text, glob.escape(os.getcwd()))  # the working folder is no part of the pattern
        if not storage.matches(pattern):
            raise ConfigurationError(f"the pattern {redacted(text)!r} matches no file")
        return Source(pattern, (number, 0), "glob")
    uri = absolute(text)
    if storage.is_folder(uri):
        if list_kind(uri):
            raise ConfigurationError(f"{redacted(text)!r} is a folder; name the lists in it with a pattern")
        return Source(uri, (number, 0), "folder")
    if not storage.exists(uri):
        raise ConfigurationError(f"there is no file or folder {redacted(text)!r}")
    return Source(uri, (number, 0), list_kind(uri) or "image")


def expand(source: Source, storage: Storage) -> Iterator[Source]:
    """A pattern that ends like a list stands for the lists that it matches; everything else for itself."""
    kind = list_kind(source.uri)
    if source.kind != "glob" or kind is None:
        yield source
        return
    for number, info in enumerate(storage.glob(source.uri)):
        yield Source(info.uri, (source.number[0], number), kind)


def read(source: Source, columns: Columns, storage: Storage, output: str | None = None) -> Iterator[ImageReference]:
    """The image references of one expanded source, in order, without holding them all.

    Args:
      source: expanded.
      columns: with the types of the carried ones.
      storage: the way to files.
      output: the dataset's folder; where it lies in a folder that is read, its files are no pictures of the corpus.

    Yields:
      One reference for each row; a row that cannot be used comes out with a `problem`.
    """
    if not source.is_list:
        for row, uri in enumerate(_pictures(source, storage, output)):
            yield _reference(uri, (*source.number, row), (), uri, text_problem(uri))
        return
    base = parent(without_query(source.uri))
    names = [column.name for column in columns.carried]
    for row, (text, carried, problem) in enumerate(rows(source.uri, source.kind, columns, storage)):
        named = absolute(text, base) if text else None
        identity = named
        if columns.identity is not None:
            value = carried[names.index(columns.identity)]
            identity = None if value in (None, "") else str(value)
            problem = problem or (f"the id column {columns.identity!r} is empty" if identity is None else None)
        yield _reference(named, (*source.number, row), carried, identity, problem or text_problem(text))


def check_sources(
    texts: Sequence[str], columns: Columns, storage: Storage, output: str | None = None
) -> tuple[list[Source], Columns]:
    """Checks every input and settles the types of the carried columns, before any work starts.

    Args:
      texts: the values of `--input`.
      columns: what is wanted; columns without a type get the type they have in the inputs.
      storage: the way to remote files.
      output: see `read`.

    Raises:
      ConfigurationError: for an input that is not there, has no rows at all, or lacks a column.
    """
    sources = [parse_source(text, number, storage) for number, text in enumerate(texts)]
    expanded = [one for source in sources for one in expand(source, storage)]
    lists = [source for source in expanded if source.is_list]
    if columns.carried and len(lists) < len(expanded):
        other = next(source for source in expanded if not source.is_list)
        raise ConfigurationError(f"{redacted(other.uri)!r} is no list, so it has no columns to keep")
    schemas = [head_schema(source.uri, source.kind, columns, storage) for source in lists]
    typed = tuple(_settle(column, schemas) for column in columns.carried)
    settled = Columns(columns.uri, typed, columns.identity)
    heads = [list(itertools.islice(read(source, settled, storage, output), ROWS_OF_HEAD)) for source in expanded]
    for source, head in zip(expanded, heads, strict=True):
        _check_head(source, head)
    if not any(heads):
        raise ConfigurationError("the inputs hold no URIs at all: " + ", ".join(repr(redacted(text)) for text in texts))
    return sources, settled


def _check_head(source: Source, head: Sequence[ImageReference]) -> None:
    """Refuses a list of which no row can be used: a column's type is wrong then, and not its values."""
    problems = [reference.problem for reference in head if reference.uri is not None]
    if source.is_list and problems and all(problems):
        raise ConfigurationError(f"no row at the head of {redacted(source.uri)!r} can be used: {problems[0]}")


# Pictures and rows


def _pictures(source: Source, storage: Storage, output: str | None) -> Iterator[str]:
    if source.kind == "image":
        yield source.uri
        return
    infos = storage.walk(source.uri) if source.kind == "folder" else storage.glob(source.uri)
    for info in infos:
        if output is None or not info.uri.startswith(join(output, "")):
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


def _settle(column: CarriedColumn, schemas: Sequence[pa.Schema | None]) -> CarriedColumn:
    found = [plain_type(schema.field(column.name).type) for schema in schemas if schema is not None]
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
