"""What is committed when, and what is done about each error: with a store that does as it is told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from engine.errors import DatabaseRejected, DatabaseUnavailable, StreamTakenOver
from engine.frames import Loss, LossReason
from engine.journal.memory import MemoryJournal
from engine.journal.reading import Part
from engine.metrics import Counter, DropReason, Gauge
from engine.settings import Settings
from engine.store import Lane
from tests.engine.committing import bench
from tests.engine.life import TENANT, until

if TYPE_CHECKING:
    from engine.journal.reading import HasLane


async def test_a_live_batch_that_is_due_goes_before_the_next_of_the_backlog() -> None:
    held = asyncio.Event()
    async with bench(waiting=(600, 600), held=held) as running:
        await until(lambda: len(running.store.commits) == 1)
        await running.add(1_000)
        held.set()
        await running.drained()
        first, second, *rest = running.store.commits
        assert [len(commit.frames[0].batch) for commit in (first, second)] == [600, 1_000]
        assert (first.opens, second.opens) == (False, True)
        assert [len(frame.batch) for commit in rest for frame in commit.frames] == [600]
        assert running.store.lanes == (Lane(0, running.journal.last_sequence),)
        assert running.counts().counters[Counter.REPLAYED] == 1_200


async def test_a_conflict_is_tried_again_at_once() -> None:
    slow = Settings(buffer_duration_ms=20, max_buffer_size=1_000, database_retry_most_s=3_600)
    errors: list[Exception] = [DatabaseUnavailable("deadlock", "40P01") for _ in range(3)]
    async with bench(errors=errors, settings=slow) as running:
        await running.add(1_000)
        await running.drained()
        assert len(running.store.commits) == 4
        assert running.counts().counters[Counter.WRITE_FAILURES] == 3


async def test_after_a_timeout_half_of_the_frames_are_sent_and_the_rest_follows() -> None:
    errors: list[Exception] = [DatabaseUnavailable("too slow", "57014") for _ in range(3)]
    async with bench(errors=errors) as running:
        await running.add(*[100] * 10)
        await running.drained()
        assert [len(commit.frames) for commit in running.store.commits[:4]] == [10, 5, 2, 1]
        assert running.store.readings == 1_000
        ends = [commit.end for commit in running.store.commits[3:]]
        assert ends == sorted(ends)


async def test_a_commit_whose_answer_was_lost_is_not_counted_twice_although_fewer_frames_are_sent_again() -> (
    None
):
    async with bench(lost_answers=1) as running:
        await running.add(*[100] * 10)
        await running.drained()
        assert running.store.readings == running.counts().counters[Counter.COMMITTED] == 1_000


@pytest.mark.parametrize(
    "error", [DatabaseRejected("no", "42804"), DatabaseRejected("systemic"), ZeroDivisionError("a defect")]
)
async def test_what_waiting_does_not_mend_holds_the_stream_and_drops_nothing(error: Exception) -> None:
    async with bench(errors=[error, error]) as running:
        await running.add(1_000)
        await until(lambda: running.counts().gauges[Gauge.HELD] == 1)
        assert running.counts().gauges[Gauge.IN_FLIGHT] == 1_000
        await running.drained()
        assert running.counts().gauges[Gauge.HELD] == 0
        assert running.store.readings == 1_000


async def test_a_database_that_is_away_does_not_hold_the_stream() -> None:
    async with bench(errors=[DatabaseUnavailable("away")] * 3) as running:
        await running.add(1_000)
        await until(lambda: running.counts().counters[Counter.WRITE_FAILURES] >= 2)
        assert running.counts().gauges[Gauge.HELD] == 0
        await running.drained()
        assert running.counts().gauges[Gauge.DATABASE_UP] == 1


async def test_a_stream_that_was_taken_over_is_left_alone() -> None:
    async with bench(errors=[StreamTakenOver("epoch 2")]) as running:
        await running.add(1_000)
        with pytest.raises(StreamTakenOver):
            await running.running
        assert len(running.store.commits) == 1


async def test_with_a_mark_that_went_back_everything_behind_it_is_replayed_and_received_once_more() -> None:
    journal = KeepingJournal(TENANT, now_us=lambda: time.time_ns() // 1_000)
    async with bench(journal=journal) as running:
        await running.add(1_000)
        await until(lambda: running.counts().counters[Counter.COMMITTED] == 1_000)
        running.store.lanes, running.store.readings = (Lane(0, 0),), 0
        await running.add(1_000)
        await until(lambda: running.counts().counters[Counter.COMMITTED] == 3_000)
        await running.drained()
        assert running.counts().counters[Counter.RECEIVED] == 3_000
        assert running.counts().counters[Counter.REPLAYED] == 1_000
        assert running.store.readings == 2_000


async def test_a_hole_of_the_journal_goes_into_a_commit_and_its_rows_are_dropped_as_lost() -> None:
    journal = HoleyJournal(TENANT, now_us=lambda: time.time_ns() // 1_000)
    async with bench(journal=journal, waiting=(600, 500, 600)) as running:
        await running.drained()
        losses = [loss for commit in running.store.commits for loss in commit.losses]
        assert [loss.reason for loss in losses] == [LossReason.CORRUPT]
        assert running.counts().counters[Counter.LOST_FRAMES] == 1
        assert running.counts().counters[Counter.COMMITTED] == 1_200
        assert running.counts().dropped[DropReason.JOURNAL_LOST] == 500


async def test_frames_that_only_an_earlier_process_had_in_memory_are_passed_over() -> None:
    journal = MemoryJournal(TENANT, now_us=lambda: time.time_ns() // 1_000)
    async with bench(journal=journal) as running:
        running.backlog.lanes = running.store.lanes = (Lane(0, 3), Lane(9, 12))
        running.backlog.live_after = 12
        await running.add(1_000)
        await running.drained()
        assert len(running.store.lanes) == 1
        assert running.counts().counters[Counter.COMMITTED] == 1_000


async def test_the_journal_is_told_how_far_all_lanes_have_come() -> None:
    async with bench(waiting=(600, 600)) as running:
        await running.add(1_000)
        await running.drained()
        assert running.journal.nbytes == 0


class KeepingJournal(MemoryJournal):
    """Keeps what was committed, as segments are kept through their grace."""

    def committed(self, sequence: int) -> None:
        """Forget nothing."""


class HoleyJournal(MemoryJournal):
    """Has lost its second frame since."""

    async def read(self, after: int, *, until: int | None, most_rows: int, most_bytes: int) -> Part:
        part = await super().read(after, until=until, most_rows=min(most_rows, 1), most_bytes=most_bytes)
        first, lost, last = self._numbers()
        if part.frames and part.frames[0].sequence == lost:
            behind = await super().read(lost, until=until, most_rows=1, most_bytes=most_bytes)
            return Part(behind.frames, Loss(first, last, 0, LossReason.CORRUPT), behind.end)
        return part

    async def count_rows(self, lanes: tuple[HasLane, ...]) -> int:  # type: ignore[override]
        counted = await super().count_rows(lanes)
        _, lost, _ = self._numbers()
        return counted - (500 if lanes[0].mark < lost else 0)

    def _numbers(self) -> tuple[int, int, int]:
        last = self.last_sequence
        return last - 2, last - 1, last
