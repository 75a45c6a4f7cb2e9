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
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

from engine.errors import JournalForeign, JournalUnavailable
from engine.journal.checkpoint import Checkpoint
from engine.journal.disk import DISK
from engine.journal.kept import Kept
from engine.journal.positions import Positions
from engine.journal.reading import HasLane, Part, View, count_uncommitted_rows, read_newest, read_part
from engine.journal.recovery import Recovery, recover
from engine.journal.retention import ALARMS_PERCENT, Retention
from engine.journal.tending import Tender
from engine.journal.writer import Group, Writer
from engine.journal.writing import NO_ROOM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from uuid import UUID

    from engine.frames import Entry, Frame
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
        self._lock = lock
        self._kept = Kept(files, folder)
        self._retention = Retention(found.segments, self.quota_bytes, settings.grace_s, found.trimmed)
        self._writer = Writer(
            folder,
            stream=found.stream,
            tenant=tenant_id,
            files=files,
            threads=threads,
            observe=observe,
            retention=self._retention,
            positions=Positions(found.recovered.positions),
            segment_bytes=min(settings.segment_mb * _MB, self.quota_bytes // _SEGMENTS_IN_QUOTA),
            last_sequence=found.recovered.last_sequence,
        )
        self._tender = Tender(
            folder,
            files=files,
            threads=threads,
            retention=self._retention,
            checkpoint=self._checkpoint,
            trimmed=self._on_trimmed,
        )
        self._freed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

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
        group = self._writer.begin(epoch, database_id, self._now_us())
        self._tender.begin()
        for attempt in range(2):
            try:
                await self._write(group)
                break
            except OSError as exc:
                self.failures += 1
                log.error("the journal's disk does not take a new segment", error=str(exc))
                if exc.errno in NO_ROOM:
                    return
                if attempt:
                    raise JournalUnavailable(f"its disk fails: {exc}", str(self._folder)) from exc

    async def close(self) -> None:
        """Save the checkpoint, and give up the lock."""
        try:
            await self._writer.settle()
            await self._tender.end()
        finally:
            self._writer.close()
            self._lock.close()

    # What others see.

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest durable frame; 0 where there is none."""
        return self._writer.last_sequence

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

    def _on_trimmed(self) -> None:
        self._check_fill()
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
        await self._writer.settle()
        frames: list[Frame] = []
        failures = 0
        try:
            while len(frames) < len(entries):
                self._freed.clear()
                group = await self._group(entries[len(frames) :])
                if group is None:
                    await self._wait_for_room("its quota is full", None)
                    continue
                try:
                    await self._write(group)
                except OSError as exc:
                    self.failures += 1
                    if exc.errno in NO_ROOM:
                        if not await self._tender.trim(least_bytes=group.nbytes):
                            await self._wait_for_room(f"its disk is full: {exc}", _NO_ROOM_RETRY_S)
                        continue
                    failures += 1
                    log.error("the journal's disk fails; the segment is given up", error=str(exc))
                    if failures > 1:
                        self._set_accepting(f"its disk fails: {exc}")
                        raise JournalUnavailable(f"its disk fails: {exc}", str(self._folder)) from exc
                    continue
                frames += self._writer.frames(group)
        except asyncio.CancelledError:
            self._set_accepting(None)  # whoever comes next will see for himself
            raise
        self._set_accepting(None)
        return frames

    async def _write(self, group: Group) -> None:
        new = group.segment is not None
        await self._writer.write(group)
        self._check_fill()
        if new:
            self._tender.save_soon()

    # Room.

    async def _group(self, entries: Sequence[Entry]) -> Group | None:
        """Encode what is to be written next; None while there is no room for it.

        Committed segments go for it before their grace is over.
        """
        retention = self._retention
        group = self._writer.group(entries, self._now_us())
        over_bytes = retention.nbytes + group.nbytes - self.quota_bytes
        if over_bytes <= 0:
            return group
        await self._tender.trim(least_bytes=over_bytes)
        if retention.nbytes + group.nbytes <= self.quota_bytes:
            return group
        if retention.committed < self.last_sequence:
            return None
        # The database has everything, and only the segment that is written is left: when there is a new one, it can go.
        # (A record that is larger than the quota goes through here, too.)
        self._writer.roll()
        return self._writer.group(entries, self._now_us())

    async def _wait_for_room(self, reason: str, most_s: float | None) -> None:
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
            self._tender.save_soon()

    def _checkpoint(self) -> Checkpoint:
        assert self.database_id is not None
        return Checkpoint(
            stream=self.stream,
            tenant=self._tenant,
            database=self.database_id,
            epoch=self.last_epoch,
            committed=self._retention.committed,
            trimmed=self._retention.trimmed,
            last=self.last_sequence,
            saved_us=self._now_us(),
            closed=False,
        )

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
        self._tender.reading.append(after)
        try:
            return await self._in_thread(call, view, *arguments)
        except OSError as exc:
            raise JournalUnavailable(f"it cannot be read: {exc}", str(self._folder)) from exc
        finally:
            self._tender.reading.remove(after)
            # What it read may be what somebody wants to remove.
            self._freed.set()

    async def _in_thread(self, call: Callable[..., R], *arguments: object) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, call, *arguments)


def _give_back(opening: asyncio.Future[tuple[AppendFile, Any]]) -> None:
    if opening.exception() is None:
        opening.result()[0].close()
