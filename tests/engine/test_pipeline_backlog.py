"""Which frames are committed next, in which lane: decided without a journal or a database."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from engine.frames import Frame
from engine.gaps import NO_GAPS, Cause, GapChanges, Gaps
from engine.pipeline import batches
from engine.pipeline.backlog import LANES_MOST, Backlog
from engine.pipeline.batches import BATCH_LEAST_ROWS, BATCH_MOST_ROWS, COLUMNSTORE_MOST_ROWS, BatchRows
from engine.readings import Batch, Kind
from engine.store import Lane, StorageMode
from engine.store.marks import moved, opened, place_of

ANY_BYTES = 1 << 40


def frame(sequence: int, rows: int = 10, *, nbytes: int = 100, gaps: GapChanges | None = None) -> Frame:
    return Frame(
        sequence=sequence,
        previous=sequence - 1,
        journaled_us=1_000 + sequence,
        batch=Batch(
            ts_us=np.arange(rows, dtype=np.int64),
            tag_id=np.full(rows, 7, np.int32),
            status=np.zeros(rows, np.uint32),
            value=np.zeros(rows),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        ),
        gaps=gaps or GapChanges(),
        positions=(),
        nbytes=nbytes,
    )


def frames(*sequences: int) -> list[Frame]:
    return [frame(sequence) for sequence in sequences]


def sequences(chosen: Sequence[Frame]) -> list[int]:
    return [each.sequence for each in chosen]


def test_a_live_frame_goes_into_the_one_lane_that_has_everything_before_it() -> None:
    backlog = Backlog((Lane(0, 5),), 5, 0)
    assert backlog.empty
    backlog.add(frames(6, 7))
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    assert (live.lane, live.opens, sequences(live.frames)) == (Lane(0, 5), False, [6, 7])
    assert backlog.commit(live.frames, (Lane(0, 7),), live=True) == 20
    assert backlog.empty
    assert backlog.rows == 0
    assert backlog.committed_up_to == 7


def test_behind_a_backlog_live_frames_open_a_lane_and_the_two_are_one_in_the_end() -> None:
    backlog = Backlog((Lane(0, 3),), 5, 20)
    backlog.add(frames(6))
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    assert (live.lane, live.opens) == (Lane(5, 5), True)
    stretch = backlog.stretch()
    assert stretch is not None
    assert (stretch.lane, stretch.until) == (Lane(0, 3), 5)
    assert backlog.commit(live.frames, (Lane(0, 3), Lane(5, 6)), live=True) == 10
    assert backlog.rows == 20
    assert backlog.commit(frames(4, 5), (Lane(0, 6),), live=False) == 20
    assert backlog.empty
    backlog.add(frames(7))
    again = backlog.live(1_000, ANY_BYTES)
    assert again is not None
    assert (again.lane, again.opens) == (Lane(0, 6), False)


def test_a_backlog_that_is_gone_before_a_live_frame_came_needs_no_other_lane() -> None:
    backlog = Backlog((Lane(0, 3),), 5, 20)
    backlog.commit(frames(4, 5), (Lane(0, 5),), live=False)
    backlog.add(frames(6))
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    assert (live.lane, live.opens) == (Lane(0, 5), False)


def test_a_batch_takes_whole_frames_at_least_one_and_no_more_rows_than_it_may() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0)
    backlog.add([frame(1, 500), frame(2, 50), frame(3, 60)])
    live = backlog.live(100, ANY_BYTES)
    assert live is not None
    assert sequences(live.frames) == [1]
    backlog.commit(live.frames, (Lane(0, 1),), live=True)
    live = backlog.live(109, ANY_BYTES)
    assert live is not None
    assert sequences(live.frames) == [2]


@pytest.mark.parametrize(("rows", "nbytes"), [(25, 1 << 30), (1_000_000, 250)])
def test_beyond_its_bounds_memory_is_left_to_the_journal_as_a_whole(rows: int, nbytes: int) -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0, most_rows=rows, most_bytes=nbytes)
    backlog.add(frames(1, 2))
    assert (backlog.memory_rows, backlog.journal_rows) == (20, 0)
    backlog.add(frames(3))
    assert (backlog.memory_rows, backlog.journal_rows) == (10, 20)
    assert backlog.live_after == 2
    assert backlog.oldest_us == 1_001
    stretch = backlog.stretch()
    assert stretch is not None
    assert (stretch.lane, stretch.until) == (Lane(0, 0), 2)


def test_frames_that_were_in_hand_when_memory_was_left_to_the_journal_are_counted_there() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0, most_rows=25)
    backlog.add(frames(1, 2))
    in_hand = backlog.live(1_000, ANY_BYTES)
    assert in_hand is not None
    backlog.add(frames(3))
    assert backlog.commit(in_hand.frames, (Lane(0, 2),), live=True) == 20
    assert (backlog.memory_rows, backlog.journal_rows) == (10, 0)
    assert backlog.stretch() is None


def test_with_as_many_lanes_as_there_may_be_live_frames_wait_for_one_to_end() -> None:
    lanes = tuple(Lane(10 * lane, 10 * lane + 5) for lane in range(LANES_MOST))
    backlog = Backlog(lanes, 10 * LANES_MOST, 0)
    backlog.add(frames(10 * LANES_MOST + 1))
    assert backlog.live(1_000, ANY_BYTES) is None
    backlog.commit(frames(*range(6, 11)), (Lane(0, 15), *lanes[2:]), live=False)
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    assert live.opens


def test_a_mark_that_went_back_makes_what_memory_no_longer_has_a_stretch_of_the_journal() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0)
    backlog.add(frames(1, 2))
    backlog.commit(frames(1, 2), (Lane(0, 2),), live=True)
    backlog.add(frames(3))
    backlog.replan((Lane(0, 1),))
    stretch = backlog.stretch()
    assert stretch is not None
    assert (stretch.lane, stretch.until) == (Lane(0, 1), 2)
    assert backlog.memory_rows == 10


def test_marks_that_are_ahead_settle_what_is_in_memory() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0)
    backlog.add(frames(1, 2, 3))
    backlog.replan((Lane(0, 2),))
    assert backlog.memory_rows == 10
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    assert (live.lane, sequences(live.frames)) == (Lane(0, 2), [3])


def test_the_lanes_for_counting_take_memory_for_committed() -> None:
    backlog = Backlog((Lane(0, 3), Lane(5, 6)), 6, 20)
    backlog.add(frames(7))
    *lanes, last = backlog.journal_lanes
    assert lanes == [Lane(0, 3), Lane(5, 6)]
    assert last.after == 6
    assert last.mark > 1 << 60


def test_a_gap_that_a_live_frame_has_filled_is_forgotten_with_the_backlog_in_which_it_may_be_recorded() -> (
    None
):
    filled = Gaps(
        np.zeros(1, np.uint32),
        np.full(1, 7, np.int32),
        np.full(1, 100, np.int64),
        np.full(1, 200, np.int64),
        np.full(1, Cause.OUTAGE, np.uint8),
    )
    backlog = Backlog((Lane(0, 3),), 5, 20)
    backlog.add([frame(6, gaps=GapChanges(recovered=filled))])
    live = backlog.live(1_000, ANY_BYTES)
    assert live is not None
    backlog.commit(live.frames, (Lane(0, 3), Lane(5, 6)), live=True)
    (read,) = backlog.read(frames(4))
    assert read.gaps.recorded is NO_GAPS
    assert read.gaps.recovered.from_us.tolist() == [100]
    backlog.commit([read], (Lane(0, 4), Lane(5, 6)), live=False)
    (read,) = backlog.read(frames(5))
    assert len(read.gaps.recovered) == 1
    backlog.commit([read], (Lane(0, 6),), live=False)
    assert backlog.read([frame(7)])[0].gaps.recovered is NO_GAPS


def test_a_batch_grows_until_it_takes_its_time_and_shrinks_when_it_takes_longer() -> None:
    batch = BatchRows(1_000, aim_s=0.4)
    batch.took(1_000, 0.01)
    assert batch.rows == 2_000
    batch.took(2_000, 0.35)
    assert batch.rows == 2_285
    batch.took(100, 3.0)  # it says nothing of large ones
    assert batch.rows == 2_285
    for _ in range(10):
        batch.took(batch.rows, 0.001)
    assert batch.rows == BATCH_MOST_ROWS
    batch.took(BATCH_MOST_ROWS, 4.0)
    assert batch.rows == BATCH_MOST_ROWS // 10
    batch.took(5_000, 400.0)
    assert batch.rows == BATCH_LEAST_ROWS


def test_a_batch_for_the_columnstore_grows_further() -> None:
    batch = BatchRows(BATCH_MOST_ROWS)
    batch.goes_into(StorageMode.COLUMNSTORE)
    for _ in range(10):
        batch.took(batch.rows, 0.001)
    assert batch.rows == COLUMNSTORE_MOST_ROWS
    batch.goes_into(StorageMode.HYPERTABLE)
    assert batch.rows == BATCH_MOST_ROWS


def test_a_batch_is_bounded_by_its_bytes_too() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0)
    backlog.add([frame(1, nbytes=600), frame(2, nbytes=500), frame(3, nbytes=1)])
    live = backlog.live(1_000, 1_000)
    assert live is not None
    assert (sequences(live.frames), live.full) == ([1], True)


def test_behind_a_live_batch_that_is_flying_the_next_frames_go_into_its_lane() -> None:
    backlog = Backlog((Lane(0, 3),), 5, 20)
    backlog.add(frames(6, 7))
    first = backlog.live(10, ANY_BYTES)
    assert first is not None
    assert first.opens
    flying = batches.Batch(first.lane, first.frames, 6, 1, live=True, opens=True)
    second = backlog.live(10, ANY_BYTES, flying)
    assert second is not None
    assert (second.lane, second.opens, sequences(second.frames)) == (Lane(5, 6), False, [7])


def test_behind_the_end_of_a_stretch_that_is_flying_live_frames_open_no_lane() -> None:
    backlog = Backlog((Lane(0, 3),), 5, 20)
    backlog.add(frames(6))
    flying = batches.Batch(Lane(0, 3), frames(4, 5), 5, 2)
    assert backlog.stretch(flying) is None
    live = backlog.live(10, ANY_BYTES, flying)
    assert live is not None
    assert (live.lane, live.opens) == (Lane(0, 5), False)


def test_frames_that_are_flying_when_memory_is_left_to_the_journal_are_not_read_from_it() -> None:
    backlog = Backlog((Lane(0, 0),), 0, 0, most_rows=25)
    backlog.add(frames(1, 2))
    flying = batches.Batch(Lane(0, 0), frames(1), 1, 1, live=True)
    backlog.add(frames(3))
    stretch = backlog.stretch(flying)
    assert stretch is not None
    assert (stretch.lane, stretch.until) == (Lane(0, 1), 2)


def test_after_timeouts_a_batch_is_halved_down_to_one_row_and_grows_again() -> None:
    batch = BatchRows(1_000)
    for _ in range(20):
        batch.timed_out()
    assert batch.rows == 1
    batch.took(10, 0.5)
    assert batch.rows == 2
    batch.took(10, 0.0)
    assert batch.rows == 4


class _Database:
    """Commits as the store does, in memory: each frame once, or an assertion fails."""

    def __init__(self, lanes: tuple[Lane, ...], stored: set[int]) -> None:
        self.lanes = lanes
        self.stored = stored

    def commit(self, lane: Lane, chosen: Sequence[Frame], end: int, *, opens: bool) -> tuple[Lane, ...]:
        lanes = self.lanes
        place = place_of(lanes, lane.after)
        if place is None:
            assert opens
            lanes = opened(lanes, lane.after)
            place = place_of(lanes, lane.after)
        assert place is not None
        assert lanes[place].mark == lane.mark
        if place + 1 < len(lanes):
            assert end <= lanes[place + 1].after
        assert self.stored.isdisjoint(sequences(chosen))
        self.stored.update(sequences(chosen))
        self.lanes = moved(lanes, place, end)
        assert len(self.lanes) <= LANES_MOST
        return self.lanes


def test_whatever_happens_each_frame_is_committed_once_and_all_are_counted() -> None:
    for seed in range(300):
        _live_and_die(seed)


def _planned(
    chance: random.Random, backlog: Backlog, journal: list[Frame], *flying: batches.Batch
) -> batches.Batch | None:
    live = backlog.live(chance.choice([1, 20, 500]), ANY_BYTES, *flying)
    stretch = backlog.stretch(*flying)
    if live is not None and (stretch is None or chance.random() < 0.5):
        return batches.Batch(
            live.lane, live.frames, live.frames[-1].sequence, len(live.frames), live=True, opens=live.opens
        )
    if stretch is None:
        return None
    rest = [each for each in journal if stretch.lane.mark < each.sequence <= stretch.until]
    chosen = rest[: chance.randint(1, 5)]
    end = chosen[-1].sequence if len(chosen) < len(rest) else stretch.until
    return batches.Batch(stretch.lane, chosen, end, len(chosen))


def _fly_two(chance: random.Random, backlog: Backlog, database: _Database, journal: list[Frame]) -> None:
    """Plan a batch and one behind it; commit both, or the first one only: the second is then abandoned."""
    first = _planned(chance, backlog, journal)
    if first is None:
        return
    second = _planned(chance, backlog, journal, first)
    lanes = database.commit(first.lane, first.frames, first.end, opens=first.opens)
    backlog.commit(first.frames, lanes, live=first.live)
    if second is not None and chance.random() < 0.8:
        lanes = database.commit(second.lane, second.frames, second.end, opens=second.opens)
        backlog.commit(second.frames, lanes, live=second.live)


def _live_and_die(seed: int) -> None:
    chance = random.Random(seed)
    journal: list[Frame] = []
    database = _Database((Lane(0, 0),), set())
    next_sequence = 1
    for _life in range(chance.randint(1, 14)):
        waiting = sum(len(each.batch) for each in journal if each.sequence not in database.stored)
        last = journal[-1].sequence if journal else 0
        backlog = Backlog(database.lanes, last, waiting, most_rows=chance.choice([15, 60, 1_000]))
        for _step in range(chance.randint(0, 40)):
            if chance.random() < 0.5:
                more = [
                    frame(next_sequence + each, chance.randint(0, 12)) for each in range(chance.randint(1, 4))
                ]
                next_sequence += len(more)
                journal += more
                backlog.add(more)
            elif (
                chance.random() < 0.6
                and (live := backlog.live(chance.choice([1, 20, 500]), ANY_BYTES)) is not None
            ):
                if chance.random() < 0.3:  # while it is on its way
                    more = [frame(next_sequence, 9)]
                    next_sequence += 1
                    journal += more
                    backlog.add(more)
                end = live.frames[-1].sequence
                lanes = database.commit(live.lane, live.frames, end, opens=live.opens)
                backlog.commit(live.frames, lanes, live=True)
            elif chance.random() < 0.5:
                _fly_two(chance, backlog, database, journal)
            elif (stretch := backlog.stretch()) is not None:
                rest = [each for each in journal if stretch.lane.mark < each.sequence <= stretch.until]
                chosen = rest[: chance.randint(1, 5)]
                end = chosen[-1].sequence if len(chosen) < len(rest) else stretch.until
                lanes = database.commit(stretch.lane, chosen, end, opens=False)
                backlog.commit(chosen, lanes, live=False)
            uncommitted = [each for each in journal if each.sequence not in database.stored]
            assert backlog.rows == sum(len(each.batch) for each in uncommitted)
            oldest = min((each.sequence for each in uncommitted), default=next_sequence)
            assert backlog.committed_up_to < oldest
            if not uncommitted:
                assert backlog.empty
        next_sequence += chance.randint(0, 5)  # another owner's numbers
