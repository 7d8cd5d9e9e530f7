"""Image references: one input each, the columns carried through with it, and the hash that both are found by."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_pipeline.errors import ConfigurationError

# 128 bits: at a billion URIs two of them share a hash with a probability of 1e-21.
KEY_BYTES = 16
# The problem of a row that names no picture.
NO_URI = "the row has no URI"
CARRIED_TYPES = "int64, float64, bool, string, date32, timestamp[us] and the other names of pyarrow.type_for_alias"


@dataclass(frozen=True)
class CarriedColumn:
    """A column of the input that the output carries too.

    Args:
      name: its name in the input and in the output.
      type: its Arrow type, or None while that is left to the input.
    """

    name: str
    type: pa.DataType | None = None

    @classmethod
    def parse(cls, text: str) -> CarriedColumn:
        """`label` or `id:int64` -> a `CarriedColumn`.

        Raises:
          ConfigurationError: for an unknown type.
        """
        name, colon, alias = text.partition(":")
        if not name:
            raise ConfigurationError(f"expected the name of a column, received {text!r}")
        if not colon:
            return cls(name)
        try:
            return cls(name, pa.type_for_alias(alias))
        except ValueError as error:
            message = f"unknown type {alias!r} for column {name!r}; known are {CARRIED_TYPES}"
            raise ConfigurationError(message) from error


@dataclass(frozen=True)
class ImageReference:
    """One row of the input.

    Args:
      uri: absolute path or URI, as it is stored; None where the row has none.
      position: number of the `--input`, of the file in it, and of the row in that file, each from 0.
      carried: the values of the carried columns, in their order.
      identity: what tells this picture from others: the URI, or the value of the id column.
      problem: why the row cannot be used, where it cannot.
      tried_before: whether an earlier run has tried it and failed.
    """

    uri: str | None
    position: tuple[int, int, int]
    carried: tuple[Any, ...] = ()
    identity: str | None = None
    problem: str | None = None
    tried_before: bool = False

    @property
    def is_first_attempt(self) -> bool:
        """Whether it is known that no earlier run has tried this picture. Of a row without URI nothing is known."""
        return self.identity is not None and not self.tried_before

    def key(self) -> bytes:
        """The hash that duplicates and earlier embeddings of one picture share; never Python's `hash`."""
        if self.identity is None:  # a row without URI is like no other row
            return stable_key(f"\0{self.position}")
        return stable_key(self.identity)

    def pack(self) -> bytes:
        """The reference as bytes: a quarter of the memory of the object while it waits in a shuffle."""
        fields = (self.uri, self.position, self.carried, self.problem, self.tried_before)
        same = self.identity == self.uri
        return pickle.dumps((*fields, same, None if same else self.identity), protocol=5)

    @classmethod
    def unpack(cls, packed: bytes) -> ImageReference:
        """The reverse of `pack`. For bytes of this job's own shuffle only, never for bytes of a dataset."""
        uri, position, carried, problem, tried_before, same, identity = pickle.loads(packed)
        return cls(uri, position, carried, uri if same else identity, problem, tried_before)

    def order(self) -> tuple[tuple[int, int, int], str]:
        """What decides between two rows of one picture: the smaller one wins."""
        return self.position, canonical(self.carried)


def stable_key(identity: str) -> bytes:
    """The hash of an identity: the same on every machine and in every process."""
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()


def canonical(values: Sequence[Any]) -> str:
    """Carried values as one line of JSON, to compare them."""
    return json.dumps(values, sort_keys=True, default=str, separators=(",", ":"))


def to_transit(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column as plain Python values that `from_transit` turns back without loss.

    Times travel as integers: Python has no nanoseconds.
    """
    carrier = _carrier(array.type)
    return (array.cast(carrier) if carrier else array).to_pylist()


def from_transit(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values of `to_transit` as a column of the type `kind`."""
    carrier = _carrier(kind)
    return pa.array(values, carrier).cast(kind) if carrier else pa.array(values, kind)


def _carrier(kind: pa.DataType) -> pa.DataType | None:
    """The type that values of `kind` travel as, or None where they travel as they are."""
    if pa.types.is_nested(kind):
        return _nested_carrier(kind)
    if (
        pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_date64(kind)
    ):
        return pa.int64()
    if pa.types.is_time32(kind) or pa.types.is_date32(kind):
        return pa.int32()
    return None


def _nested_carrier(kind: pa.DataType) -> pa.DataType | None:
    inner = [kind.field(place) for place in range(kind.num_fields)]
    carriers = [_carrier(field.type) for field in inner]
    if not any(carriers):
        return None
    fields = [field.with_type(carrier or field.type) for field, carrier in zip(inner, carriers, strict=True)]
    if pa.types.is_struct(kind):
        return pa.struct(fields)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(fields[0], kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(fields[0])
    return pa.list_(fields[0]) if pa.types.is_list(kind) else None
