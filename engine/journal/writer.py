"""Numbers entries, makes records and segments of them, and has them written: what is durable, and nothing else, counts.

Used from the event loop; one call at a time. Encoding happens there, writing and syncing together in a thread. When to
wait and when to try again, engine/journal/journal.py decides.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from engine._fastpath import encode_frame
from engine.frames import EPOCH_SHIFT, Frame, sequence_of
from engine.journal.segment import (
    GROUP_MOST_FRAMES,
    HEADER_BYTES,
    Header,
    Index,
    Segment,
    group_us,
    segment_name,
)
from engine.journal.writing import SegmentFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from uuid import UUID

    from engine.frames import Entry
    from engine.journal.files import Files
    from engine.journal.positions import Positions
    from engine.journal.retention import Retention

log = structlog.get_logger(__name__)

# A server keeps ten seconds of messages or more until they are acknowledged.
_SLOW_S = 1.0


@dataclass(slots=True)
class Group:
    """Entries that are written together, to one segment."""

    entries: Sequence[Entry]
    records: list[bytearray]
    first: int
    """The sequence of the first; they are numbered without a hole."""
    journaled_us: int
    """Of the first; each other's is one more."""
    segment: Segment | None
    """A new one, to be made for them."""
    parts: Sequence[bytes | bytearray]
    """What goes to the file, one behind the other. Joined they would be one large piece of fresh memory for each group,
    whose page faults cost as much CPU as everything else together (measured with 16 records of 25 kB)."""

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.parts))


