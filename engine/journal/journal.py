"""A tenant's journal on disk, as the engine uses it. The format and the invariants stand in engine/journal/__init__.py.

Single event loop, no locks. What touches the disk runs in a thread of the executor that `open` is given: a group of
entries is encoded here, then written and synced there in one piece. One thread writes at a time; others may read what
is durable meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

from engine._fastpath import encode_frame
from engine.errors import JournalForeign, JournalUnavailable
from engine.frames import EPOCH_SHIFT, Frame, sequence_of
from engine.journal.checkpoint import Checkpoint, save_checkpoint
from engine.journal.disk import DISK
from engine.journal.kept import Kept
from engine.journal.positions import Positions
from engine.journal.reading import HasLane, Part, View, count_uncommitted_rows, read_newest, read_part
from engine.journal.recovery import Recovery, recover
from engine.journal.retention import ALARMS_PERCENT, Retention
from engine.journal.segment import HEADER_BYTES, NO_LIMIT, Header, Index, Segment, segment_name
from engine.journal.writing import NO_ROOM, SegmentFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from uuid import UUID

    from engine.frames import Entry
    from engine.journal.files import AppendFile, Files
    from engine.journal.newest import Newest
    from engine.settings import JournalSettings

    R = TypeVar("R")

log = structlog.get_logger(__name__)

LOCK = "lock"
_MB = 1 << 20
# A segment is removed as a whole: so many of them must fit into the quota for some to go while others are written.
_SEGMENTS_IN_QUOTA = 4
# Others may free a full disk without telling us.
_NO_ROOM_RETRY_S = 1.0
# A server keeps ten seconds of messages or more until they are acknowledged.
_SLOW_S = 1.0
_REMOVE_RETRY_S = 1.0
# Besides when a segment has become committed, so that the next start knows how far the stream had come.
_CHECKPOINT_EACH_S = 30.0


@dataclass(slots=True)
class _Group:
    """Entries that are written together, to one segment."""

    entries: Sequence[Entry]
    records: list[bytearray]
    first: int
    """The sequence of the first; they are numbered without a hole."""
    journaled_us: int
    segment: Segment | None
    """A new one, to be made for them."""
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)


class Journal:
    """A stream on disk; `open` makes one."""

    def __init__(
        self,
        folder: Path,
        *,
        tenant_id: UUID,
        settings: JournalSettings,
        files: Files,
        threads: Executor,
        now_us: Callable[[], int],
        observe: Callable[[float], None],
        lock: AppendFile,
        found: Recovery,
    ) -> None:
        """Use `open`."""
        self.stream = found.stream
        self.database_id = found.database_id
        self.last_epoch = found.last_epoch
        self.recovered = found.recovered
        self.last_sequence = found.recovered.last_sequence
        self.quota_bytes = settings.quota_mb * _MB
        self.accepting = True
        self.reason: str | None = None
        self.failures = 0
        """Times that the disk did not take or sync what was written."""
        self._folder = folder
        self._tenant = tenant_id
        self._files = files
        self._threads = threads
        self._now_us = now_us
        self._observe = observe
        self._lock = lock
        self._kept = Kept(files, folder)
        self._retention = Retention(found.segments, self.quota_bytes, settings.grace_s, found.trimmed)
        self._segment_bytes = min(settings.segment_mb * _MB, self.quota_bytes // _SEGMENTS_IN_QUOTA)
        self._positions = Positions(found.recovered.positions)
        self._next = 0
        self._active: Segment | None = None
        self._file: SegmentFile | None = None
        self._roll = False
        self._unsettled: tuple[asyncio.Future[SegmentFile], _Group] | None = None
        self._slow = False
        self._reading: list[int] = []
        self._freed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._trimming = asyncio.Lock()
        self._tend_wake = asyncio.Event()
        self._checkpoint_due = False
        self._tending = asyncio.create_task(self._tend())

    # Begin and end.

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        tenant_id: UUID,
        settings: JournalSettings,
        files: Files = DISK,
        threads: Executor,
        now_us: Callable[[], int],
        observe: Callable[[float], None] = lambda _: None,
    ) -> Self:
        """Lock a tenant's folder and recover what is in it.

        `observe` gets the seconds of each write with its sync. Raises JournalUnavailable and JournalTooNew.
        """

        def locked_and_recovered() -> tuple[AppendFile, Recovery]:
            files.make_folder(folder)
            try:
                lock = files.lock(folder / LOCK)
            except BlockingIOError as exc:
                raise JournalUnavailable("another process has this journal open", str(folder)) from exc
            try:
                return lock, recover(files, folder, tenant_id, Kept(files, folder), now_us)
            except BaseException:
                lock.close()
                raise

        # A thread cannot be stopped: the lock that it takes is given back when nobody waits for it any more.
        opening = asyncio.get_running_loop().run_in_executor(
            threads, copy_context().run, locked_and_recovered
        )
        try:
            lock, found = await asyncio.shield(opening)
        except OSError as exc:
            raise JournalUnavailable(f"it cannot be recovered: {exc}", str(folder)) from exc
        except asyncio.CancelledError:
            opening.add_done_callback(_give_back)
            raise
        return cls(
            folder,
            tenant_id=tenant_id,
            settings=settings,
            files=files,
            threads=threads,
            now_us=now_us,
            observe=observe,
            lock=lock,
            found=found,
        )

    async def begin(self, epoch: int, database_id: UUID) -> None:
        """Begin to write as the owner with this epoch, which must be higher than `last_epoch`.

        Makes the first segment; where there is no room for it, the first `append` does. Raises JournalForeign when
        there are frames for another database, and JournalUnavailable.
        """
        if epoch <= self.last_epoch:
            raise ValueError(f"epoch {epoch}: the journal has seen {self.last_epoch} already")
        for segment in self._retention.segments:
            if segment.holds_frames and segment.database not in {None, database_id}:
                raise JournalForeign(
                    f"it holds readings for the database {segment.database}, and the tenant has {database_id}",
                    str(segment.path),
                )
        self.last_epoch = epoch
        self.database_id = database_id
        self._next = sequence_of(epoch, 1)
        group = self._group_of([], self._new_segment(), self._now_us())
        for attempt in range(2):
            try:
                await self._write(group)
                break
            except OSError as exc:
                self.failures += 1
                log.exception("the journal's disk does not take a new segment", error=str(exc))
                if exc.errno in NO_ROOM:
                    return
                if attempt:
                    raise JournalUnavailable(f"its disk fails: {exc}", str(self._folder)) from exc
        self._save_soon()

    async def close(self) -> None:
        """Save the checkpoint, and give up the lock."""
        try:
            await self._settle()
            async with self._trimming:  # nobody is removing anything now
                self._tending.cancel()
                if self.database_id is not None and self._next:
                    last = self._checkpoint(closed=True)
                    await self._in_thread(save_checkpoint, self._files, self._folder, last)
        finally:
            self._tending.cancel()
            if self._file is not None:
                self._file.close()
                self._file = None
            self._lock.close()

    # What others see.

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return self._retention.nbytes

    @property
    def alarms(self) -> int:
        """0; 1 when what waits for the database has 70 % of the quota, 2 at 90 %."""
        return self._retention.level

    def on_change(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call this when `accepting` or the fill level has changed, until what is returned is called."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call)

    def _changed(self) -> None:
        for call in tuple(self._listeners):
            call()

    def _set_accepting(self, reason: str | None) -> None:
        """Accept, or say why not."""
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
        before = self._retention.level
        if not self._retention.alarm():
            return
        level = self._retention.level
        if level > before:
            say = log.error if level == len(ALARMS_PERCENT) else log.warning
            say(
                "the journal fills: the database does not keep up",
                percent=ALARMS_PERCENT[level - 1],
                bytes=self._retention.uncommitted_bytes(),
                quota_bytes=self.quota_bytes,
            )
        else:
            log.info("the journal empties", below_percent=ALARMS_PERCENT[level])
        self._changed()

    # Append.

    async def append(self, entries: Sequence[Entry]) -> list[Frame]:
        """Return the entries' frames when all of them are durable. One call at a time, after `begin`.

        Waits while the quota or the disk is full. A call that was cancelled may have written its entries all the
        same: they must not be handed over again in this life. Raises JournalUnavailable when the disk fails twice.
        """
        await self._settle()
        frames: list[Frame] = []
        failures = 0
        try:
            while len(frames) < len(entries):
                self._freed.clear()
                group = self._group(entries, len(frames))
                if not await self._has_room(group):
                    await self._wait_for_room("its quota is full", None)
                    continue
                try:
                    await self._write(group)
                except OSError as exc:
                    self.failures += 1
                    if exc.errno in NO_ROOM:
                        if not await self._trim(least_bytes=group.nbytes):
                            await self._wait_for_room(f"its disk is full: {exc}", _NO_ROOM_RETRY_S)
                        continue
                    failures += 1
                    log.exception("the journal's disk fails; the segment is given up", failures=failures)
                    if failures > 1:
                        self._set_accepting(f"its disk fails: {exc}")
                        raise JournalUnavailable(f"its disk fails: {exc}", str(self._folder)) from exc
                    continue
                frames += self._frames(group)
        except asyncio.CancelledError:
            self._set_accepting(None)  # whoever comes next will see for himself
            raise
        self._set_accepting(None)
        return frames

    def _group(self, entries: Sequence[Entry], begin: int) -> _Group:
        """Encode entries from one on: as many as go into the segment, or into a new one."""
        now_us = self._now_us()
        if self._active is None or self._roll:
            return self._group_of(entries[begin:], self._new_segment(), now_us)
        group = self._group_of(entries[begin:], None, now_us)
        return group if group.records else self._group_of(entries[begin:], self._new_segment(), now_us)

    def _group_of(self, entries: Sequence[Entry], segment: Segment | None, now_us: int) -> _Group:
        records: list[bytearray] = []
        stream = self.stream.bytes
        target = self._active if segment is None else segment
        assert target is not None
        size_bytes = target.size_bytes
        may_pass = not (target.index and target.index.frames)
        sequence = self._next
        for entry in entries:
            # The first frame of a segment has all positions, so that they outlive the segments before it.
            if may_pass and not records:
                entry = replace(entry, positions=self._positions.all_with(entry.positions))  # noqa: PLW2901
            record = encode_frame(entry, stream, sequence, now_us)
            # A record that is too large for any segment has one of its own.
            if size_bytes + len(record) > self._segment_bytes and not (may_pass and not records):
                break
            records.append(record)
            size_bytes += len(record)
            sequence += 1
        content = b"".join(records)
        if segment is not None:
            assert self.database_id is not None
            header = Header(
                stream=self.stream,
                tenant=self._tenant,
                database=self.database_id,
                epoch=segment.epoch,
                first=segment.first,
                previous=segment.previous or 0,
                made_us=now_us,
            )
            content = header.encoded() + content
        return _Group(entries[: len(records)], records, self._next, now_us, segment, content)

    def _new_segment(self) -> Segment:
        epoch, first = self._next >> EPOCH_SHIFT, self._next
        return Segment(
            path=self._folder / segment_name(epoch, first),
            epoch=epoch,
            first=first,
            previous=self.last_sequence,
            database=self.database_id,
            size_bytes=HEADER_BYTES,
            index=Index(),
        )

    async def _write(self, group: _Group) -> None:
        """Write a group and have it synced. Raises OSError, and then nothing has changed but what was spoiled."""
        loop = asyncio.get_running_loop()
        file = self._file

        def write() -> SegmentFile:
            if group.segment is None:
                assert file is not None
                file.add(group.content)
                return file
            made = SegmentFile.create(self._files, group.segment.path, group.content)
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

    async def _settle(self) -> None:
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

    def _written(self, file: SegmentFile, group: _Group) -> None:
        """Take what is durable now into account."""
        self._file = file
        if group.segment is not None:
            self._active = group.segment
            self._retention.add(group.segment)
            self._roll = False
            self._save_soon()
        segment = self._active
        assert segment is not None
        assert segment.index is not None
        for entry, record in zip(group.entries, group.records, strict=True):
            segment.index.add(self._next, group.journaled_us, segment.size_bytes, len(entry.batch))
            self._retention.grow(segment, len(record))
            self._positions.move(entry.positions)
            self.last_sequence = self._next
            self._next += 1
        segment.committed_s = None
        self._check_fill()

    def _frames(self, group: _Group) -> list[Frame]:
        frames = []
        assert self._active is not None
        for place, (entry, record) in enumerate(zip(group.entries, group.records, strict=True)):
            sequence = group.first + place
            frames.append(
                Frame(
                    sequence=sequence,
                    previous=self._active.previous_of(sequence, 0),
                    journaled_us=group.journaled_us,
                    batch=entry.batch,
                    gaps=entry.gaps,
                    positions=entry.positions,
                    nbytes=len(record),
                )
            )
        return frames

    # Room.

    async def _has_room(self, group: _Group) -> bool:
        """Return whether a group may be written; committed segments go for it before their grace is over."""
        retention = self._retention
        over_bytes = retention.nbytes + group.nbytes - self.quota_bytes
        if over_bytes <= 0:
            return True
        await self._trim(least_bytes=over_bytes)
        if retention.nbytes + group.nbytes <= self.quota_bytes:
            return True
        if retention.committed < self.last_sequence:
            return False
        # The database has everything, and only the segment that is written is left: begin a new one, and it can go.
        # (A record that is larger than the quota goes through here, too.)
        if group.segment is None and not self._roll:
            self._roll = True
            return False
        return True

    async def _wait_for_room(self, reason: str, most_s: float | None) -> None:
        if self._roll:
            return  # there is room in a new segment
        self._set_accepting(reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._freed.wait()

    def committed(self, sequence: int) -> None:
        """Say that the database has everything up to a frame; a lower one than before says that it lost commits."""
        more = self._retention.commit(sequence, time.monotonic())
        self._freed.set()
        self._check_fill()
        if more:
            self._save_soon()

    def _save_soon(self) -> None:
        self._checkpoint_due = True
        self._tend_wake.set()

    async def _tend(self) -> None:
        """Save the checkpoint when it is due, and remove segments whose grace is over."""
        least_s = 0.0
        while True:
            now_s = time.monotonic()
            due_s = self._retention.next_removal_s()
            wait_s = (
                _CHECKPOINT_EACH_S if due_s is None else min(max(due_s - now_s, least_s), _CHECKPOINT_EACH_S)
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._tend_wake.wait()
            self._tend_wake.clear()
            if self._checkpoint_due or time.monotonic() - now_s >= _CHECKPOINT_EACH_S:
                await self._save()
            # What could not go although it was time is tried again, but not at once.
            least_s = 0.0 if await self._trim() else _REMOVE_RETRY_S

    async def _save(self) -> None:
        async with self._trimming:
            self._checkpoint_due = False
            if self.database_id is not None and self._next:
                await self._in_thread(save_checkpoint, self._files, self._folder, self._checkpoint())

    def _checkpoint(self, trimmed: int = 0, *, closed: bool = False) -> Checkpoint:
        assert self.database_id is not None
        return Checkpoint(
            stream=self.stream,
            tenant=self._tenant,
            database=self.database_id,
            epoch=self.last_epoch,
            committed=self._retention.committed,
            trimmed=max(self._retention.trimmed, trimmed),
            last=self.last_sequence,
            saved_us=self._now_us(),
            closed=closed,
        )

    async def _trim(self, least_bytes: int = 0) -> bool:
        """Remove segments whose grace is over, and others that may go for so many bytes; return whether any went."""
        # A thread cannot be stopped: whoever gives up waiting must not let another begin.
        return await asyncio.shield(asyncio.create_task(self._remove(least_bytes)))

    async def _remove(self, least_bytes: int) -> bool:
        async with self._trimming:
            before = min(self._reading, default=NO_LIMIT)
            segments = self._retention.removable(time.monotonic(), before, least_bytes)
            if not segments or self.database_id is None:
                return False
            # What is committed is known before its segment is gone.
            checkpoint = self._checkpoint(trimmed=segments[-1].last)

            def remove() -> int:
                save_checkpoint(self._files, self._folder, checkpoint)
                removed = 0
                try:
                    for segment in segments:
                        with suppress(FileNotFoundError):
                            self._files.remove(segment.path)
                        removed += 1
                    self._files.sync_folder(self._folder)
                except OSError as exc:
                    log.warning("a committed segment could not be removed", error=str(exc))
                return removed

            removed = await self._in_thread(remove)
            self._retention.remove(segments[:removed])
        self._check_fill()
        return removed > 0

    # Read.

    async def read(self, after: int, *, until: int | None, most_rows: int, most_bytes: int) -> Part:
        """Return frames behind `after`, in order and up to a hole; one that is next is told with what follows it.

        At least one frame, if there is one. Raises JournalUnavailable when the disk cannot be read.
        """
        return await self._read(after, read_part, after, until, most_rows, most_bytes)

    async def newest(self, after: int) -> Newest:
        """Return the newest reading of each tag in the frames behind `after`. Raises JournalUnavailable."""
        return await self._read(after, read_newest, after)

    async def count_rows(self, lanes: Sequence[HasLane]) -> int:
        """Return the readings that no lane has committed. Raises JournalUnavailable."""
        return await self._read(min(lane.mark for lane in lanes), count_uncommitted_rows, lanes)

    async def _read(self, after: int, call: Callable[..., R], *arguments: object) -> R:
        view = View(
            files=self._files,
            kept=self._kept,
            stream=self.stream.bytes,
            segments=tuple((segment, segment.size_bytes) for segment in self._retention.segments),
            last_sequence=self.last_sequence,
            trimmed=self._retention.trimmed,
            losses=self.recovered.losses,
            now_us=self._now_us(),
        )
        self._reading.append(after)
        try:
            return await self._in_thread(call, view, *arguments)
        except OSError as exc:
            raise JournalUnavailable(f"it cannot be read: {exc}", str(self._folder)) from exc
        finally:
            self._reading.remove(after)
            # What it read may be what somebody wants to remove.
            self._freed.set()

    async def _in_thread(self, call: Callable[..., R], *arguments: object) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, call, *arguments)


def _give_back(opening: asyncio.Future[tuple[AppendFile, Any]]) -> None:
    if opening.exception() is None:
        opening.result()[0].close()
