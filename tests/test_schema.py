"""Vectors reach Arrow and Parquet unchanged and uncopied, unit length is exact, and carried names cannot collide."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import SPEC, columns
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.references import CarriedColumn
from beam_pipeline.schema import (
    check_carried_names,
    embedding_schema,
    failure_schema,
    finished,
    to_metadata,
    vector_array,
    vector_type,
)
from beam_pipeline.spec import EmbeddingSpec

SHAPES = [(1,), (12,), (3, 4), (2, 3, 4)]


def spec_of(**changes) -> EmbeddingSpec:
    return EmbeddingSpec(model="MobileNetV2", weights="random:1", **changes)


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def to_numpy(array: pa.Array, shape: tuple[int, ...]) -> np.ndarray:
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    return storage.flatten().to_numpy().reshape(shape)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((2048,), "float32", pa.list_(pa.float32(), 2048)),
        ((2048,), "float16", pa.list_(pa.float16(), 2048)),
        ((7, 7, 512), "float32", pa.fixed_shape_tensor(pa.float32(), [7, 7, 512])),
        ((7, 512), "float16", pa.fixed_shape_tensor(pa.float16(), [7, 512])),
    ],
)
def test_a_vector_is_a_list_of_fixed_size_and_a_map_a_tensor_of_fixed_shape(shape, dtype, kind):
    assert vector_type(shape, dtype) == kind


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_each_row_of_a_batch_becomes_one_value_with_the_same_numbers(count, shape, dtype):
    values = numbers((count, *shape), dtype)
    array = vector_array(values, vector_type(shape, dtype))
    array.validate(full=True)
    assert array.type == vector_type(shape, dtype)
    assert len(array) == count
    assert array.null_count == 0
    np.testing.assert_array_equal(to_numpy(array, values.shape), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_contiguous_vectors_are_not_copied(shape):
    values = numbers((5, *shape))
    array = vector_array(values, vector_type(shape, "float32"))
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    assert storage.values.buffers()[1].address == values.ctypes.data


@pytest.mark.parametrize(
    "values", [numbers((9, 12))[::2], numbers((5, 24))[:, ::2], np.asfortranarray(numbers((5, 12))), numbers((12, 5)).T]
)
def test_vectors_that_are_not_contiguous_keep_their_numbers(values):
    array = vector_array(values, vector_type((12,), "float32"))
    np.testing.assert_array_equal(to_numpy(array, (5, 12)), values)


def test_special_numbers_pass_bit_by_bit():
    values = np.array([[0.0, -0.0, 1e-45, 3.4028235e38]], np.float32)
    array = vector_array(values, vector_type((4,), "float32"))
    assert to_numpy(array, (1, 4)).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_numbers_survive_parquet(tmp_path, shape, dtype):
    values = numbers((3, *shape), dtype)
    table = pa.table({"v": vector_array(values, vector_type(shape, dtype))})
    pq.write_table(table, tmp_path / "a.parquet")
    again = pq.read_table(tmp_path / "a.parquet")
    assert again.schema.field("v").type == vector_type(shape, dtype)
    assert again == table
    column = again["v"].combine_chunks()
    if len(shape) > 1:
        assert column.to_numpy_ndarray().shape == (3, *shape)
    np.testing.assert_array_equal(to_numpy(column, values.shape), values)


# Finished vectors


def test_vectors_are_left_alone_unless_more_is_wanted():
    values = numbers((3, 12))
    assert finished(values, spec_of()) is values


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-38, 1e30, 3e38])
@pytest.mark.parametrize("shape", [(12,), (2, 3, 4)])
def test_unit_length_holds_whatever_the_size_of_the_numbers(scale, shape):
    base = numbers((5, *shape)).clip(-1, 1)
    values = (base.astype(np.float64) * scale).astype(np.float32)
    done = finished(values, spec_of(normalize=True))
    assert (done.dtype, done.shape) == (np.float32, values.shape)
    exact = values.reshape(5, -1).astype(np.longdouble)
    exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(done.reshape(5, -1), exact.astype(np.float32))


@pytest.mark.parametrize("tiny", [1e-45, 1e-30, 1e-11])
def test_a_single_tiny_component_becomes_one(tiny):
    values = np.zeros((1, 8), np.float32)
    values[0, 3] = -tiny
    assert finished(values, spec_of(normalize=True)).tolist() == [[0, 0, 0, -1, 0, 0, 0, 0]]


def test_a_vector_of_zeros_stays_one_and_its_neighbours_are_not_touched_by_it():
    values = np.array([[0, 0], [3, 4], [0, 0]], np.float32)
    assert finished(values, spec_of(normalize=True)).tolist() == [[0, 0], [np.float32(0.6), np.float32(0.8)], [0, 0]]


def test_no_rows_are_no_rows():
    assert finished(np.zeros((0, 12), np.float32), spec_of(normalize=True, dtype="float16")).shape == (0, 12)


def test_float16_is_rounded_once_after_the_length_is_taken():
    values = numbers((4, 12)) * np.float32(1e6)
    plain = finished(values / np.float32(1e6), spec_of(dtype="float16"))
    assert plain.dtype == np.float16
    np.testing.assert_array_equal(plain, (values / np.float32(1e6)).astype(np.float16))
    done = finished(values, spec_of(normalize=True, dtype="float16"))
    np.testing.assert_array_equal(done, finished(values, spec_of(normalize=True)).astype(np.float16))
    assert np.isfinite(done).all(), "1e6 would be infinite in float16"


def test_the_outputs_of_the_model_are_not_changed_in_place():
    values = numbers((4, 12))
    before = values.copy()
    finished(values, spec_of(normalize=True, dtype="float16"))
    np.testing.assert_array_equal(values, before)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_normalised_vector_has_length_one_or_is_zero(components):
    [done] = finished(np.array([components], np.float32), spec_of(normalize=True))
    length = math.sqrt(math.fsum(float(x) ** 2 for x in done))
    assert length == 0.0 if not any(components) else abs(length - 1) < 1e-6


# Schemas


def test_an_embedding_row_has_its_uri_what_it_carries_what_it_was_and_its_vectors_in_this_order():
    spec = spec_of(layers=["map"], pooling="avg")
    schema = embedding_schema(spec, {"embedding": (12,), "map": (2, 3)}, columns("id:int64", "label"))
    assert schema == pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("id", pa.int64()),
            pa.field("label", pa.string()),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("source_version", pa.string()),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("format", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), 12), nullable=False),
            pa.field("map", pa.fixed_shape_tensor(pa.float32(), [2, 3]), nullable=False),
        ]
    )


def test_a_failure_row_may_lack_its_uri_and_nothing_else_of_its_own():
    schema = failure_schema(columns("id:int64"))
    assert [field.name for field in schema if field.nullable] == ["uri", "id"]
    assert schema.names == ["uri", "id", "stage", "kind", "message", "retryable", "tried_before", "position"]
    assert schema.field("position").type == pa.list_(pa.int64(), 3)


TAKEN = ["uri", "sha256", "width", "source_version", "stage", "message", "position", "embedding", "out_relu", "run_id"]


@pytest.mark.parametrize("name", TAKEN)
def test_a_carried_column_cannot_have_a_name_that_is_taken(name):
    spec = spec_of(layers=["out_relu"], pooling="avg")
    with pytest.raises(ConfigurationError, match=f"a carried column cannot be called '{name}'"):
        check_carried_names(spec, [CarriedColumn("id"), CarriedColumn(name)])


def test_a_column_cannot_be_kept_twice():
    with pytest.raises(ConfigurationError, match="column 'id' is to be kept twice"):
        check_carried_names(SPEC, columns("id", "label", "id:int64"))


def test_names_that_are_free_are_accepted():
    check_carried_names(SPEC, columns("id", "label", "out_relu", "URL", "früh"))
    check_carried_names(spec_of(layers=["out_relu"]), columns("embedding"))


def test_readers_would_take_a_carried_run_id_for_the_folder_name(tmp_path):
    # Why the name is refused: the folders `run_id=…` make a column of that name already.
    (tmp_path / "run_id=r-1").mkdir()
    pq.write_table(pa.table({"run_id": pa.array([7], pa.int64())}), tmp_path / "run_id=r-1" / "a.parquet")
    with pytest.raises(pa.ArrowTypeError, match="run_id has incompatible types"):
        pq.read_table(tmp_path)


def test_metadata_is_canonical_json():
    found = to_metadata(b"key", {"b": [1, None], "a": "früh"})
    assert found == {b"key": b'{"a":"fr\\u00fch","b":[1,null]}'}
    assert json.loads(found[b"key"]) == {"a": "früh", "b": [1, None]}
