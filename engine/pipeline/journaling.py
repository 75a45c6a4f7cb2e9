"""The stage between ring and journal: what came is taken out, judged, and written; then whoever sent it is told.

Owns when an append is due and what goes into an entry. Knows no database.

    ring ---> names ---> scale ---> continuity ---> entry ---> journal.append ---> committer
      |                             (repeats out,                    |
      +--> freed: wait_for_space     gaps found)                     +---> receipts: the message may be acknowledged

Invariants:
- The rows of one message are never in two entries: a kill between the two would have one half stored, the message not
  acknowledged, and sent again as a whole. Rows without a message, of polls and histories, may be parted anywhere.
- One append at a time; the next begins `group_s` after the last one began at the earliest.
- A receipt is given when the rows of the message, and all before them, are durable or were dropped as repeated. The
  newest position of each subscription is in the entry that ends with it, also where that has no rows: else a successor
  would ask the server for a message that it was allowed to forget.
- Nothing is kept here but the append under way: while the journal takes nothing, rows wait in the ring, which is full
  soon.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.frames import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from engine._fastpath import Ring
    from engine.continuity import Continuity
    from engine.enumerations import Enumerations
    from engine.frames import Frame, Position
    from engine.journal.journal import Journal
    from engine.journal.memory import MemoryJournal
    from engine.pipeline.accounting import Accounting
    from engine.scaling import TagTable

    AnyJournal = Journal | MemoryJournal

# One commit takes frames whole: this many rows make a batch of the size that COPY likes best.
ENTRY_MOST_ROWS = 50_000
# Bounds what an append has in memory.
APPEND_MOST_ENTRIES = 4


class Receipt(Protocol):
    """A message that went into the ring, and who is to be told when it is durable (workers.opcua.sink.Message)."""

    @property
    def position(self) -> Position:
        """Which message it was."""

    @property
    def durable(self) -> Callable[[Position], None]:
        """Called once its rows are durable."""


class _Part(NamedTuple):
    """The rows of one message: from `first` up to `end`, counted as Continuity does."""

    first: int
    end: int
    receipt: Receipt


class Journaling:
    """One tenant's way into its journal; single event loop, no locks."""

    def __init__(
        self,
        *,
        ring: Ring,
        enumerations: Enumerations,
        tags: TagTable,
        continuity: Continuity,
        journal: AnyJournal,
        accounting: Accounting,
        group_s: float,
        wake: asyncio.Event,
        durable: Callable[[Sequence[Frame]], None],
    ) -> None:
        """`wake` is set when there is something; `durable` gets the frames in their order, before any receipt."""
        # Set when `run` has returned: everything is durable.
        self.done = asyncio.Event()
        self._ring = ring
        self._enumerations = enumerations
        self._tags = tags
        self._continuity = continuity
        self._journal = journal
        self._accounting = accounting
        self._group_s = group_s
        self._durable = durable
        self._parts: deque[_Part] = deque()
        self._wake = wake
        self._freed = asyncio.Event()
        self._draining = False
        self._began_s = -group_s

    @property
    def _pending(self) -> bool:
        return len(self._ring) > 0 or len(self._parts) > 0 or self._continuity.pending

    def stored(self, rows: int, receipt: Receipt | None) -> None:
        """Take note of rows that are the last ones in the ring, and of their message."""
        if receipt is not None:
            end = self._continuity.row
            self._parts.append(_Part(end - rows, end, receipt))
        if rows or receipt is not None:
            self._wake.set()

    async def wait_for_space(self) -> None:
        """Return after rows have left the ring."""
        freed = self._freed
        self._wake.set()
        await freed.wait()

    def drain(self) -> None:
        """Make `run` return when everything that is there is durable."""
        self._draining = True
        self._wake.set()

    async def run(self) -> None:
        """Write what is there until `drain` was called and nothing is left. Raises JournalUnavailable."""
        while True:
            while not self._pending:
                if self._draining:
                    self.done.set()
                    return
                self._wake.clear()
                await self._wake.wait()
            wait_s = self._began_s + self._group_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._append()

    async def _append(self) -> None:
        self._began_s = time.monotonic()
        entries: list[Entry] = []
        receipts: list[Receipt] = []
        while len(entries) < APPEND_MOST_ENTRIES and self._pending:
            entry = self._take(receipts)
            if len(entry.batch) or entry.gaps or entry.positions:
                entries.append(entry)
        self._freed.set()
        self._freed = asyncio.Event()
        if not entries:
            return
        rows = sum(len(entry.batch) for entry in entries)
        frames = await self._journal.append(entries)
        self._durable(frames)
        self._accounting.durable(rows)
        for receipt in receipts:
            receipt.durable(receipt.position)

    def _take(self, receipts: list[Receipt]) -> Entry:
        """Take the oldest rows out of the ring, as many as an entry may have; add the receipts of their messages."""
        first = self._continuity.row - len(self._ring)
        end = self._end_of_entry(first)
        raw = self._ring.drain(end - first)
        self._enumerations.name(raw)
        taken = self._continuity.take(raw.slot, self._tags.scale(raw))
        self._accounting.drained(taken)
        positions: dict[tuple[UUID, int], Position] = {}
        while self._parts and self._parts[0].end <= end:
            receipt = self._parts.popleft().receipt
            position = receipt.position
            positions[position.connection_id, position.subscription_id] = position
            receipts.append(receipt)
        return Entry(taken.batch, taken.changes, tuple(positions.values()))

    def _end_of_entry(self, first: int) -> int:
        """Return the row behind the entry that begins with row `first`: never one within a message."""
        end = first + min(ENTRY_MOST_ROWS, len(self._ring))
        for part in self._parts:
            if part.end > end:
                if part.first < end:
                    # A message that alone has too many rows goes as a whole.
                    return part.first if part.first > first else part.end
                break
        return end
