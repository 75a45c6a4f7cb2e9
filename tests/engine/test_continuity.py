"""Gaps and repetitions, found in batches as they leave a real ring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine._fastpath import Ring
from engine.continuity import NEVER_US, Continuity, Taken
from engine.gaps import Cause, Gaps
from engine.readings import Batch, Kind, RawBatch
from engine.scaling import TagTable

OVERFLOW = 0x0000_0480
UNCERTAIN = 0x4000_0000


class Line:
    """A ring with its continuity; a reading is (slot, time, value)."""

    def __init__(self, slots: int = 4) -> None:
        self.ring = Ring(1_000)
        self.tags = TagTable()
        for tag in range(slots):
            self.tags.slot(tag + 100)
        self.continuity = Continuity(self.ring)
        self.all = np.arange(slots, dtype=np.uint32)

    def put(self, *readings: tuple[int, int, float], status: int = 0, text: str | None = None) -> None:
        slot, ts_us, value = zip(*readings, strict=True)
        rows = len(readings)
        kind = Kind.NUMBER if text is None else Kind.TEXT
        raw = RawBatch(
            ts_us=np.array(ts_us, np.int64),
            slot=np.array(slot, np.uint32),
            status=np.full(rows, status, np.uint32),
            value=np.array(value, np.float64),
            kind=np.full(rows, kind, np.uint8),
            texts={} if text is None else dict.fromkeys(range(rows), text),
        )
        assert self.ring.append(raw)

    def put_bad(self, *readings: tuple[int, int]) -> None:
        slot, ts_us = zip(*readings, strict=True)
        raw = RawBatch(
            ts_us=np.array(ts_us, np.int64),
            slot=np.array(slot, np.uint32),
            status=np.full(len(readings), 0x8032_0000, np.uint32),
            value=np.zeros(len(readings)),
            kind=np.full(len(readings), Kind.NULL, np.uint8),
        )
        assert self.ring.append(raw)

    def take(self, most: int = 1_000) -> Taken:
        raw = self.ring.drain(most)
        return self.continuity.take(raw.slot, self.tags.scale(raw))


def rows(batch: Batch) -> list[tuple[int, int, float]]:
    return [
        (int(tag) - 100, int(ts), float(value))
        for tag, ts, value in zip(batch.tag_id, batch.ts_us, batch.value, strict=True)
    ]


def listed(gaps: Gaps) -> list[tuple[int, int, int, Cause]]:
    return [
        (int(tag) - 100, int(start), int(end), Cause(cause))
        for tag, start, end, cause in zip(gaps.tag_id, gaps.from_us, gaps.to_us, gaps.cause, strict=True)
    ]


def test_nothing_is_found_where_nothing_happened() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, 2.0), (0, 20, 1.0), (0, 20, 1.0))
    taken = line.take()
    assert len(taken.batch) == 4
    assert (taken.repeated, taken.overflows, taken.unowned, bool(taken.changes)) == (0, 0, 0, False)
    assert list(line.continuity.snapshot(line.all)) == [20, 10, NEVER_US, NEVER_US]


def test_the_first_value_after_an_outage_that_is_stored_already_is_dropped() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, np.nan))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 10, 1.0), (1, 10, np.nan), (2, 10, 7.0), (0, 20, 2.0))
    taken = line.take()
    assert rows(taken.batch)[0] == (0, 10, 1.0)
    assert [row[:2] for row in rows(taken.batch)] == [(0, 10), (1, 10), (2, 10), (0, 20)]
    assert taken.repeated == 2
    assert not taken.changes


def test_the_first_value_after_an_outage_that_is_new_opens_a_gap() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 15, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 3.0), (0, 60, 4.0), (1, 55, 1.0), (2, 50, 1.0))
    taken = line.take()
    assert len(taken.batch) == 6
    assert listed(taken.changes.recorded) == [(0, 10, 50, Cause.OUTAGE), (1, 15, 55, Cause.OUTAGE)]
    assert taken.unowned == 2


def test_a_value_that_is_told_again_by_a_session_that_goes_on_is_dropped_and_a_later_one_is_no_gap() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, 1.0))
    line.continuity.resumed(line.all)
    line.put((0, 10, 1.0), (1, 20, 2.0), (0, 30, 3.0))
    taken = line.take()
    assert [row[:2] for row in rows(taken.batch)] == [(0, 10), (1, 10), (1, 20), (0, 30)]
    assert taken.repeated == 1
    assert not taken.changes


def test_an_outage_counts_more_than_a_session_that_goes_on() -> None:
    line = Line()
    line.put((0, 10, 1.0))
    line.continuity.resumed(line.all)
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.continuity.resumed(line.all)
    line.put((0, 20, 2.0))
    assert len(line.take().changes.recorded) == 1


def test_what_waits_in_the_ring_is_judged_by_what_was_true_when_it_came() -> None:
    line = Line()
    line.put((0, 10, 1.0))
    line.take()
    line.put((0, 20, 2.0))
    line.continuity.interrupted(line.all, Cause.RESTART)
    line.put((0, 20, 2.0), (0, 30, 3.0))
    assert rows(line.take(1).batch) == [(0, 20, 2.0)]
    taken = line.take()
    assert rows(taken.batch) == [(0, 30, 3.0)]
    assert not taken.changes


def test_a_tag_that_is_silent_after_an_outage_keeps_its_question_open() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 10, 1.0))
    assert line.take().repeated == 1
    line.put((0, 10, 1.0), (1, 90, 1.0))
    taken = line.take()
    assert taken.repeated == 0
    assert listed(taken.changes.recorded) == [(1, 10, 90, Cause.OUTAGE)]


@pytest.mark.parametrize(("value", "status"), [(2.0, 0), (1.0, UNCERTAIN)])
def test_another_value_or_status_at_the_same_time_is_stored_and_is_no_gap(value: float, status: int) -> None:
    line = Line()
    line.put((0, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 10, value), status=status)
    taken = line.take()
    assert len(taken.batch) == 2
    assert not taken.changes


def test_a_text_repeats_itself_by_its_time() -> None:
    line = Line()
    line.put((0, 10, 0.0), text="open")
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 10, 0.0), text="open")
    line.put((1, 10, 0.0), text="shut")
    taken = line.take()
    assert taken.repeated == 1
    assert taken.batch.texts == {0: "open", 1: "shut"}


def test_a_server_that_says_not_yet_first_leaves_the_question_open() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put_bad((0, 50), (1, 50))
    assert len(line.take().batch) == 4
    line.put_bad((1, 60))
    line.put((0, 10, 1.0), (1, 70, 2.0), (1, 80, 3.0))
    taken = line.take()
    assert rows(taken.batch)[1:] == [(1, 70, 2.0), (1, 80, 3.0)]
    assert taken.repeated == 1
    assert listed(taken.changes.recorded) == [(1, 10, 70, Cause.OUTAGE)]
    assert list(line.continuity.snapshot(line.all[:2])) == [10, 80]


def test_a_tag_that_is_bad_once_more_is_not_stored_again() -> None:
    line = Line()
    line.put_bad((0, 10))
    line.continuity.interrupted(line.all, Cause.RESTART)
    line.put_bad((0, 10))
    assert line.take().repeated == 1


def test_a_clock_that_went_back_makes_no_gap() -> None:
    line = Line()
    line.put((0, 100, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 2.0))
    taken = line.take()
    assert len(taken.batch) == 2
    assert not taken.changes
    assert line.continuity.snapshot(line.all)[0] == 50


def test_polled_values_are_stored_when_their_time_or_value_changed() -> None:
    line = Line()
    line.continuity.polled(line.all[:2])
    line.put((0, 10, 1.0), (1, 10, 1.0), (2, 10, 1.0))
    line.put((0, 10, 1.0), (1, 11, 1.0), (2, 10, 1.0))
    line.put((0, 10, 2.0), (1, 11, 1.0), (2, 10, 1.0))
    taken = line.take()
    assert taken.repeated == 2
    assert sorted(rows(taken.batch)) == [
        (0, 10, 1.0), (0, 10, 2.0), (1, 10, 1.0), (1, 11, 1.0), (2, 10, 1.0), (2, 10, 1.0), (2, 10, 1.0),
    ]  # fmt: skip
    line.put((0, 10, 2.0), (1, 12, 1.0))
    assert line.take().repeated == 1


def test_the_overflow_bit_opens_a_gap_since_the_value_before() -> None:
    line = Line()
    line.put((0, 10, 1.0), (1, 10, 1.0))
    line.put((0, 20, 2.0), (0, 30, 3.0))
    line.put((0, 90, 9.0), (1, 95, 9.0), (2, 95, 9.0), status=OVERFLOW)
    taken = line.take()
    assert len(taken.batch) == 7
    assert taken.overflows == 3
    assert listed(taken.changes.recorded) == [(0, 30, 90, Cause.OVERFLOW), (1, 10, 95, Cause.OVERFLOW)]


@pytest.mark.parametrize("status", [0x80, 0x0400, 0x0880, 0x8000_0400])
def test_other_info_bits_are_no_overflow(status: int) -> None:
    line = Line()
    line.put((0, 10, 1.0))
    line.put((0, 20, 2.0), status=status)
    assert line.take().overflows == 0


def test_an_overflow_right_after_an_outage_is_one_gap() -> None:
    line = Line()
    line.put((0, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 2.0), status=OVERFLOW)
    taken = line.take()
    assert taken.overflows == 1
    assert listed(taken.changes.recorded) == [(0, 10, 50, Cause.OUTAGE)]


def test_late_rows_are_stored_and_change_nothing_that_is_known() -> None:
    line = Line()
    line.put((0, 10, 1.0), (0, 50, 5.0))
    first = line.continuity.row
    line.put((0, 20, 2.0), (0, 30, 3.0), status=OVERFLOW)
    line.continuity.late(first, line.continuity.row)
    line.put((0, 60, 6.0), status=OVERFLOW)
    taken = line.take()
    assert len(taken.batch) == 5
    assert taken.overflows == 1
    assert listed(taken.changes.recorded) == [(0, 50, 60, Cause.OVERFLOW)]


def test_late_rows_are_late_also_when_they_leave_the_ring_in_parts() -> None:
    line = Line()
    line.put((0, 50, 5.0))
    first = line.continuity.row
    line.put((0, 20, 2.0), (0, 30, 3.0))
    line.continuity.late(first, line.continuity.row)
    line.take(2)
    assert line.continuity.snapshot(line.all)[0] == 50
    line.take(1)
    assert line.continuity.snapshot(line.all)[0] == 50
    line.put((0, 40, 4.0))
    line.take()
    assert line.continuity.snapshot(line.all)[0] == 40


def test_who_is_attached_gets_the_gaps_of_its_slots_until_it_is_detached() -> None:
    line = Line()
    given: list[Gaps] = []
    number = line.continuity.attach(line.all[:2], given.append)
    line.put((0, 10, 1.0), (2, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 1.0), (2, 50, 1.0))
    taken = line.take()
    assert len(taken.changes.recorded) == 2
    assert taken.unowned == 1
    assert [listed(gaps) for gaps in given] == [[(0, 10, 50, Cause.OUTAGE)]]
    line.continuity.detach(number)
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 90, 1.0))
    assert line.take().unowned == 1
    assert len(given) == 1


def test_a_gap_that_was_filled_is_forgotten_behind_the_rows_that_filled_it() -> None:
    line = Line()
    given: list[Gaps] = []
    line.continuity.attach(line.all, given.append)
    line.put((0, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 1.0))
    line.take()
    line.put((0, 30, 3.0))
    line.continuity.recovered(given[0])
    assert line.continuity.pending
    line.put((1, 1, 1.0))
    assert not line.take(0).changes
    taken = line.take(1)
    assert listed(taken.changes.recovered) == [(0, 10, 50, Cause.OUTAGE)]
    assert not line.continuity.pending


def test_of_a_gap_that_was_filled_in_part_the_rest_is_recorded_behind_the_rows_and_given_to_nobody() -> None:
    line = Line()
    given: list[Gaps] = []
    line.continuity.attach(line.all, given.append)
    line.put((0, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((0, 50, 1.0))
    line.take()
    (gap,) = given
    rest = Gaps(gap.slot, gap.tag_id, gap.from_us + 20, gap.to_us, gap.cause)
    line.put((0, 30, 3.0))
    line.continuity.recovered(gap, rest)
    taken = line.take()
    assert listed(taken.changes.recovered) == [(0, 10, 50, Cause.OUTAGE)]
    assert listed(taken.changes.recorded) == [(0, 30, 50, Cause.OUTAGE)]
    assert len(given) == 1
    assert taken.unowned == 0


def test_what_the_database_knows_counts_until_something_newer_was_seen() -> None:
    line = Line()
    stored = Batch(
        ts_us=np.array([10, NEVER_US], np.int64),
        tag_id=np.array([100, 101], np.int32),
        status=np.zeros(2, np.uint32),
        value=np.array([1.0, 0.0]),
        kind=np.array([Kind.NUMBER, 0], np.uint8),
    )
    line.continuity.know(line.all[:2], stored)
    line.continuity.interrupted(line.all, Cause.RESTART)
    line.put((0, 10, 1.0), (1, 10, 1.0))
    taken = line.take()
    assert rows(taken.batch) == [(1, 10, 1.0)]
    assert taken.repeated == 1
    line.put((0, 20, 2.0))
    line.take()
    line.continuity.know(line.all[:2], stored)
    assert list(line.continuity.snapshot(line.all[:2])) == [20, 10]


def test_slots_far_beyond_the_first_are_taken() -> None:
    line = Line(slots=5_000)
    line.put((4_999, 10, 1.0))
    line.continuity.interrupted(line.all, Cause.OUTAGE)
    line.put((4_999, 20, 1.0))
    assert len(line.take().changes.recorded) == 1


def test_interruptions_while_nothing_arrives_are_one() -> None:
    line = Line()
    for _ in range(1_000):
        line.continuity.interrupted(line.all, Cause.OUTAGE)
    assert len(line.continuity._marks) == 1


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 1), st.booleans()),
        st.sampled_from(["interrupted", "resumed"]),
    ),
    max_size=40,
)


@given(EVENTS, st.lists(st.integers(0, 7), max_size=30))
def test_batches_of_any_size_give_what_one_row_after_the_other_gives(
    events: list[tuple[int, int, int, bool] | str], sizes: list[int]
) -> None:
    line, oracle = Line(), Oracle()
    line.continuity.polled(line.all[:1])
    kept: list[tuple[int, int, float]] = []
    found: list[tuple[int, int, int, Cause]] = []
    for event in events:
        if event == "interrupted":
            line.continuity.interrupted(line.all, Cause.OUTAGE)
        elif event == "resumed":
            line.continuity.resumed(line.all)
        else:
            assert not isinstance(event, str)
            slot, ts_us, value, overflow = event
            line.put((slot, ts_us, float(value)), status=OVERFLOW if overflow else 0)
    for size in [*sizes, 1_000]:
        taken = line.take(size)
        kept += rows(taken.batch)
        found += listed(taken.changes.recorded)
    for event in events:
        oracle.see(event)
    assert kept == oracle.kept
    assert sorted(found) == sorted(oracle.gaps)


class Oracle:
    """The rules, one row after the other. Slot 0 is polled."""

    def __init__(self) -> None:
        self.newest: dict[int, tuple[int, float]] = {}
        self.interrupted: set[int] = set()
        self.resumed: set[int] = set()
        self.kept: list[tuple[int, int, float]] = []
        self.gaps: list[tuple[int, int, int, Cause]] = []

    def see(self, event: tuple[int, int, int, bool] | str) -> None:
        if isinstance(event, str):
            (self.interrupted if event == "interrupted" else self.resumed).update({0, 1, 2, 3})
            return
        slot, ts_us, value, overflow = event
        before = self.newest.get(slot)
        first = slot in self.interrupted
        again = first or slot in self.resumed
        self.interrupted.discard(slot)
        self.resumed.discard(slot)
        self.newest[slot] = (ts_us, float(value))
        if before != (ts_us, float(value)) or not (again or slot == 0):
            self.kept.append((slot, ts_us, float(value)))
        if before is not None and ts_us > before[0] and (first or overflow):
            self.gaps.append((slot, before[0], ts_us, Cause.OUTAGE if first else Cause.OVERFLOW))
