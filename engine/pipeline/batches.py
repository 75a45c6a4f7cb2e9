"""Batches: what goes into one commit, how large that may be, and which is next.

What goes next; the first line that fits decides:

    1  live frames that are due: old enough, or enough of them; not while the backlog is known to have holes, whose
       gaps begin at what is stored before them
    2  the oldest stretch that only the journal has, a batch of it
    3  when draining: live frames, due or not
    4  nothing: wait until frames are due, or come

Behind a batch that is on its way, the same, planned as if that were committed already, but only what is worth another
connection: live frames behind live ones, and what the journal has, if they fill a batch; live frames that are due
behind a part of the backlog. A hole of the journal never goes with another batch on its way: its gaps begin at what
is stored then.

How large: as many rows as are committed in about `aim_s`, found by doubling, and bounded; what arrives while a batch
is being committed makes the next one larger by itself. Bytes are bounded, too, as texts can make rows large.

Journals are read ahead: one part, while other batches are on their way. So of one tenant there are in memory, beside
what the backlog keeps, at most two batches on their way and one that was read, of BATCH_MOST_BYTES each.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from engine.cancelling import cancel_all
from engine.errors import JournalUnavailable
from engine.pipeline.backlog import MEMORY_MOST_BYTES
from engine.store import Commit, Lane, StorageMode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Frame, Loss
    from engine.journal.reading import Part
    from engine.pipeline.backlog import Backlog, Live, Stretch
    from engine.pipeline.journaling import AnyJournal

log = structlog.get_logger(__name__)

# COPY into rows gains little beyond this. Measured.
BATCH_MOST_ROWS = 50_000
# The columnstore compresses what a batch has of each tag: with 200 000 rows it takes up to twice as many a second.
COLUMNSTORE_MOST_ROWS = 200_000
# What takes long with fewer is not their number, but the way to the database and its commit.
BATCH_LEAST_ROWS = 1_000
# Of frames as the journal has them: two on their way and one read ahead take less than what live frames may take.
BATCH_MOST_BYTES = MEMORY_MOST_BYTES // 4


@dataclass(slots=True)
class Batch:
    """Some frames of one lane, of which the first `count` are to be sent."""

    lane: Lane
    frames: Sequence[Frame]
    end: int
    """The lane's mark when all are committed."""
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


class BatchRows:
    """How many rows a batch may have, so that it takes about `aim_s`: whoever is next does not wait longer."""

    def __init__(self, first: int, *, aim_s: float = 0.4) -> None:
        self.most = BATCH_MOST_ROWS
        self.rows = min(first, self.most)
        self._aim_s = aim_s

    def goes_into(self, mode: StorageMode | None) -> None:
        """Learn how the database keeps readings."""
        self.most = COLUMNSTORE_MOST_ROWS if mode is StorageMode.COLUMNSTORE else BATCH_MOST_ROWS
        self.rows = min(self.rows, self.most)

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a batch that was committed, if it was of about this size."""
        if 2 * rows >= self.rows:
            fitting = int(rows * self._aim_s / max(seconds, 0.001))
            most = min(2 * self.rows, self.most)
            self.rows = max(min(self.rows, BATCH_LEAST_ROWS), min(fitting, most))

    def timed_out(self) -> None:
        """Try with half."""
        self.rows = max(1, self.rows // 2)


class Batches:
    """Plans one stream's batches, and reads from the journal what goes into them."""

    def __init__(self, backlog: Backlog, journal: AnyJournal, *, due_rows: int, due_age_s: float) -> None:
        self.rows = BatchRows(max(due_rows, BATCH_LEAST_ROWS))
        self._backlog = backlog
        self._due_rows = due_rows
        self._due_age_s = due_age_s
        self._read_ahead = _ReadAhead(journal)

    def due_in_s(self) -> float | None:
        """Return how long the oldest live frames may still wait; None when there are none."""
        since_s = self._backlog.live_since_s
        if since_s is None:
            return None
        if self._backlog.memory_rows >= self._due_rows:
            return 0.0
        return since_s + self._due_age_s - time.monotonic()

    async def next(self, *, draining: bool) -> Batch | None:
        """Return what goes next when nothing is on its way; None when nothing is due. Raises JournalUnavailable."""
        stretch = self._backlog.stretch()
        if self._is_live_due() or (draining and stretch is None):
            live = self._live()
            if live is not None:
                return _of_live(live)
        if stretch is not None:
            part = await self._read_ahead.read(stretch, self.rows.rows)
            self._read_ahead.forget()
            return _of_part(self._backlog, stretch, part)
        return None

    async def behind(self, flying: Batch) -> Batch | None:
        """Return what is worth going behind a batch that is on its way, or None. Raises JournalUnavailable.

        The batch in hand is to be sent as a whole, and to be one without holes.
        """
        if flying.live or self._is_live_due():
            live = None if self._backlog.has_holes else self._live(flying)
            if live is not None and (live.full or not flying.live):
                return _of_live(live)
        stretch = self._backlog.stretch(flying)
        waiting = self._backlog.journal_rows - (0 if flying.live else flying.rows)
        if stretch is None or waiting < self.rows.rows:
            return None
        part = await self._read_ahead.read(stretch, self.rows.rows)
        if part.loss is not None:
            return None
        self._read_ahead.forget()
        return _of_part(self._backlog, stretch, part, flying)

    async def read_ahead(self, *flying: Batch) -> None:
        """Read what comes next in the journal, behind batches that are on their way. Raises JournalUnavailable."""
        stretch = self._backlog.stretch(*flying)
        if stretch is not None:
            await self._read_ahead.read(stretch, self.rows.rows)

    def forget(self) -> None:
        """Read anew what was read ahead: marks have moved."""
        self._read_ahead.forget()

    async def close(self) -> None:
        """End a reading that is under way."""
        await self._read_ahead.close()

    def _is_live_due(self) -> bool:
        due_in_s = self.due_in_s()
        return due_in_s is not None and due_in_s <= 0 and not self._backlog.has_holes

    def _live(self, *flying: Batch) -> Live | None:
        return self._backlog.live(self.rows.rows, BATCH_MOST_BYTES, *flying)


