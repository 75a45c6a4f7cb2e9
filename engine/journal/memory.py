"""The journal of a tenant with durability `memory`: the same calls, and nothing on disk.

Frames are in memory until the database has them. They are lost with the process, and so is the promise: what was
acknowledged to a server is then nowhere. The database's mark still holds every commit to once, because the stream's
name follows from the tenant's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import structlog

from engine.frames import Frame, Loss, LossReason, sequence_of
from engine.journal.newest import Newest, NewestReadings
from engine.journal.reading import Part
from engine.journal.recovery import Recovered
from engine.journal.retention import ALARMS_PERCENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.frames import Entry
    from engine.journal.reading import HasLane

log = structlog.get_logger(__name__)

MOST_BYTES = 64 << 20
# Of a row's columns, and what a frame's objects take about.
_ROW_BYTES = 25
_FRAME_BYTES = 2_048


class MemoryJournal:
    """A stream in memory; single event loop."""

    def __init__(self, tenant_id: UUID, *, now_us: Callable[[], int], most_bytes: int = MOST_BYTES) -> None:
        self.stream = uuid5(tenant_id, "memory")
        self.database_id: UUID | None = None
        self.last_epoch = 0
        self.recovered = Recovered()
        self.last_sequence = 0
        self.nbytes = 0
        self.quota_bytes = most_bytes
        self.accepting = True
        self.reason: str | None = None
        self.failures = 0
        self.alarms = 0
        self._now_us = now_us
        self._next = 0
        self._frames: deque[Frame] = deque()
        self._freed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    async def begin(self, epoch: int, database_id: UUID) -> None:
        """Begin as the owner with this epoch."""
        self.last_epoch = epoch
        self.database_id = database_id
        self._next = sequence_of(epoch, 1)

    async def close(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self.nbytes = 0

    def on_change(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call this when `accepting` has changed, until what is returned is called."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call)

    async def append(self, entries: Sequence[Entry]) -> list[Frame]:
        """Return the entries' frames. One call at a time, after `begin`. Waits while there is no room."""
        frames = []
        for entry in entries:
            nbytes = _ROW_BYTES * len(entry.batch) + _FRAME_BYTES
            nbytes += sum(len(text) for text in entry.batch.texts.values())
            try:
                # A frame that is larger than the bound goes in alone.
                while self._frames and self.nbytes + nbytes > self.quota_bytes:
                    self._freed.clear()
                    self._set_accepting("its memory is full")
                    await self._freed.wait()
            finally:
                self._set_accepting(None)
            frame = Frame(
                sequence=self._next,
                previous=self.last_sequence,
                journaled_us=self._now_us(),
                batch=entry.batch,
                gaps=entry.gaps,
                positions=entry.positions,
                nbytes=nbytes,
            )
            self._frames.append(frame)
            frames.append(frame)
            self.nbytes += nbytes
            self.last_sequence = self._next
            self._next += 1
        self._check_fill()
        return frames

    def committed(self, sequence: int) -> None:
        """Say that the database has everything up to a frame: it is forgotten."""
        while self._frames and self._frames[0].sequence <= sequence:
            self.nbytes -= self._frames.popleft().nbytes
        self._freed.set()
        self._check_fill()

    async def read(self, after: int, *, until: int | None, most_rows: int, most_bytes: int) -> Part:
        """Return frames behind `after`, in order; what the database lost after it was forgotten here is a hole."""
        bound = self.last_sequence if until is None else min(until, self.last_sequence)
        frames: list[Frame] = []
        loss = None
        last = after
        rows = nbytes = 0
        for frame in self._frames:
            if frame.sequence <= after:
                continue
            if frame.sequence > bound:
                break
            if frame.previous > last:
                loss = Loss(last, frame.sequence, frame.journaled_us, LossReason.TRIMMED)
            rows += len(frame.batch)
            nbytes += frame.nbytes
            if frames and (rows > most_rows or nbytes > most_bytes):
                return Part(tuple(frames), loss, last)
            frames.append(frame)
            last = frame.sequence
        if not frames and last < bound and self._next and bound >= sequence_of(self.last_epoch, 1):
            loss = Loss(last, bound + 1, self._now_us(), LossReason.TRIMMED)
        return Part(tuple(frames), loss, max(last, bound))

    async def newest(self, after: int) -> Newest:
        """Return the newest reading of each tag in the frames behind `after`."""
        newest = NewestReadings()
        for frame in self._frames:
            if frame.sequence > after:
                newest.take(frame.batch)
        return newest.all()

    async def count_rows(self, lanes: Sequence[HasLane]) -> int:
        """Return the readings that no lane has committed."""
        ends = [*(lane.after for lane in lanes[1:]), self.last_sequence]
        return sum(
            len(frame.batch)
            for frame in self._frames
            for lane, end in zip(lanes, ends, strict=True)
            if lane.mark < frame.sequence <= end
        )

    def _set_accepting(self, reason: str | None) -> None:
        if reason == self.reason:
            return
        if reason is not None:
            log.error("the journal takes no readings: publishing stops", reason=reason, bytes=self.nbytes)
        else:
            log.warning("the journal takes readings again")
        self.reason = reason
        self.accepting = reason is None
        self._changed()

    def _check_fill(self) -> None:
        level = sum(100 * self.nbytes >= percent * self.quota_bytes for percent in ALARMS_PERCENT)
        if level != self.alarms:
            self.alarms = level
            self._changed()

    def _changed(self) -> None:
        for call in tuple(self._listeners):
            call()
