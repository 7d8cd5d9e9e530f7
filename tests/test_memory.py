"""Memory follows the number of URIs at no more than 1 KB each, and neither pictures nor vectors."""

from __future__ import annotations

import pytest
from benchmarks import memory

FEW, MANY = 20_000, 200_000


@pytest.mark.slow
def test_peak_memory_grows_by_at_most_a_kilobyte_for_each_uri():
    few, many = memory.measure(FEW), memory.measure(MANY)
    listed, embedded_before = (many[run] - few[run] for run in range(2))
    assert listed <= MANY - FEW
    # The second run holds each URI twice: as listed, and as embedded.
    assert embedded_before <= 2 * (MANY - FEW)
