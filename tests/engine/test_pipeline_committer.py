"""What is committed when, and what is done about each error: with a store that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from uuid import UUID

import numpy as np
import pytest

from engine._fastpath import Ring
from engine.breaker import Breaker
from engine.errors import DatabaseRejected, DatabaseUnavailable, StreamTakenOver
from engine.frames import Entry, Loss, LossReason
from engine.gaps import GapChanges
from engine.journal.memory import MemoryJournal
from engine.journal.reading import Part
from engine.metrics import Counter, DropReason, Gauge, MetricsPage, TenantSample
from engine.pipeline.accounting import Accounting
from engine.pipeline.backlog import Backlog
from engine.pipeline.committer import Committer
from engine.readings import Batch, Kind
from engine.settings import Settings
from engine.store import Commit, Committed, Lane, MarkMoved, Store, Totals
from engine.store.marks import moved, opened, place_of
from tests.engine.life import TENANT, until

if TYPE_CHECKING:
    from engine.journal.reading import HasLane

SETTINGS = Settings(buffer_duration_ms=20, max_buffer_size=1_000, database_retry_most_s=0.05)


@dataclass
class ToldStore:
    """A store that answers with the errors it was given, and then as it should."""

    lanes: tuple[Lane, ...]
    errors: list[Exception] = field(default_factory=list)
    lost_answers: int = 0
    commits: list[Commit] = field(default_factory=list)
    readings: int = 0
    breaker: Breaker = field(default_factory=lambda: Breaker(0.05))
    held: asyncio.Event | None = None

    async def commit(self, commit: Commit) -> Committed:
        self.commits.append(commit)
        if self.held is not None:
            await self.held.wait()
        if self.errors:
            raise self.errors.pop(0)
        lanes = self.lanes
        place = place_of(lanes, commit.lane.after)
        if place is None and commit.opens:
            lanes = opened(lanes, commit.lane.after)
            place = place_of(lanes, commit.lane.after)
        if place is None or lanes[place].mark < commit.lane.mark:
            raise MarkMoved("it went back", self.lanes, Totals(self.readings, 0))
        mark = lanes[place].mark
        self.readings += sum(len(frame.batch) for frame in commit.frames if frame.sequence > mark)
        self.lanes = moved(lanes, place, commit.end)
        if self.lost_answers:
            self.lost_answers -= 1
            raise DatabaseUnavailable("no answer")
        return Committed(self.lanes, Totals(self.readings, 0))


@dataclass
class Bench:
    """A committer that runs, and what is around it."""

    store: ToldStore
    journal: MemoryJournal
    backlog: Backlog
    committer: Committer
    page: MetricsPage
    running: asyncio.Task[None]
    accounting: Accounting

    def counts(self) -> TenantSample:
        return self.page.snapshot().tenants["acme"]

    async def add(self, *rows: int) -> None:
        """Put frames into the journal, and hand them over."""
        self.accounting.counters.count(Counter.RECEIVED, sum(rows))
        self.committer.add(await self.journal.append([entry(each) for each in rows]))

    async def drained(self) -> None:
        self.committer.drain()
        async with asyncio.timeout(20):
            await self.running
        assert self.counts().accounting_difference == 0
        assert self.counts().gauges[Gauge.IN_FLIGHT] == 0


def entry(rows: int) -> Entry:
    return Entry(
        Batch(
            ts_us=np.arange(rows, dtype=np.int64),
            tag_id=np.full(rows, 7, np.int32),
            status=np.zeros(rows, np.uint32),
            value=np.zeros(rows),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        ),
        GapChanges(),
    )


@asynccontextmanager
async def bench(
    *,
    errors: list[Exception] | None = None,
    lost_answers: int = 0,
    waiting: tuple[int, ...] = (),
    settings: Settings = SETTINGS,
    journal: MemoryJournal | None = None,
) -> AsyncIterator[Bench]:
    """Run a committer; `waiting` are the rows of frames that the journal has from an earlier life."""
    journal = journal or MemoryJournal(TENANT, now_us=lambda: time.time_ns() // 1_000)
    await journal.begin(1, UUID(int=1))
    page = MetricsPage.create(1)
    counters = page.shard(0).tenant("acme")
    if waiting:
        await journal.append([entry(each) for each in waiting])
    store = ToldStore((Lane(0, 0),), errors or [], lost_answers)
    backlog = Backlog(store.lanes, journal.last_sequence, sum(waiting))
    counters.settle(journal.stream, readings=0, quarantined=0, waiting=sum(waiting))
    accounting = Accounting(counters, Ring(10), backlog)
    committer = Committer(
        store=cast("Store", store),
        journal=journal,
        epoch=1,
        backlog=backlog,
        accounting=accounting,
        settings=settings,
    )
    running = asyncio.create_task(committer.run())
    yield Bench(store, journal, backlog, committer, page, running, accounting)
    running.cancel()
    await asyncio.wait([running])
    page.close()


async def test_a_live_batch_that_is_due_goes_before_the_next_of_the_backlog() -> None:
    async with bench(waiting=(600, 600, 600)) as running:
        running.store.held = asyncio.Event()
        await until(lambda: len(running.store.commits) == 1)
        await running.add(1_000)
        running.store.held.set()
        running.store.held = None
        await running.drained()
        first, second, *rest = running.store.commits
        assert [len(commit.frames[0].batch) for commit in (first, second)] == [600, 1_000]
        assert (first.opens, second.opens) == (False, True)
        assert [len(frame.batch) for commit in rest for frame in commit.frames] == [600, 600]
        assert running.store.lanes == (Lane(0, running.journal.last_sequence),)
        assert running.counts().counters[Counter.REPLAYED] == 1_800


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
