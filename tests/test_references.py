"""A reference packs and unpacks to itself, its hash is the same everywhere, and carried values keep every digit."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.references import (
    KEY_BYTES,
    CarriedColumn,
    ImageReference,
    canonical,
    from_transit,
    stable_key,
    to_transit,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
CARRIED = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.binary(max_size=8)
POSITIONS = st.tuples(*[st.integers(0, 2**40)] * 3)
REFERENCES = st.builds(
    ImageReference,
    uri=st.none() | TEXTS,
    position=POSITIONS,
    carried=st.lists(CARRIED, max_size=3).map(tuple),
    identity=st.none() | TEXTS,
    problem=st.none() | TEXTS,
    tried_before=st.booleans(),
)


@settings(deadline=None)
@given(REFERENCES)
def test_a_packed_reference_unpacks_to_itself(reference):
    assert ImageReference.unpack(reference.pack()) == reference
    alike = replace(reference, identity=reference.uri)
    assert ImageReference.unpack(alike.pack()) == alike


def test_a_row_without_identity_stays_without_one_when_packed():
    row = ImageReference("/a.png", (0, 0, 1), (None,), None, "the id column 'id' is empty")
    again = ImageReference.unpack(row.pack())
    assert again.identity is None
    assert again.key() == row.key() != stable_key("/a.png")


def test_the_identity_costs_nothing_where_it_is_the_uri():
    reference = ImageReference("/" + "a" * 500, (0, 0, 0), identity="/" + "a" * 499 + "a")
    assert len(reference.pack()) < 600


def test_the_key_is_the_same_in_every_process():
    code = (
        "from beam_pipeline.references import *\n"
        "print(stable_key('/früh/早い.png').hex(), ImageReference(None, (1, 2, 3)).key().hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    here = f"{stable_key('/früh/早い.png').hex()} {ImageReference(None, (1, 2, 3)).key().hex()}\n"
    assert found == {here.encode()}


def test_the_key_never_changes_between_versions():
    # Datasets do not store keys, but a rerun of an interrupted plan must shard as its first half did.
    assert stable_key("s3://bucket/a.png").hex() == "43901e0de0c6674541f893c7a5e5c5e4"
    assert len(stable_key("")) == KEY_BYTES


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_two_identities_share_a_key_only_where_they_are_one(one, other):
    assert (stable_key(one) == stable_key(other)) == (one == other)


@settings(deadline=None)
@given(POSITIONS, POSITIONS)
def test_rows_without_identity_are_each_like_no_other(one, other):
    keys = [ImageReference(None, position).key() for position in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_bytes_that_are_not_utf8_have_a_key_too():
    assert stable_key(os.fsdecode(b"/a\xff.png")) != stable_key(os.fsdecode(b"/a\xfe.png"))


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        (((0, 0, 1), ("z",)), ((0, 0, 2), ("a",))),
        (((0, 0, 10), ()), ((0, 1, 0), ())),
        (((0, 9, 9), ()), ((1, 0, 0), ())),
        (((0, 0, 9), ()), ((0, 0, 10), ())),
        (((0, 0, 0), (1, "a")), ((0, 0, 0), (1, "b"))),
    ],
)
def test_of_two_rows_the_one_that_stands_first_wins_then_the_smaller_values(smaller, larger):
    first, second = (ImageReference("/a", position, carried, "/a") for position, carried in (smaller, larger))
    assert first.order() < second.order()


def test_canonical_values_are_one_line_of_json_whatever_the_order_of_keys():
    values = ({"b": 1, "a": [None, True]}, b"x", datetime.date(2026, 1, 2), decimal.Decimal("1.20"), "ü\n")
    text = canonical(values)
    assert text == canonical(({"a": [None, True], "b": 1}, *values[1:]))
    assert "\n" not in text
    assert json.loads(text) == [{"a": [None, True], "b": 1}, "b'x'", "2026-01-02", "1.20", "ü\n"]


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("label", CarriedColumn("label")),
        ("id:int64", CarriedColumn("id", pa.int64())),
        ("day:date32", CarriedColumn("day", pa.date32())),
        ("at:timestamp[us]", CarriedColumn("at", pa.timestamp("us"))),
        ("früh:string", CarriedColumn("früh", pa.string())),
    ],
)
def test_a_carried_column_is_a_name_and_maybe_a_type(text, column):
    assert CarriedColumn.parse(text) == column
    assert pickle.loads(pickle.dumps(column)) == column


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a column, received ''"),
        (":int64", "expected the name of a column, received ':int64'"),
        ("id:int65", "unknown type 'int65' for column 'id'; known are int64"),
        ("id:", "unknown type '' for column 'id'"),
    ],
)
def test_a_carried_column_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigurationError) as raised:
        CarriedColumn.parse(text)
    assert message in str(raised.value)


# Transit: a carried column as Python values and back

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
DAY_MS = 86_400_000
SCALARS = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int64(): INT64,
    pa.float16(): st.floats(width=16, allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.string_view(): TEXTS,
    pa.binary(): st.binary(max_size=9),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(38, 9): st.integers(-(10**20), 10**20).map(lambda n: decimal.Decimal(n).scaleb(-9)),
    pa.date32(): INT32,
    pa.date64(): st.integers(-(10**5), 10**5).map(lambda days: days * DAY_MS),
    pa.time32("s"): st.integers(0, 86_399),
    pa.time32("ms"): st.integers(0, DAY_MS - 1),
    pa.time64("ns"): st.integers(0, DAY_MS * 10**6 - 1),
    **{pa.timestamp(unit): INT64 for unit in ("s", "ms", "us", "ns")},
    pa.timestamp("ns", "Europe/Berlin"): INT64,
    **{pa.duration(unit): INT64 for unit in ("s", "ns")},
    pa.dictionary(pa.int16(), pa.string()): TEXTS,
}
LEAVES = st.sampled_from([kind for kind in SCALARS if not pa.types.is_dictionary(kind)])
TYPES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda kinds: pa.struct([pa.field(f"f{place}", kind) for place, kind in enumerate(kinds)])
        ),
    ),
    max_leaves=4,
)


def values_of(kind: pa.DataType) -> st.SearchStrategy:
    """Values of a type, as `pa.array` takes them; times as integers."""
    if pa.types.is_struct(kind):
        inner = st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    elif pa.types.is_fixed_size_list(kind):
        inner = st.lists(values_of(kind.value_type), min_size=2, max_size=2)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = st.lists(values_of(kind.value_type), max_size=3)
    else:
        inner = SCALARS[kind]
    return st.none() | inner


def survives(array: pa.Array) -> None:
    travelled = pickle.loads(pickle.dumps(to_transit(array)))
    again = from_transit(travelled, array.type)
    again.validate(full=True)
    assert again.type == array.type
    assert again.equals(array)


@pytest.mark.parametrize("kind", SCALARS, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_values_of_a_type_come_back_without_loss(kind, data):
    survives(pa.array(data.draw(st.lists(values_of(kind), max_size=4)), kind))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nested_values_come_back_without_loss(data):
    kind = data.draw(TYPES)
    survives(pa.array(data.draw(st.lists(values_of(kind), max_size=3)), kind))


def test_nanoseconds_survive_inside_lists_and_structs_too():
    # Python's own datetime and time have none: without pandas they would raise, or lose them.
    kind = pa.struct([pa.field("at", pa.list_(pa.timestamp("ns", "UTC"))), pa.field("of_day", pa.time64("ns"))])
    array = pa.array([{"at": [1, None], "of_day": 86_399_999_999_999}, None], kind)
    survives(array)
    assert to_transit(array) == [{"at": [1, None], "of_day": 86_399_999_999_999}, None]


def test_maps_nulls_uuids_and_several_chunks_come_back_without_loss():
    survives(pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())))
    survives(pa.array([None, None], pa.null()))
    survives(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))))
    chunked = pa.chunked_array([pa.array([1], pa.timestamp("ns")), pa.array([None, 3], pa.timestamp("ns"))])
    assert from_transit(to_transit(chunked), chunked.type).equals(chunked.combine_chunks())
