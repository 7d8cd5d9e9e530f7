"""What the work on pictures gives: rows of one batch, and failures."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from beam_pipeline.errors import ImageFailure
from beam_pipeline.references import ImageReference


@dataclass(frozen=True)
class Failed:
    """An input that gave no vector, and why."""

    reference: ImageReference
    failure: ImageFailure


@dataclass(frozen=True)
class Embedded:
    """What one batch gave.

    Args:
      rows: embedding rows, in the order of the references.
      failures: the inputs that left the stream while the batch was formed.
      fetched_bytes: encoded bytes read for the rows.
    """

    rows: pa.RecordBatch
    failures: tuple[Failed, ...]
    fetched_bytes: int