class Writer:
    """The end of a stream."""

    def __init__(
        self,
        folder: Path,
        *,
        stream: UUID,
        tenant: UUID,
        files: Files,
        threads: Executor,
        observe: Callable[[float], None],
        retention: Retention,
        positions: Positions,
        segment_bytes: int,
        last_sequence: int,
    ) -> None:
        self.last_sequence = last_sequence
        """Of the newest durable frame."""
        self._folder = folder
        self._stream = stream
        self._tenant = tenant
        self._database: UUID | None = None
        self._files = files
        self._threads = threads
        self._observe = observe
        self._retention = retention
        self._positions = positions
        self._segment_bytes = segment_bytes
        self._next = 0
        self._active: Segment | None = None
        self._file: SegmentFile | None = None
        self._roll = False
        self._unsettled: tuple[asyncio.Future[SegmentFile], Group] | None = None
        self._slow = False

    def begin(self, epoch: int, database: UUID, now_us: int) -> Group:
        """Number from an owner's first frame on; return the first segment, to be written."""
        self._database = database
        self._next = sequence_of(epoch, 1)
        return self._group_of([], self._new_segment(), now_us)

    def roll(self) -> None:
        """Let the next group begin a new segment, unless there is nothing in this one."""
        self._roll = self._active is not None and self._active.holds_frames

    def close(self) -> None:
        """Close the file; what is durable is so already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def group(self, entries: Sequence[Entry], now_us: int) -> Group:
        """Encode as many of the entries as go into the segment, or into a new one."""
        if self._active is None or self._roll:
            return self._group_of(entries, self._new_segment(), now_us)
        group = self._group_of(entries, None, now_us)
        return group if group.records else self._group_of(entries, self._new_segment(), now_us)

    def _group_of(self, entries: Sequence[Entry], segment: Segment | None, now_us: int) -> Group:
        records: list[bytearray] = []
        journaled_us = group_us(now_us)
        stream = self._stream.bytes
        target = self._active if segment is None else segment
        assert target is not None
        size_bytes = target.size_bytes
        may_pass = not (target.index and target.index.frames)
        sequence = self._next
        for entry in entries[:GROUP_MOST_FRAMES]:
            # The first frame of a segment has all positions, so that they outlive the segments before it.
            if may_pass and not records:
                entry = replace(entry, positions=self._positions.all_with(entry.positions))  # noqa: PLW2901
            record = encode_frame(entry, stream, sequence, journaled_us + len(records))
            # A record that is too large for any segment has one of its own.
            if size_bytes + len(record) > self._segment_bytes and not (may_pass and not records):
                break
            records.append(record)
            size_bytes += len(record)
            sequence += 1
        parts: list[bytes | bytearray] = [*records]
        if segment is not None:
            assert self._database is not None
            header = Header(
                stream=self._stream,
                tenant=self._tenant,
                database=self._database,
                epoch=segment.epoch,
                first=segment.first,
                previous=segment.previous or 0,
                made_us=now_us,
            )
            parts.insert(0, header.encoded())
        return Group(entries[: len(records)], records, self._next, journaled_us, segment, parts)

    def _new_segment(self) -> Segment:
        epoch, first = self._next >> EPOCH_SHIFT, self._next
        return Segment(
            path=self._folder / segment_name(epoch, first),
            epoch=epoch,
            first=first,
            previous=self.last_sequence,
            database=self._database,
            size_bytes=HEADER_BYTES,
            index=Index(),
        )

    async def write(self, group: Group) -> None:
        """Write a group and have it synced. Raises OSError, and then nothing has changed but what was spoiled."""
        loop = asyncio.get_running_loop()
        file = self._file

        def write() -> SegmentFile:
            if group.segment is None:
                assert file is not None
                file.add(group.parts)
                return file
            made = SegmentFile.create(self._files, group.segment.path, group.parts)
            if file is not None:
                file.close()
            return made

        started_s = time.monotonic()
        alarm = loop.call_later(_SLOW_S, self._say_slow)
        writing = loop.run_in_executor(self._threads, write)
        try:
            written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._unsettled = writing, group
            raise
        except OSError:
            self._failed()
            raise
        finally:
            alarm.cancel()
        self._written(written, group)
        seconds = time.monotonic() - started_s
        self._observe(seconds)
        if self._slow and seconds < _SLOW_S / 2:
            self._slow = False
            log.info("the journal's disk is fast again", seconds=round(seconds, 3))

    def _say_slow(self) -> None:
        if not self._slow:
            self._slow = True
            log.warning("the journal's disk is slow: acknowledgements wait for it", seconds_so_far=_SLOW_S)

    async def settle(self) -> None:
        """Wait for the write that a cancelled `append` has left behind."""
        if self._unsettled is None:
            return
        writing, group = self._unsettled
        try:
            written = await asyncio.shield(writing)
        except OSError as exc:
            self._unsettled = None
            log.warning("entries that nobody waited for any more were not written", error=str(exc))
            self._failed()
        else:
            self._unsettled = None
            self._written(written, group)

    def _failed(self) -> None:
        if self._file is None or not self._file.spoiled:
            return
        self._file.close()
        self._file = None
        if self._active is not None and not self._active.holds_frames:
            # The next one has its name, and takes its place.
            self._retention.drop(self._active)
        self._active = None

    def _written(self, file: SegmentFile, group: Group) -> None:
        """Take what is durable now into account."""
        self._file = file
        if group.segment is not None:
            self._active = group.segment
            self._retention.add(group.segment)
            self._roll = False
        segment = self._active
        assert segment is not None
        assert segment.index is not None
        for place, (entry, record) in enumerate(zip(group.entries, group.records, strict=True)):
            segment.index.add(self._next, group.journaled_us + place, segment.size_bytes, len(entry.batch))
            self._retention.grow(segment, len(record))
            self._positions.move(entry.positions)
            self.last_sequence = self._next
            self._next += 1
        segment.committed_s = None

    def frames(self, group: Group) -> list[Frame]:
        """Return the frames of the group that was written last."""
        frames = []
        assert self._active is not None
        for place, (entry, record) in enumerate(zip(group.entries, group.records, strict=True)):
            sequence = group.first + place
            frames.append(
                Frame(
                    sequence=sequence,
                    previous=self._active.previous_of(sequence, 0),
                    journaled_us=group.journaled_us + place,
                    batch=entry.batch,
                    gaps=entry.gaps,
                    positions=entry.positions,
                    nbytes=len(record),
                )
            )
        return frames
