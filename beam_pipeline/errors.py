"""The project's exceptions: mistakes in a call, states of a dataset, and what one picture or its storage can do.

Only `ImageFailure` becomes a failure row. Everything else ends the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BeamEmbedError(Exception):
    """Base of every error that beam-embed raises on purpose."""


class ConfigurationError(BeamEmbedError, ValueError):
    """A mistake in the call, found before any work starts. The command exits with 2."""


class WeightsError(ConfigurationError):
    """Weights that cannot be had, cannot be read, or do not fit the model."""


class DatasetError(BeamEmbedError):
    """The output folder is not in a state in which the run could go on."""


class DatasetLockedError(DatasetError):
    """Another run is at work on the dataset."""


class SpecMismatchError(ConfigurationError):
    """The dataset holds vectors of another spec, or carries other columns."""


class StoreError(BeamEmbedError):
    """A whole store failed (credentials, configuration, a full disk): the shard fails, not one picture."""


class ImageFailure(BeamEmbedError):
    """One input that gives no vector. It becomes one failure row and nothing else.

    Args:
      stage: where it happened: `read`, `fetch`, `decode` or `infer`.
      kind: a short stable word to group by, such as `not_found` or `corrupt`.
      message: what was expected and what was received, without credentials or file content.
      retryable: whether a later run may succeed without anybody changing the input.
    """

    def __init__(self, stage: str, kind: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.kind = kind
        self.message = message
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword-only argument needs a hand; failures cross process borders.
        return _rebuild_failure, (self.stage, self.kind, self.message, self.retryable)


def _rebuild_failure(stage: str, kind: str, message: str, retryable: bool) -> ImageFailure:
    return ImageFailure(stage, kind, message, retryable=retryable)


def nearest(wanted: str, known: Iterable[str]) -> str:
    """`"; did you mean 'a' or 'b'?"`, or `";"` where nothing is close: the joint between two parts of a message."""
    names = list(known)
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wanted.lower(), lowered, n=3, cutoff=0.6)
    if not close:
        return ";"
    return "; did you mean " + " or ".join(repr(lowered[name]) for name in close) + "?"