class _ReadAhead:
    """At most one part of the journal that was read before its turn, or is being read."""

    def __init__(self, journal: AnyJournal) -> None:
        self._journal = journal
        self._reading: asyncio.Task[Part] | None = None
        self._stretch: Stretch | None = None
        self._most_rows = 0

    async def read(self, stretch: Stretch, most_rows: int) -> Part:
        """Return what follows the lane's mark, and keep it until `forget`. Raises JournalUnavailable.

        Whoever is cancelled meanwhile leaves it to the next who asks.
        """
        reading = self._reading
        if reading is None or not self._fits(stretch, most_rows):
            self.forget()
            self._stretch, self._most_rows = stretch, most_rows
            reading = self._reading = asyncio.create_task(
                self._journal.read(
                    stretch.lane.mark, until=stretch.until, most_rows=most_rows, most_bytes=BATCH_MOST_BYTES
                )
            )
        try:
            return await asyncio.shield(reading)
        except JournalUnavailable:
            self.forget()
            raise

    def forget(self) -> None:
        """Keep nothing; a thread that reads cannot be stopped, and its result is dropped."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self._stretch = None

    async def close(self) -> None:
        """End a reading that is under way."""
        if self._reading is not None:
            await cancel_all(self._reading)

    def _fits(self, stretch: Stretch, most_rows: int) -> bool:
        """Tell whether what is kept is the beginning of this; after timeouts, what is far too large is not."""
        return (
            self._stretch is not None
            and self._stretch.lane.mark == stretch.lane.mark
            and self._stretch.until <= stretch.until
            and self._most_rows <= 2 * most_rows
        )


def _of_live(live: Live) -> Batch:
    frames = live.frames
    return Batch(live.lane, frames, frames[-1].sequence, len(frames), live=True, opens=live.opens)


def _of_part(backlog: Backlog, stretch: Stretch, part: Part, *flying: Batch) -> Batch:
    """Return the batch of what was read from the journal."""
    lane, until = stretch.lane, stretch.until
    if (loss := part.loss) is not None:
        log.error(
            "frames are missing from the journal; every tag has a gap there",
            after=loss.after,
            until=loss.until,
            reason=loss.reason.value,
            kept_in=loss.kept_in,
        )
        # Alone: its gaps begin at what is stored now, and nothing from behind the hole may be among that.
        return Batch(lane, (), min(loss.until - 1, until), 0, losses=[loss])
    frames = backlog.read(part.frames, *flying)
    # Nothing at all: frames of a life that kept them in memory, or that an owner numbered and never wrote.
    return Batch(lane, frames, part.end if frames else until, len(frames))
