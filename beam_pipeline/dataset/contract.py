"""`_dataset.json`: what all runs of a dataset agree on. Written once, checked always."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_pipeline.dataset.layout import Layout
from beam_pipeline.errors import ConfigurationError, DatasetError, SpecMismatchError
from beam_pipeline.references import CarriedColumn
from beam_pipeline.schema import SCHEMA_VERSION, carried_fields
from beam_pipeline.spec import ResolvedSpec
from beam_pipeline.storage import Storage
from beam_pipeline.version import VERSION


@dataclass(frozen=True)
class Contract:
    """What every row of a dataset has in common.

    Args:
      fingerprint: of the spec.
      spec: `EmbeddingSpec.to_json()`.
      shapes: the shape of each output column for one picture.
      carried: the carried columns with their types.
      identity: the column that replaces the URI as identity, or None.
    """

    fingerprint: str
    spec: dict[str, Any]
    shapes: dict[str, list[int]]
    carried: tuple[CarriedColumn, ...]
    identity: str | None

    @classmethod
    def of(cls, resolved: ResolvedSpec, carried: Sequence[CarriedColumn], identity: str | None) -> Contract:
        """The contract of a run that is about to start."""
        shapes = {name: list(shape) for name, shape in resolved.shapes}
        return cls(resolved.spec.fingerprint, resolved.spec.to_json(), shapes, tuple(carried), identity)

    @property
    def identity_column(self) -> str:
        """The column that tells pictures apart."""
        return self.identity or "uri"

    def to_json(self) -> dict[str, Any]:
        """As it stands in `_dataset.json`; `schemas/dataset-v1.json` is its published form."""
        fields = carried_fields(self.carried)
        return {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "spec": self.spec,
            "shapes": self.shapes,
            "carried": [{"name": field.name, "type": str(field.type)} for field in fields],
            # The exact types for machines: a type's name alone does not rebuild every Arrow type.
            "carried_arrow_schema": base64.b64encode(pa.schema(fields).serialize().to_pybytes()).decode(),
            "identity": self.identity,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Contract:
        """The reverse of `to_json`."""
        serialized = pa.py_buffer(base64.b64decode(document["carried_arrow_schema"]))
        carried = tuple(CarriedColumn(field.name, field.type) for field in pa.ipc.read_schema(serialized))
        return cls(document["fingerprint"], document["spec"], document["shapes"], carried, document["identity"])


def read_contract(layout: Layout, storage: Storage) -> Contract | None:
    """The contract of a dataset, or None where there is no dataset yet.

    Raises:
      DatasetError: where the file is damaged, or of a newer beam-embed.
    """
    try:
        document = json.loads(storage.read(layout.dataset_json))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DatasetError(f"{layout.dataset_json!r} is damaged: {error}") from error
    if document.get("schema_version") != SCHEMA_VERSION:
        raise DatasetError(
            f"the dataset has schema version {document.get('schema_version')}, this beam-embed writes {SCHEMA_VERSION}"
        )
    return Contract.from_json(document)


def fix_contract(layout: Layout, wanted: Contract, storage: Storage) -> None:
    """Writes the contract of a new dataset, or checks that an existing one has the same.

    Raises:
      SpecMismatchError: with every difference between the two.
      ConfigurationError: where the output cannot be written.
    """
    document = wanted.to_json() | {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "created_by": f"beam-embed {VERSION}",
    }
    found = read_contract(layout, storage)
    if found is None:
        try:
            storage.create(layout.dataset_json, json.dumps(document, indent=2).encode())
        except OSError as error:
            raise ConfigurationError(
                f"the output {layout.root!r} cannot be written: {error.strerror or error}"
            ) from error
        found = read_contract(layout, storage)
    if found is None:
        raise ConfigurationError(f"the output {layout.root!r} does not keep what is written to it")
    check_same(layout, found, wanted)


def check_same(layout: Layout, found: Contract, wanted: Contract) -> None:
    """Raises `SpecMismatchError` where a dataset holds something else than what is wanted."""
    differences = _differences(found.to_json(), wanted.to_json())
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise SpecMismatchError(
            f"{layout.root!r} holds vectors of another spec, and different specs never mix in one dataset:\n{lines}\n"
            f"  use another --output, or the options of the dataset"
        )


def _differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in dict.fromkeys([*found, *wanted]):
            if key in ("fingerprint", "carried_arrow_schema", "schema_version") and not path:
                continue  # they follow from the rest, which says it in words
            lines += _differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
        return lines
    if found == wanted:
        return []
    return [f"{path}: the dataset has {json.dumps(found)}, this call {json.dumps(wanted)}"]
