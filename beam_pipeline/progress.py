"""How far this process is: counts that the in-process runner's workers raise and the launcher's display reads.

Only a display: the counts of a run come from its plan and its parts' footers. Beam shows no metrics of a pipeline
while its in-process runner is at work, hence a count of our own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Pictures done so far in this process; `found` are those of them whose parts were there already."""

    embedded: int = 0
    failed: int = 0
    found: int = 0


class _Tally:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Progress()

    def add(self, embedded: int, failed: int, found: int = 0) -> None:
        """Counts pictures that are done."""
        with self._lock:
            now = self._now
            self._now = Progress(now.embedded + embedded, now.failed + failed, now.found + found)

    def read(self) -> Progress:
        """The counts at this moment."""
        return self._now

    def reset(self) -> None:
        """Starts again at nothing, for the next run in this process."""
        with self._lock:
            self._now = Progress()


TALLY = _Tally()
