"""The Arrow schemas and the file metadata of what is written, and model outputs -> Arrow arrays.

The fields are declared first and every batch is built against them. A vector reaches Arrow as one buffer, never as
Python lists. `schemas/` publishes the same contract for readers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.references import CarriedColumn
from beam_pipeline.spec import EmbeddingSpec

# Raised when a column changes its name, type or meaning.
SCHEMA_VERSION = 1
# What stands in front of the vectors, behind the URI and the carried columns.
PICTURE_FIELDS = (
    pa.field("sha256", pa.string(), nullable=False),  # of the encoded bytes, hexadecimal
    pa.field("size_bytes", pa.int64(), nullable=False),  # of the encoded picture
    pa.field("source_version", pa.string()),  # mtime:…, etag:…, generation:…; null where the store tells none
    pa.field("width", pa.int32(), nullable=False),  # pixels, as stored in the file
    pa.field("height", pa.int32(), nullable=False),
    pa.field("format", pa.string(), nullable=False),  # Pillow's name, such as JPEG
)
URI_FIELD = pa.field("uri", pa.string(), nullable=False)
FAILURE_FIELDS = (
    pa.field("stage", pa.string(), nullable=False),  # read, fetch, decode or infer
    pa.field("kind", pa.string(), nullable=False),  # a short word to group by, such as not_found
    pa.field("message", pa.string(), nullable=False),
    pa.field("retryable", pa.bool_(), nullable=False),
    pa.field("tried_before", pa.bool_(), nullable=False),  # whether an earlier run had failed on it already
    pa.field("position", pa.list_(pa.int64(), 3), nullable=False),  # number of the input, of its file, of the row
)
# The column that readers make of the folder names `run_id=…`.
PARTITION_NAME = "run_id"
# Keys of a part's own metadata, each a JSON document.
SPEC_KEY = b"beam_embed.spec"
PART_KEY = b"beam_embed.part"
FAILURES_KEY = b"beam_embed.failures"


def check_carried_names(spec: EmbeddingSpec, carried: Sequence[CarriedColumn]) -> None:
    """Refuses carried columns whose names are taken.

    Raises:
      ConfigurationError: naming the column.
    """
    stored = (URI_FIELD, *PICTURE_FIELDS, *FAILURE_FIELDS)
    taken = {PARTITION_NAME, *(field.name for field in stored), *(output.column for output in spec.outputs)}
    names = [column.name for column in carried]
    for name in names:
        if name in taken:
            raise ConfigurationError(
                f"a carried column cannot be called {name!r}: the output has a column of that name"
            )
        if names.count(name) > 1:
            raise ConfigurationError(f"column {name!r} is to be kept twice")


def vector_type(shape: Sequence[int], dtype: str) -> pa.DataType:
    """The Arrow type of one output of one picture.

    Args:
      shape: without the batch dimension; `(2048,)` for a vector, `(7, 7, 512)` for a map.
      dtype: `float32` or `float16`.
    """
    value = pa.float32() if dtype == "float32" else pa.float16()
    if len(shape) == 1:
        return pa.list_(value, shape[0])
    return pa.fixed_shape_tensor(value, list(shape))


def carried_fields(carried: Sequence[CarriedColumn]) -> list[pa.Field]:
    """The carried columns as Arrow fields; any of their values may be null."""
    return [pa.field(column.name, column.type or pa.string()) for column in carried]


def embedding_schema(
    spec: EmbeddingSpec, shapes: Mapping[str, tuple[int, ...]], carried: Sequence[CarriedColumn] = ()
) -> pa.Schema:
    """The schema of an embedding row: `uri`, the carried columns, what the picture was, one column for each output.

    Args:
      spec: resolved.
      shapes: the shape of each output column for one picture.
      carried: with their types.
    """
    vectors = [
        pa.field(output.column, vector_type(shapes[output.column], spec.dtype), nullable=False)
        for output in spec.outputs
    ]
    return pa.schema([URI_FIELD, *carried_fields(carried), *PICTURE_FIELDS, *vectors])


def failure_schema(carried: Sequence[CarriedColumn] = ()) -> pa.Schema:
    """The schema of a failure row. `uri` is null where the input row had none."""
    return pa.schema([pa.field("uri", pa.string()), *carried_fields(carried), *FAILURE_FIELDS])


def vector_array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Outputs of a batch as one Arrow column, without a copy for each row.

    Args:
      values: `float32[N, …]` or `float16[N, …]`.
      kind: the type `vector_type` gives for them.
    """
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def finished(values: np.ndarray, spec: EmbeddingSpec) -> np.ndarray:
    """Model outputs `float32[N, …]` as they are stored: divided by their length if wanted, then cast.

    Lengths are taken in float64 after dividing by the largest component: TensorFlow's `l2_normalize` returns zeros'
    neighbours unscaled, because of its epsilon, where activations are near 1e-11. A vector of zeros stays one.
    """
    if spec.normalize:
        rows = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)
        peak = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
        rows /= np.where(peak == 0, 1.0, peak)
        length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        rows /= np.where(length == 0, 1.0, length)
        values = rows.reshape(values.shape).astype(np.float32)
    return values.astype(spec.dtype, copy=False)


def to_metadata(key: bytes, document: Any) -> dict[bytes, bytes]:
    """One entry of a file's metadata."""
    return {key: json.dumps(document, sort_keys=True, separators=(",", ":")).encode()}
