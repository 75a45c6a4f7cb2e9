"""The one place that wires the stages. What happens to a reading, in the order of the code below:

    OPC UA bytes -> decode -> ring ----> drain -> names -> scale -> continuity -> store -> the tenant's database
         ^           (compiled)  |         ^  (of enumerations)  (repeated? gap?)   |
         |                       |         |  due: a batch is old or large enough
         +---- wait_for_space <--+---------+---- rows freed <-----------------------+

Owns a tenant's ring, its TagTable, its Enumerations, its Continuity and the loop that flushes. Decoding into the ring
is done by whoever receives the bytes (workers.opcua); it tells the pipeline by `stored`, and waits in `wait_for_space`
when the ring is full.

Invariants:
- A row that left the ring is in `_in_hand` until the database has committed it; it is never dropped while the process
  lives. A database that is away therefore fills the ring, and a full ring stops the publishing of this tenant only.
- received = committed + dropped + in flight, where in flight = rows in the ring + rows in hand.

Not here yet: the journal. Until it exists, what is in flight when a worker is killed is lost, and counted as such by
the worker that takes over (metrics.DropReason.WORKER_KILLED).
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from engine._fastpath import Ring
from engine.continuity import Continuity
from engine.enumerations import Enumerations
from engine.errors import DatabaseError
from engine.metrics import Counter, DropReason, Gauge, TenantSlots
from engine.scaling import TagTable

if TYPE_CHECKING:
    from engine.gaps import GapChanges
    from engine.readings import Batch
    from engine.settings import Settings
    from engine.store import Store

log = structlog.get_logger(__name__)

# A backlog is written in larger batches than max_buffer_size: COPY gains little beyond 50 000 rows, and this bounds
# the encoded batch to a few megabytes.
_BACKLOG_ROWS = 50_000
_FIRST_RETRY_S = 0.25


class TenantPipeline:
    """One tenant's readings from the ring to the database; single event loop, no locks."""

    def __init__(self, *, store: Store, counters: TenantSlots, settings: Settings) -> None:
        self.ring = Ring(settings.ring_rows)
        self.tags = TagTable()
        self.enumerations = Enumerations()
        self._store = store
        self._counters = counters
        self._flush_rows = settings.max_buffer_size
        self._flush_age_s = settings.buffer_duration_ms / 1_000
        self._retry_most_s = settings.database_retry_most_s
        self._in_hand: Batch | None = None
        self._wake = asyncio.Event()
        self.continuity = Continuity(self.ring, wake=self._wake.set)
        self._freed = asyncio.Event()
        self._draining = False
        self._space_wanted = False
        self._oldest_s = 0.0

    @property
    def in_flight_rows(self) -> int:
        """Rows received but not yet committed."""
        return len(self.ring) + (len(self._in_hand) if self._in_hand else 0)

    # What the receiver of OPC UA bytes calls; see workers.opcua.session.Sink.

    def stored(self, rows: int) -> None:
        """Count rows that were just decoded into the ring, and flush if they make a batch."""
        if rows == 0:
            return
        if len(self.ring) == rows:
            self._oldest_s = time.monotonic()
            self._wake.set()
        elif len(self.ring) >= self._flush_rows:
            self._wake.set()
        with self._counters.together():
            self._counters.count(Counter.RECEIVED, rows)
            self._counters.set(Gauge.IN_FLIGHT, self.in_flight_rows)

    async def wait_for_space(self) -> None:
        """Wait until a flush has freed rows of the ring."""
        freed = self._freed
        self._space_wanted = True
        self._wake.set()
        await freed.wait()

    async def run(self) -> None:
        """Flush what is due until `drain` was called and nothing is in flight."""
        while not (self._draining and self.in_flight_rows == 0 and not self.continuity.pending):
            await self._until_due()
            if len(self.ring) or self.continuity.pending:
                await self._flush()

    def drain(self) -> None:
        """Make `run` write everything it has at once and then return."""
        self._draining = True
        self._wake.set()

    def abandon(self) -> int:
        """Count what is still in flight as dropped, because this process ends now; return the rows."""
        rows = self.in_flight_rows
        if rows:
            with self._counters.together():
                self._counters.drop(DropReason.STOPPED, rows)
                self._counters.set(Gauge.IN_FLIGHT, 0)
        return rows

    async def _until_due(self) -> None:
        while not self._draining and not self._space_wanted:
            rows = len(self.ring)
            remaining_s = self._oldest_s + self._flush_age_s - time.monotonic() if rows else None
            if rows >= self._flush_rows or (remaining_s is not None and remaining_s <= 0):
                return
            if rows == 0 and self.continuity.pending:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(remaining_s):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _flush(self) -> None:
        raw = self.ring.drain(max(self._flush_rows, _BACKLOG_ROWS))
        self.enumerations.name(raw)
        taken = self.continuity.take(raw.slot, self.tags.scale(raw))
        self._in_hand = taken.batch
        counters = self._counters
        with counters.together():
            counters.drop(DropReason.REPEATED, taken.repeated)
            counters.count(Counter.OVERFLOWS, taken.overflows)
            counters.count(Counter.GAPS, taken.unowned)
            counters.set(Gauge.IN_FLIGHT, self.in_flight_rows)
        self._space_wanted = False
        self._freed.set()
        self._freed = asyncio.Event()
        rows = len(taken.batch)
        if rows or taken.changes:
            await self._write(taken.batch, taken.changes)
        self._in_hand = None
        with self._counters.together():
            self._counters.count(Counter.COMMITTED, rows)
            self._counters.set(Gauge.IN_FLIGHT, self.in_flight_rows)

    async def _write(self, batch: Batch, gaps: GapChanges) -> None:
        """Write one batch with its gaps, again for as long as it takes: back-off with full jitter, up to the limit."""
        attempt = 0
        while True:
            started_s = time.monotonic()
            try:
                await self._store.write(batch, gaps)
            except DatabaseError as exc:
                self._counters.count(Counter.WRITE_FAILURES)
                self._counters.set(Gauge.DATABASE_UP, 0)
                self._report(exc, attempt, len(batch))
            else:
                if len(batch):
                    self._counters.observe_write(len(batch), time.monotonic() - started_s)
                self._counters.set(Gauge.DATABASE_UP, 1)
                if attempt:
                    log.info("the database takes batches again", attempts=attempt + 1)
                return
            ceiling_s = min(self._retry_most_s, _FIRST_RETRY_S * 2 ** min(attempt, 16))
            # Half to whole of the ceiling: tenants on one server should not come back in step.
            await asyncio.sleep(ceiling_s * random.uniform(0.5, 1.0))
            attempt += 1

    def _report(self, exc: DatabaseError, attempt: int, rows: int) -> None:
        """Say the first failure of a streak, and then each time the number of attempts doubles."""
        if attempt & (attempt + 1):
            return
        say = log.warning if exc.retry else log.error
        say(
            "a batch is held: the database does not take it",
            error=str(exc),
            sqlstate=exc.sqlstate,
            rows=rows,
            attempts=attempt + 1,
            will_retry=True,
        )
