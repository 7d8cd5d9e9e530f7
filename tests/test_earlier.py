"""What is decided for a picture from all rows that name it and from what earlier runs did with it."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.dataset.plan import PlanCounts
from beam_pipeline.earlier import EMBEDDED, decide, failed_marker
from beam_pipeline.job import RETRY_FAILED
from beam_pipeline.references import NO_URI, ImageReference

MONDAY, TUESDAY = "2026-11-23T02:00:00.500000+00:00", "2026-11-24T02:00:00+00:00"
MAY_PASS, STAYS = failed_marker(MONDAY, True), failed_marker(MONDAY, False)
PASSED_SINCE, STAYS_SINCE = failed_marker(TUESDAY, True), failed_marker(TUESDAY, False)


def row(number: int = 0, *carried: object, file: int = 0, problem: str | None = None) -> ImageReference:
    return ImageReference("/a.jpg", (0, file, number), carried, "/a.jpg", problem)


EMBED = {"new": 1}
DONE = {"already_embedded": 1}
GIVEN_UP = {"already_failed": 1}


@pytest.mark.parametrize(
    ("markers", "retry_failed", "counts", "tried_before"),
    [
        ([], "none", EMBED, False),
        ([], "all", EMBED, False),
        ([EMBEDDED], "all", DONE, None),
        ([EMBEDDED, EMBEDDED], "all", DONE, None),
        ([MAY_PASS, EMBEDDED], "all", DONE, None),  # embedded by a later run
        ([EMBEDDED, STAYS_SINCE], "all", DONE, None),  # an embedding counts, whatever came after it
        ([MAY_PASS], "none", GIVEN_UP, None),
        ([MAY_PASS], "retryable", EMBED, True),
        ([MAY_PASS], "all", EMBED, True),
        ([STAYS], "none", GIVEN_UP, None),
        ([STAYS], "retryable", GIVEN_UP, None),
        ([STAYS], "all", EMBED, True),
        ([MAY_PASS, STAYS_SINCE], "retryable", GIVEN_UP, None),  # the newest attempt decides
        ([STAYS_SINCE, MAY_PASS], "retryable", GIVEN_UP, None),
        ([STAYS, PASSED_SINCE], "retryable", EMBED, True),
        ([PASSED_SINCE, STAYS], "retryable", EMBED, True),
    ],
)
def test_an_embedding_ends_it_and_otherwise_the_newest_attempt_decides(markers, retry_failed, counts, tried_before):
    decision = decide([row()], markers, retry_failed)
    assert decision.counts == PlanCounts(read=1, **counts)
    assert (decision.new.tried_before if decision.new else None) == tried_before


@pytest.mark.parametrize(
    ("rows", "winner", "conflicting"),
    [
        ([row(3)], row(3), 0),
        ([row(3), row(1), row(2)], row(1), 0),
        ([row(0, file=1), row(7, file=0)], row(7, file=0), 0),  # the first list comes before the second
        ([row(1, 5), row(2, 5)], row(1, 5), 0),
        ([row(1, 5), row(2, 6), row(3, 5), row(4, 7)], row(1, 5), 2),
        ([row(2, None), row(1, 5)], row(1, 5), 1),
        ([row(1, "b"), row(1, "a")], row(1, "a"), 1),  # one place twice: the smaller values, so that all agree
        ([row(1, None, problem="bad"), row(2, 5)], row(2, 5), 1),  # a row that can be used comes first
        ([row(2, None, problem="bad"), row(1, None, problem="worse")], row(1, None, problem="worse"), 0),
        ([row(1, float("nan")), row(2, float("nan"))], row(1, float("nan")), 0),  # equal as written
        ([row(1, {"a": 1, "b": 2}), row(2, {"b": 2, "a": 1})], row(1, {"a": 1, "b": 2}), 0),
        ([row(1, b"\xff"), row(2, datetime.date(2026, 1, 1))], row(1, b"\xff"), 1),
    ],
)
def test_of_several_rows_the_first_of_the_input_wins_and_others_are_duplicates(rows, winner, conflicting):
    decision = decide(rows, [], "retryable")
    assert repr(decision.new) == repr(winner)
    assert decision.counts == PlanCounts(len(rows), len(rows) - 1, conflicting, new=1)


def test_what_is_tried_again_is_the_winning_row_with_a_mark():
    [first, second] = [ImageReference("/b", (0, 0, n), (n,), "an id") for n in range(2)]
    assert decide([second, first], [MAY_PASS], "retryable").new == ImageReference(
        "/b", (0, 0, 0), (0,), "an id", None, tried_before=True
    )


def test_a_row_that_cannot_be_used_is_new_so_that_it_becomes_a_failure_row():
    bad = ImageReference(None, (0, 0, 5), (), None, NO_URI)
    assert decide([bad], [], "none").new == bad


POSITION = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5))
ROW = st.builds(
    ImageReference,
    uri=st.just("/a"),
    position=POSITION,
    carried=st.tuples(st.none() | st.integers(0, 2), st.none() | st.text(max_size=2)),
    identity=st.just("/a"),
    problem=st.none() | st.just("bad"),
)
TIME = st.datetimes(timezones=st.just(datetime.UTC)).map(datetime.datetime.isoformat)
MARKER = st.just(EMBEDDED) | st.builds(failed_marker, TIME, st.booleans())
RETRY = st.sampled_from(RETRY_FAILED)


@given(st.lists(ROW, min_size=1), st.lists(MARKER), RETRY)
def test_every_row_is_accounted_for_once(rows, markers, retry_failed):
    decision = decide(rows, markers, retry_failed)
    counts = decision.counts
    assert counts.read == len(rows)
    assert counts.read == counts.duplicates + counts.already_embedded + counts.already_failed + counts.new
    assert counts.new == (decision.new is not None)
    assert 0 <= counts.conflicting <= counts.duplicates
    assert counts.over_limit == 0


@given(st.data(), st.lists(ROW, min_size=1, max_size=6), st.lists(MARKER, max_size=6), RETRY)
def test_the_order_of_arrival_decides_nothing(data, rows, markers, retry_failed):
    shuffled = data.draw(st.permutations(rows)), data.draw(st.permutations(markers))
    again, decision = decide(*shuffled, retry_failed), decide(rows, markers, retry_failed)
    assert again.counts == decision.counts
    if decision.new is None:
        assert again.new is None
    else:
        assert again.new.order() == decision.new.order()


@given(st.lists(ROW, min_size=1), st.lists(MARKER), RETRY)
def test_the_winner_is_the_smallest_usable_row(rows, markers, retry_failed):
    new = decide(rows, markers, retry_failed).new
    if new is not None:
        usable = [one for one in rows if one.problem is None] or rows
        assert new.position == min(one.position for one in usable)
        assert new.tried_before == bool(markers)


@given(st.lists(st.tuples(TIME, st.booleans()), min_size=1, unique_by=lambda one: one[0]))
def test_the_newest_failure_is_found_whether_or_not_times_have_fractions(attempts):
    markers = [failed_marker(*attempt) for attempt in attempts]
    newest = max(attempts, key=lambda one: datetime.datetime.fromisoformat(one[0]))
    assert (decide([row()], markers, "retryable").new is not None) == newest[1]


def test_markers_are_short_bytes_of_time_and_hope():
    assert MAY_PASS == b"F2026-11-23T02:00:00.500000+00:00|1"
    assert STAYS == b"F2026-11-23T02:00:00.500000+00:00|0"
    assert EMBEDDED == b"E"
