"""One run as its pipeline receives it: built objects, checked, and small enough to be sent to every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_pipeline.dataset.contract import Contract
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.errors import ConfigurationError
from beam_pipeline.inputs import Source
from beam_pipeline.lists import Columns
from beam_pipeline.spec import Limits, ResolvedSpec
from beam_pipeline.storage import Storage

RETRY_FAILED = ("all", "retryable", "none")


@dataclass(frozen=True)
class Work:
    """How the work is cut and done; nothing of it changes a vector beyond rounding.

    Args:
      batch_size: pictures in one call of the model. Larger ones help a GPU and cost memory; on a CPU 32 is enough.
      images_per_shard: pictures in one part: what a kill costs at most, and how large the files are. With vectors of
        2,048 floats, 2,048 pictures make files of 15 MB.
      threads: threads that fetch and decode in each process; None means two for each core.
      retry_failed: which pictures of earlier runs' failures are tried again: `all`, `retryable` or `none`.
      limit: at most so many new pictures in this run, the first of the input; the others are left for the next.
      stop_after_s: seconds after which no further shard is begun; what is finished is published.
      max_failure_ratio: share of the pictures tried for the first time that may fail before the run counts as failed.
    """

    batch_size: int = 32
    images_per_shard: int = 2048
    threads: int | None = None
    retry_failed: str = "retryable"
    limit: int | None = None
    stop_after_s: float | None = None
    max_failure_ratio: float = 0.5

    def __post_init__(self) -> None:
        for name in ("batch_size", "images_per_shard", "threads", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, received {value!r}")
        if self.stop_after_s is not None and self.stop_after_s <= 0:
            raise ConfigurationError(f"stop_after must be more than nothing, received {self.stop_after_s!r} s")
        if not 0 <= self.max_failure_ratio <= 1:
            raise ConfigurationError(f"max_failure_ratio lies between 0 and 1, received {self.max_failure_ratio!r}")
        if self.retry_failed not in RETRY_FAILED:
            raise ConfigurationError(
                f"retry_failed is one of {', '.join(RETRY_FAILED)}, received {self.retry_failed!r}"
            )


@dataclass(frozen=True)
class Job:
    """Everything the pipeline of one run needs.

    Args:
      resolved: the spec.
      contract: of the dataset.
      layout: of the dataset.
      run_id: of the run.
      sources: what is read.
      columns: which columns of it, with their types.
      work: how it is done.
      limits: what a picture may cost.
      workers: processes that will work at once, as far as the runner's options tell.
      deadline: seconds since the epoch after which no shard is begun, or None.
      storage_options: for remote file systems.
      settings: for the manifest: what the run was asked for.
    """

    resolved: ResolvedSpec
    contract: Contract
    layout: Layout
    run_id: str
    sources: tuple[Source, ...]
    columns: Columns
    work: Work = field(default_factory=Work)
    limits: Limits = field(default_factory=Limits)
    workers: int = 1
    deadline: float | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def storage(self) -> Storage:
        """A way to files; made anew wherever it is needed, since open connections do not travel."""
        return Storage(self.storage_options)
