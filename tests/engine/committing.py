"""A committer that runs with a store that does as it is told, and what is around it: no database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

import numpy as np

from engine._fastpath import Ring
from engine.breaker import Breaker
from engine.errors import DatabaseUnavailable
from engine.frames import Entry
from engine.gaps import GapChanges
from engine.journal.memory import MemoryJournal
from engine.metrics import Counter, Gauge, MetricsPage, TenantSample
from engine.pipeline.accounting import Accounting
from engine.pipeline.backlog import Backlog
from engine.pipeline.committer import Committer
from engine.readings import Batch, Kind
from engine.settings import Settings
from engine.store import Commit, Committed, Lane, MarkMoved, NotItsTurn, StorageMode, Store, Totals
from engine.store.marks import moved, opened, place_of
from tests.engine.life import TENANT

SETTINGS = Settings(buffer_duration_ms=20, max_buffer_size=1_000, database_retry_most_s=0.05)


@dataclass
class ToldStore:
    """A store that answers with the errors it was given, and then as it should.

    `errors` are for commits that follow nobody, `second_errors` for those that follow another.
    """

    lanes: tuple[Lane, ...]
    errors: list[Exception] = field(default_factory=list)
    second_errors: list[Exception] = field(default_factory=list)
    lost_answers: int = 0
    commits: list[Commit] = field(default_factory=list)
    """As they were sent."""
    made: list[Commit] = field(default_factory=list)
    """As they were committed, in their order."""
    readings: int = 0
    late: int = 0
    breaker: Breaker = field(default_factory=lambda: Breaker(0.05))
    mode: StorageMode | None = StorageMode.PLAIN
    held: asyncio.Event | None = None
    """Commits that follow nobody wait for it."""
    waiting: int = 0
    """Commits that have copied their rows and wait for their turn."""

    async def commit(self, commit: Commit, *, before: asyncio.Future[None] | None = None) -> Committed:
        self.commits.append(commit)
        if before is not None:
            if self.second_errors:
                raise self.second_errors.pop(0)
            await self._turn(before)
        elif self.held is not None:
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
        self.made.append(commit)
        self.readings += sum(len(frame.batch) for frame in commit.frames if frame.sequence > mark)
        self.lanes = moved(lanes, place, commit.end)
        if self.lost_answers:
            self.lost_answers -= 1
            raise DatabaseUnavailable("no answer")
        return Committed(self.lanes, Totals(self.readings, 0), self.late)

    async def _turn(self, before: asyncio.Future[None]) -> None:
        self.waiting += 1
        try:
            await asyncio.wait([before])
        finally:
            self.waiting -= 1
        if before.cancelled() or before.exception() is not None:
            raise NotItsTurn("the one before is not committed")


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
    second_errors: list[Exception] | None = None,
    held: asyncio.Event | None = None,
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
    store = ToldStore((Lane(0, 0),), errors or [], second_errors or [], lost_answers, held=held)
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
    try:
        yield Bench(store, journal, backlog, committer, page, running, accounting)
    finally:
        running.cancel()
        await asyncio.wait([running])
        page.close()
