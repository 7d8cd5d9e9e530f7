"""What earlier runs mean for a picture: the markers that travel to it, and what is decided from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from beam_pipeline.dataset.plan import PlanCounts
from beam_pipeline.references import ImageReference, canonical

# Markers are bytes because a million of them wait in memory beside the references.
EMBEDDED = b"E"


def failed_marker(failed_at: str, retryable: bool) -> bytes:
    """The marker of a failed attempt: its run's time, and whether it may be tried again."""
    return f"F{failed_at}|{int(retryable)}".encode()


@dataclass(frozen=True)
class Decision:
    """What becomes of all rows that name one picture.

    Args:
      new: the row to be embedded, or None where there is nothing to do.
      counts: how the rows add up.
    """

    new: ImageReference | None
    counts: PlanCounts


def decide(references: Sequence[ImageReference], markers: Iterable[bytes], retry_failed: str) -> Decision:
    """Of several rows with one URI the smallest wins; of several earlier attempts an embedding, else the newest.

    Args:
      references: the rows of the input, all with one key, at least one.
      markers: of earlier runs.
      retry_failed: `all`, `retryable` or `none`.
    """
    winner = min(references, key=lambda r: (r.problem is not None, *r.order()))
    carried = canonical(winner.carried)
    conflicting = sum(canonical(r.carried) != carried for r in references)
    read, duplicates = len(references), len(references) - 1
    found = list(markers)
    if EMBEDDED in found:
        return Decision(None, PlanCounts(read, duplicates, conflicting, already_embedded=1))
    if found:
        retryable = max(found).endswith(b"1")  # markers begin with the time, so the greatest is the newest
        if retry_failed == "none" or (retry_failed == "retryable" and not retryable):
            return Decision(None, PlanCounts(read, duplicates, conflicting, already_failed=1))
        again = ImageReference(
            winner.uri, winner.position, winner.carried, winner.identity, winner.problem, tried_before=True
        )
        return Decision(again, PlanCounts(read, duplicates, conflicting, new=1))
    return Decision(winner, PlanCounts(read, duplicates, conflicting, new=1))
