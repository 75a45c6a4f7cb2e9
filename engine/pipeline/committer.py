"""The stage between journal and database: frames that are durable are committed, each once, the live ones first.

Owns when a batch is due, what is done about each error, and what the journal may forget. Which frames are next, and in
which lane, is in engine/pipeline/backlog.py; how a batch is stored, in engine/store.

What goes next; the first line that fits decides:

    1  live frames that are due: old enough, or enough of them; not while the backlog is known to have holes, whose
       gaps begin at what is stored before them
    2  the oldest stretch that only the journal has, a batch of it
    3  when draining: live frames, due or not
    4  nothing: wait until frames are due, or come

What is done about an error; a batch stays in hand until it is stored or planned anew, so that its outcome, where the
connection broke during COMMIT, is known before anything else is tried:

    conflict (40)                       again, at once, a few times
    timeout (57014, 55P03)              again with half of its frames, down to one
    DatabaseUnavailable                 again, after the back-off of the database's breaker, or our own
    MarkMoved                           the database lost commits: what is behind its marks is replayed from the journal
    DatabaseRejected, NotMigrated, and  the stream is held: a person is called (ERROR, Gauge.HELD), and it is tried
    whatever nobody foresaw             again now and then; nothing is ever dropped
    StreamTakenOver                     raised: this owner must stop
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from engine.errors import DatabaseError, DatabaseUnavailable, ScadaError, StreamTakenOver
from engine.metrics import Counter, Gauge
from engine.pipeline.backlog import MEMORY_MOST_BYTES, MEMORY_MOST_ROWS, BatchRows
from engine.store import Commit, Lane, MarkMoved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Frame, Loss
    from engine.pipeline.accounting import Accounting
    from engine.pipeline.backlog import Backlog
    from engine.pipeline.journaling import AnyJournal
    from engine.settings import Settings
    from engine.store import Committed, Store, Totals

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.25
_FIRST_HELD_S = 2.0
_CONFLICTS_AT_ONCE = 3
# From then on a database is away for long: hundreds of tenants may be on one server, and the journal has it all.
_FAILURES_OF_AN_OUTAGE = 4
_OUTAGE_MOST_ROWS = 20_000
# Of one read from the journal: it is in memory beside what is live.
_READ_MOST_BYTES = MEMORY_MOST_BYTES // 4


@dataclass(slots=True)
class _Batch:
    """What is in hand: some frames of one lane, of which the first `count` are to be sent."""

    lane: Lane
    frames: Sequence[Frame]
    end: int
    count: int
    live: bool = False
    opens: bool = False
    losses: Sequence[Loss] = ()

    def halve(self) -> None:
        """Send fewer frames the next time, one at least; the others are planned anew behind them."""
        self.count = min(len(self.frames), max(1, self.count // 2))

    def commit(self, stream: UUID, epoch: int) -> Commit:
        """Return it as the store takes it."""
        whole = self.count == len(self.frames)
        return Commit(
            stream=stream,
            epoch=epoch,
            lane=self.lane,
            opens=self.opens,
            frames=self.frames[: self.count],
            losses=self.losses,
            end=self.end if whole else self.frames[self.count - 1].sequence,
        )

    @property
    def rows(self) -> int:
        """Readings that are to be sent."""
        return sum(len(frame.batch) for frame in self.frames[: self.count])


class _Failures:
    """How often one batch has failed; says so each time that the number has doubled, and how long to wait."""

    def __init__(self, most_s: float) -> None:
        self.count = 0
        self.conflicts = 0
        self._most_s = most_s

    def report(self, exc: Exception, rows: int, *, held: bool) -> None:
        """Count a failure; a database that is away mends itself, all else needs a person."""
        self.count += 1
        if self.count & (self.count - 1):
            return
        foreseen = isinstance(exc, ScadaError)
        (log.error if held else log.warning)(
            "the stream is held: the database refuses a batch"
            if held
            else "the database does not take a batch",
            error=str(exc) if foreseen else repr(exc),
            sqlstate=getattr(exc, "sqlstate", None),
            rows=rows,
            attempts=self.count,
            will_retry=True,
            exc_info=None if foreseen else exc,
        )

    def next_wait_s(self, *, held: bool) -> float:
        """Return how long to wait: full jitter, so that tenants on one server do not come back in step."""
        first_s = _FIRST_HELD_S if held else _FIRST_RETRY_S
        return random.uniform(0.0, min(self._most_s, first_s * 2 ** min(self.count, 16)))


class Committer:
    """Commits one stream's frames; single event loop, one transaction at a time."""

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
        self._epoch = epoch
        self._backlog = backlog
        self._accounting = accounting
        self._due_rows = settings.max_buffer_size
        self._due_age_s = settings.buffer_duration_ms / 1_000
        self._retry_most_s = settings.database_retry_most_s
        self._batch_rows = BatchRows(max(settings.max_buffer_size, 1_000))
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
        while not (self._draining and self._backlog.empty):
            batch = await self._next()
            if batch is not None:
                await self._write(batch)

    async def _next(self) -> _Batch | None:
        """Return what goes next, or None after a wait for it."""
        backlog = self._backlog
        due_in_s = self._due_in_s()
        stretch = backlog.stretch()
        is_due = due_in_s is not None and due_in_s <= 0 and not backlog.has_holes
        if is_due or (self._draining and stretch is None):
            live = backlog.live(self._batch_rows.rows)
            if live is not None:
                frames = live.frames
                return _Batch(
                    live.lane, frames, frames[-1].sequence, len(frames), live=True, opens=live.opens
                )
        if stretch is not None:
            return await self._read(stretch.lane, stretch.until)
        self._wake.clear()
        try:
            async with asyncio.timeout(due_in_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        return None

    def _due_in_s(self) -> float | None:
        """Return how long live frames may still wait; None when there are none."""
        since_s = self._backlog.live_since_s
        if since_s is None:
            return None
        if self._backlog.memory_rows >= self._due_rows:
            return 0.0
        return since_s + self._due_age_s - time.monotonic()

    async def _read(self, lane: Lane, until: int) -> _Batch:
        """Read a batch of what only the journal has."""
        part = await self._journal.read(
            lane.mark, until=until, most_rows=self._batch_rows.rows, most_bytes=_READ_MOST_BYTES
        )
        if (loss := part.loss) is not None:
            log.error(
                "frames are missing from the journal; every tag has a gap there",
                after=loss.after,
                until=loss.until,
                reason=loss.reason.value,
                kept_in=loss.kept_in,
            )
            # Alone: its gaps begin at what is stored now, and nothing from behind the hole may be among that.
            return _Batch(lane, (), min(loss.until - 1, until), 0, losses=[loss])
        frames = self._backlog.read(part.frames)
        # Nothing at all: frames of a life that kept them in memory, or that an owner numbered and never wrote.
        return _Batch(lane, frames, part.end if frames else until, len(frames))

    async def _write(self, batch: _Batch) -> None:
        """Commit a batch, again for as long as it takes; return also when it has to be planned anew."""
        failures = _Failures(self._retry_most_s)
        while True:
            started_s = time.monotonic()
            try:
                committed = await self._store.commit(batch.commit(self._journal.stream, self._epoch))
            except StreamTakenOver:
                raise
            except MarkMoved as exc:
                await self._replay(exc.lanes, exc.totals)
                # Not in a circle as fast as we can, whatever the database says.
                await asyncio.sleep(failures.next_wait_s(held=False))
                return
            except Exception as exc:  # noqa: BLE001  (nobody foresaw it: the stream is held, and nothing dropped)
                await self._after(exc, batch, failures)
            else:
                seconds = time.monotonic() - started_s
                self._batch_rows.took(batch.rows, seconds)
                await self._committed(batch, committed, seconds)
                if failures.count:
                    log.info("the database takes batches again", attempts=failures.count + 1)
                return

    async def _committed(self, batch: _Batch, committed: Committed, seconds: float) -> None:
        counters = self._accounting.counters
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

    async def _after(self, exc: Exception, batch: _Batch, failures: _Failures) -> None:
        """Say what failed, and wait as long as it takes to make sense to try again."""
        counters = self._accounting.counters
        counters.count(Counter.WRITE_FAILURES)
        held = not isinstance(exc, DatabaseUnavailable)
        counters.set(Gauge.DATABASE_UP, int(held))
        counters.set(Gauge.HELD, int(held))
        self._accounting.waiting()
        failures.report(exc, batch.rows, held=held)
        if failures.count == _FAILURES_OF_AN_OUTAGE:
            self._backlog.hold_at_most(max(2 * self._due_rows, _OUTAGE_MOST_ROWS))
        if isinstance(exc, DatabaseError):
            if exc.is_conflict and failures.conflicts < _CONFLICTS_AT_ONCE:
                failures.conflicts += 1
                return
            if exc.is_timeout:
                batch.halve()
                self._batch_rows.timed_out()
        if self._store.breaker.is_open:
            await self._store.breaker.wait()
        else:
            await asyncio.sleep(failures.next_wait_s(held=held))
