"""A dataset for its users: what is published, as a `pyarrow` dataset and as NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from beam_pipeline.dataset.contract import Contract, read_contract
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.publish import published_runs
from beam_pipeline.errors import DatasetError, nearest
from beam_pipeline.schema import PICTURE_FIELDS, URI_FIELD, carried_fields, failure_schema, vector_type
from beam_pipeline.spec import POOLED_COLUMN
from beam_pipeline.storage import Storage
from beam_pipeline.uris import absolute


class EmbeddingDataset:
    """The published embeddings of one output folder; made by `open_dataset`.

    Attributes:
      spec: what determined the vectors, as in `_dataset.json`.
      fingerprint: of the spec.
      runs: the manifests of the published runs, oldest first.
      schema: of the embedding rows.
    """

    def __init__(self, layout: Layout, contract: Contract, runs: list[dict[str, Any]], storage: Storage) -> None:
        self._layout = layout
        self._contract = contract
        self._storage = storage
        self.spec = contract.spec
        self.fingerprint = contract.fingerprint
        self.runs = runs
        vectors = [
            pa.field(output["column"], vector_type(contract.shapes[output["column"]], contract.spec["dtype"]), False)
            for output in contract.spec["outputs"]
        ]
        self.schema = pa.schema([URI_FIELD, *carried_fields(contract.carried), *PICTURE_FIELDS, *vectors])

    def files(self) -> list[str]:
        """The published parts that have rows, as paths or URIs, oldest run first."""
        return [
            self._layout.part(run["run_id"], part["name"]) for run in self.runs for part in run["parts"] if part["rows"]
        ]

    def to_arrow(self) -> pads.Dataset:
        """The embedding rows as a `pyarrow.dataset.Dataset`: to be scanned, filtered, or given to DuckDB or Polars."""
        return self._dataset(self.files(), self.schema)

    def failures(self) -> pa.Table:
        """The failure rows of all published runs."""
        files = [self._layout.failures(run["run_id"]) for run in self.runs if run["counts"]["failed"]]
        return self._dataset(files, failure_schema(self._contract.carried)).to_table()

    def to_numpy(self, column: str = POOLED_COLUMN) -> tuple[np.ndarray, np.ndarray]:
        """One vector column with its URIs.

        Args:
          column: `embedding`, or the name of a layer's column.

        Returns:
          `(uris, vectors)`: `object[N]` of strings, and `float32[N, D]`, or `float32[N, H, W, C]` for a map
          (`float16` where the dataset is stored so). The vectors never pass through Python lists.

        Raises:
          DatasetError: for a column that is no vector column.
        """
        shapes: Mapping[str, list[int]] = self._contract.shapes
        if column not in shapes:
            have = ", ".join(shapes)
            raise DatasetError(f"no vector column {column!r}{nearest(column, shapes)} The dataset has: {have}")
        table = self.to_arrow().to_table(columns=["uri", column])
        vectors = np.empty((table.num_rows, *shapes[column]), self.spec["dtype"])
        row = 0
        for chunk in table.column(column).chunks:
            storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
            values = storage.flatten().to_numpy(zero_copy_only=True)
            vectors[row : row + len(chunk)] = values.reshape(len(chunk), *shapes[column])
            row += len(chunk)
        return table.column("uri").to_numpy(), vectors

    def _dataset(self, files: list[str], schema: pa.Schema) -> pads.Dataset:
        if not files:
            return pads.dataset(pa.Table.from_pylist([], schema=schema))
        found = [self._storage.arrow(uri) for uri in files]
        return pads.dataset([path for _, path in found], schema=schema, format="parquet", filesystem=found[0][0])

    def __len__(self) -> int:
        """Embedding rows."""
        return sum(part["rows"] for run in self.runs for part in run["parts"])


def open_dataset(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> EmbeddingDataset:
    """Opens the output folder of `beam-embed embed`, for reading what is published.

    Args:
      path: the folder, a path or URI.
      storage_options: for remote file systems; see `Storage`.

    Raises:
      DatasetError: where there is no dataset.

    Example:
      >>> uris, vectors = open_dataset("out").to_numpy()  # doctest: +SKIP
    """
    layout, storage = Layout(absolute(os.fspath(path))), Storage(storage_options)
    contract = read_contract(layout, storage)
    if contract is None:
        raise DatasetError(f"there is no dataset at {os.fspath(path)!r}: it has no _dataset.json")
    return EmbeddingDataset(layout, contract, published_runs(layout, storage), storage)
