"""The stage between journal and database: frames that are durable are committed, each once, the live ones first.

Owns what is done about each outcome, and what the journal may forget. Which frames are next, and how many, is in
engine/pipeline/batches.py; how two commits are on their way at once, in engine/pipeline/flights.py; how a batch is
stored, in engine/store.

One batch is in hand: the first of those on their way. It stays there until it is stored or planned anew, so that its
outcome, where the connection broke during COMMIT, is known before anything behind it is stored:

    stored                              counted; the journal may forget it; then it is the second one's turn
    conflict (40)                       again, at once, a few times
    timeout (57014, 55P03)              again with half of its frames, down to one
    DatabaseUnavailable                 again, after the back-off of the database's breaker, or our own
    MarkMoved                           the database lost commits: what is behind its marks is replayed from the journal
    DatabaseRejected, NotMigrated, and  the stream is held: a person is called (ERROR, Gauge.HELD), and it is tried
    whatever nobody foresaw             again now and then; nothing is ever dropped
    StreamTakenOver                     raised: this owner must stop

With every error of the first, the second one is abandoned and planned anew once the first is stored. An error of the
second one is none before its turn: the first goes on, and then the second is in hand and is sent again. A batch that
has failed goes alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from engine.cancelling import cancel_all
from engine.errors import DatabaseError, DatabaseUnavailable, StreamTakenOver
from engine.metrics import Counter, Gauge
from engine.pipeline.backlog import MEMORY_MOST_ROWS
from engine.pipeline.batches import Batches
from engine.pipeline.failures import Failures
from engine.pipeline.flights import Flights
from engine.store import MarkMoved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.frames import Frame
    from engine.pipeline.accounting import Accounting
    from engine.pipeline.backlog import Backlog
    from engine.pipeline.batches import Batch
    from engine.pipeline.flights import Flight
    from engine.pipeline.journaling import AnyJournal
    from engine.settings import Settings
    from engine.store import Committed, Lane, Store, Totals

log = structlog.get_logger(__name__)

_OUTAGE_MOST_ROWS = 20_000


class Committer:
    """Commits one stream's frames; single event loop, commits in their order."""

    def __init__(
        self,
        *,
        store: Store,
        journal: AnyJournal,
        epoch: int,
        backlog: Backlog,
        accounting: Accounting,
        settings: Settings,
    ) -> None:
        self._store = store
        self._journal = journal
        self._backlog = backlog
        self._accounting = accounting
        self._due_rows = settings.max_buffer_size
        self._retry_most_s = settings.database_retry_most_s
        self._batches = Batches(
            backlog, journal, due_rows=self._due_rows, due_age_s=settings.buffer_duration_ms / 1_000
        )
        self._flights = Flights(store, journal.stream, epoch)
        self._wake = asyncio.Event()
        self._draining = False

    def add(self, frames: Sequence[Frame]) -> None:
        """Take frames that are durable now."""
        had = self._backlog.live_since_s
        self._backlog.add(frames)
        if had is None or self._backlog.memory_rows >= self._due_rows:
            self._wake.set()

    def drain(self) -> None:
        """Make `run` commit everything at once and then return."""
        self._draining = True
        self._wake.set()

    async def run(self) -> None:
        """Commit what is due until `drain` was called and nothing is left.

        Raises StreamTakenOver, and JournalUnavailable when the journal cannot be read.
        """
        self._accounting.waiting()
        flights = self._flights
        try:
            while not (self._draining and self._backlog.empty):
                if flights.first is not None:
                    await self._land(flights.first)
                elif (batch := await self._batches.next(draining=self._draining)) is not None:
                    flights.begin(batch)
                else:
                    await self._wait(self._batches.due_in_s())
        finally:
            await flights.close()
            await self._batches.close()

    async def _wait(self, most_s: float | None) -> None:
        """Wait until frames came that are due at once, or for so long."""
        self._wake.clear()
        try:
            async with asyncio.timeout(most_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _land(self, flight: Flight) -> None:
        """Have the batch in hand stored, however often it is sent; return also when it is to be planned anew."""
        batch, failures = flight.batch, Failures(self._retry_most_s)
        while True:
            await self._outcome(follows=failures.count == 0 and not batch.losses)
            try:
                committed = flight.task.result()
            except StreamTakenOver:
                raise
            except MarkMoved as exc:
                await self._flights.abandon()
                await self._replay(exc.lanes, exc.totals)
                # Not in a circle as fast as we can, whatever the database says.
                await asyncio.sleep(failures.next_wait_s(held=False))
                return
            except Exception as exc:  # noqa: BLE001  (nobody foresaw it: the stream is held, and nothing dropped)
                await self._flights.abandon()
                await self._after(exc, batch, failures)
                flight = self._flights.begin(batch)
            else:
                await self._committed(batch, committed, time.monotonic() - flight.started_s)
                if failures.count:
                    log.info("the database takes batches again", attempts=failures.count + 1)
                if self._flights.landed() is not None:
                    self._accounting.counters.count(Counter.WRITE_FAILURES)
                return

    async def _outcome(self, *, follows: bool) -> None:
        """Wait for the outcome of the first; meanwhile send the second one."""
        following = asyncio.create_task(self._follow()) if follows else None
        try:
            await self._flights.wait()
        finally:
            if following is not None:
                await cancel_all(following)
        if following is not None and not following.cancelled():
            following.result()

    async def _follow(self) -> None:
        """Have another batch go behind the first one, once that makes sense; read from the journal what comes next."""
        flights, batches = self._flights, self._batches
        assert flights.first is not None
        flying = [flights.first.batch]
        while flights.may_follow:
            batch = await batches.behind(flying[0])
            if not flights.may_follow:
                break
            if batch is not None:
                flights.follow(batch)
                flying.append(batch)
                break
            await batches.read_ahead(*flying)
            due_in_s = batches.due_in_s()
            # What is due already and did not go waits for more than time.
            await self._wait(due_in_s if due_in_s is not None and due_in_s > 0 else None)
        await batches.read_ahead(*flying)

    async def _committed(self, batch: Batch, committed: Committed, seconds: float) -> None:
        counters = self._accounting.counters
        self._batches.rows.took(batch.rows, seconds)
        self._batches.rows.goes_into(self._store.mode)
        rows = self._backlog.commit(batch.frames, committed.lanes, live=batch.live)
        self._backlog.hold_at_most(MEMORY_MOST_ROWS)
        counters.set(Gauge.DATABASE_UP, 1)
        counters.set(Gauge.HELD, 0)
        self._accounting.committed(
            committed.totals,
            rows=rows,
            replayed=0 if batch.live else rows,
            losses=len(batch.losses),
            seconds=seconds,
        )
        if batch.losses:
            before = self._backlog.journal_rows
            self._accounting.lost(max(0, before - await self._count_journal_rows()))
        self._journal.committed(self._backlog.committed_up_to)

    async def _replay(self, lanes: tuple[Lane, ...], totals: Totals) -> None:
        """Begin again at the marks that the database has: it lost commits, or knew nothing of a lane."""
        self._backlog.replan(lanes)
        self._batches.forget()
        before = self._backlog.journal_rows
        again = await self._count_journal_rows() - before
        log.error(
            "the database has lost commits; they are replayed from the journal",
            rows=again,
            up_to=lanes[0].mark,
        )
        self._accounting.moved(self._journal.stream, totals, max(again, 0))

    async def _count_journal_rows(self) -> int:
        """Count anew, by the journal's own index, the rows that only it has; return how many they are."""
        backlog = self._backlog
        before = backlog.journal_rows
        counted = await self._journal.count_rows(backlog.journal_lanes)
        # Frames that were left to the journal meanwhile came on top.
        backlog.journal_rows += counted - before
        return backlog.journal_rows

    async def _after(self, exc: Exception, batch: Batch, failures: Failures) -> None:
        """Say what failed, and wait as long as it takes to make sense to try again."""
        counters = self._accounting.counters
        counters.count(Counter.WRITE_FAILURES)
        held = not isinstance(exc, DatabaseUnavailable)
        counters.set(Gauge.DATABASE_UP, int(held))
        counters.set(Gauge.HELD, int(held))
        self._accounting.waiting()
        failures.report(exc, batch.rows, held=held)
        if failures.begins_outage:
            self._backlog.hold_at_most(max(2 * self._due_rows, _OUTAGE_MOST_ROWS))
        if isinstance(exc, DatabaseError):
            if exc.is_conflict and failures.is_again_at_once():
                return
            if exc.is_timeout:
                batch.halve()
                self._batches.rows.timed_out()
        if self._store.breaker.is_open:
            await self._store.breaker.wait()
        else:
            await asyncio.sleep(failures.next_wait_s(held=held))
