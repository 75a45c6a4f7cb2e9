"""The one place that wires the stages. What happens to a reading, in the order of the code:

    OPC UA bytes -> decode -> ring -> names, scale, continuity -> journal -> commit -> the tenant's database
         ^           (compiled)  |         (repeated? gap?)       |  |  ^       |
         |                       |                                |  |  |       +-- journal.committed: trim
         +---- wait_for_space <--+-- rows freed                   |  |  +-- read again after a crash, an outage,
         +---- accepting? <---------- full, or its disk fails <---+  |      or commits that the database lost
         +---- durable: acknowledge <--------------------------------+

    journaling            from the ring into the journal, at the boundaries of messages; receipts
    committer             from the journal into the database: when, and what is done about errors
    backlog               which frames are next, in which lane; what is kept in memory
    accounting            received = committed + quarantined + dropped + in flight, counted as readings move

Owns a tenant's ring, its TagTable, its Enumerations and its Continuity, and the order in which a stream is taken over.
Decoding into the ring is done by whoever receives the bytes (workers.opcua); it tells the pipeline by `stored`, and
waits in `wait_for_space` when the ring is full.

Invariants:
- A reading that is acknowledged is in the journal; one in the journal is committed or quarantined exactly once.
- The ring is the only buffer before the journal. A journal that is full therefore fills the ring, and a full ring stops
  the publishing of this tenant only. A database that is away fills nothing but the journal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine._fastpath import Ring
from engine.cancelling import cancel_all
from engine.continuity import Continuity
from engine.enumerations import Enumerations
from engine.journal.newest import NewestReadings
from engine.metrics import Counter, Gauge
from engine.pipeline.accounting import Accounting
from engine.pipeline.backlog import MEMORY_MOST_ROWS, Backlog
from engine.pipeline.committer import Committer
from engine.pipeline.journaling import Journaling
from engine.scaling import TagTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine.frames import Frame
    from engine.journal.newest import Newest
    from engine.metrics import TenantSlots
    from engine.pipeline.journaling import AnyJournal, Receipt
    from engine.readings import Batch
    from engine.settings import Settings
    from engine.store import Claim, Store


class TenantPipeline:
    """One tenant's readings from the ring to the database; single event loop, no locks."""

    def __init__(
        self,
        *,
        store: Store,
        journal: AnyJournal,
        claim: Claim,
        waiting: int,
        counters: TenantSlots,
        settings: Settings,
        memory_most_rows: int = MEMORY_MOST_ROWS,
    ) -> None:
        """`waiting` rows of the journal are not committed; use `take_over`."""
        self.ring = Ring(settings.ring_rows)
        self.tags = TagTable()
        self.enumerations = Enumerations()
        self._store = store
        self._journal = journal
        self._counters = counters
        self._backlog = Backlog(claim.lanes, journal.last_sequence, waiting, most_rows=memory_most_rows)
        self._accounting = Accounting(counters, self.ring, self._backlog)
        self._committer = Committer(
            store=store,
            journal=journal,
            epoch=claim.epoch,
            backlog=self._backlog,
            accounting=self._accounting,
            settings=settings,
        )
        wake = asyncio.Event()
        self.continuity = Continuity(self.ring, wake=wake.set)
        self._journaling = Journaling(
            ring=self.ring,
            enumerations=self.enumerations,
            tags=self.tags,
            continuity=self.continuity,
            journal=journal,
            accounting=self._accounting,
            group_s=settings.journal.group_ms / 1_000,
            wake=wake,
            durable=self._on_durable,
        )
        self._newest_waiting: Newest | None = None
        self._newest_until = 0
        self._reading_newest = asyncio.Lock()
        self._was_accepting = journal.accepting
        self._failures_seen = 0
        self._listeners: dict[int, Callable[[], None]] = {}
        self._last_listener = 0
        self._forget_journal = journal.on_change(self._on_journal_changed)
        self._on_journal_changed()

    @classmethod
    async def take_over(
        cls,
        *,
        store: Store,
        journal: AnyJournal,
        counters: TenantSlots,
        settings: Settings,
        memory_most_rows: int = MEMORY_MOST_ROWS,
    ) -> TenantPipeline:
        """Become the owner of the journal's stream, account for what earlier owners left, and begin.

        Raises DatabaseError, JournalForeign or JournalUnavailable.
        """
        claim = await store.claim(journal.stream, journal.last_epoch + 1)
        await journal.begin(claim.epoch, claim.database_id)
        waiting = await journal.count_rows(claim.lanes)
        counters.settle(
            journal.stream,
            readings=claim.totals.readings,
            quarantined=claim.totals.quarantined,
            waiting=waiting,
        )
        journal.committed(claim.lanes[0].mark)
        return cls(
            store=store,
            journal=journal,
            claim=claim,
            waiting=waiting,
            counters=counters,
            settings=settings,
            memory_most_rows=memory_most_rows,
        )

    @property
    def in_flight_rows(self) -> int:
        """Rows received but not yet committed, quarantined or dropped."""
        return self._accounting.in_flight_rows

    @property
    def journaled_rows(self) -> int:
        """Those of them that the journal has."""
        return self._backlog.rows

    # What the receiver of OPC UA bytes calls; see workers.opcua.sink.Sink.

    @property
    def accepting(self) -> bool:
        """False while the journal takes nothing."""
        return self._journal.accepting

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called each time that `accepting` has changed; return what ends that."""
        self._last_listener += 1
        number = self._last_listener
        self._listeners[number] = call
        return lambda: self._listeners.pop(number, None) and None

    def stored(self, rows: int, message: Receipt | None = None) -> None:
        """Count rows that were just decoded into the ring; a message is told when it is durable."""
        if rows:
            self._accounting.received(rows)
        self._journaling.stored(rows, message)

    async def wait_for_space(self) -> None:
        """Wait until rows of the ring were freed."""
        await self._journaling.wait_for_space()

    async def newest(self, tag_ids: NDArray[np.int32]) -> Batch:
        """Return the newest reading of each tag, stored or not, as Store.newest does. Raises DatabaseError."""
        newest = await self._store.newest(tag_ids)
        backlog = self._backlog
        # All connections of a tenant ask at its start, and a backlog may be large: it is read once.
        async with self._reading_newest:
            if backlog.stretch() is not None and self._newest_until != backlog.live_after:
                until = backlog.live_after
                self._newest_waiting = await self._journal.newest(backlog.committed_up_to)
                self._newest_until = until
        if backlog.stretch() is None:
            self._newest_waiting = None
        elif self._newest_waiting is not None:
            newest = self._newest_waiting.laid_over(newest)
        in_memory = NewestReadings()
        for batch in backlog.batches_in_memory():
            in_memory.take(batch)
        return in_memory.all().laid_over(newest)

    async def run(self) -> None:
        """Journal and commit until `drain` was called and nothing is in flight.

        Raises StreamTakenOver, and JournalUnavailable when the journal's disk fails for good.
        """
        committing = asyncio.create_task(self._committer.run())
        journaling = asyncio.create_task(self._journaling.run())
        try:
            await asyncio.wait({committing, journaling}, return_when=asyncio.FIRST_COMPLETED)
            # The committer ends first only by an error.
            if not committing.done():
                await journaling
                self._committer.drain()
            await committing
        finally:
            await cancel_all(journaling, committing)

    def drain(self) -> None:
        """Make `run` write everything it has at once and then return."""
        self._journaling.drain()

    async def wait_journaled(self) -> None:
        """Return when, after `drain`, everything is in the journal."""
        await self._journaling.done.wait()

    def abandon(self, *, journal_stays: bool) -> int:
        """End: drop what is in the ring, and what is in the journal unless that stays; return the rows dropped."""
        self._forget_journal()
        rows = self.in_flight_rows - (self.journaled_rows if journal_stays else 0)
        self._accounting.stopped(rows)
        return rows

    def _on_durable(self, frames: Sequence[Frame]) -> None:
        self._committer.add(frames)
        self._set_gauges()

    def _set_gauges(self) -> None:
        journal, counters = self._journal, self._counters
        counters.set(Gauge.ACCEPTING, int(journal.accepting))
        counters.set(Gauge.JOURNAL_BYTES, journal.nbytes)
        counters.set(Gauge.JOURNAL_QUOTA_BYTES, journal.quota_bytes)
        if journal.failures != self._failures_seen:
            counters.count(Counter.JOURNAL_FAILURES, journal.failures - self._failures_seen)
            self._failures_seen = journal.failures

    def _on_journal_changed(self) -> None:
        journal = self._journal
        self._set_gauges()
        if journal.accepting != self._was_accepting:
            self._was_accepting = journal.accepting
            for call in list(self._listeners.values()):
                call()
