"""What a start finds in the folder, and what it makes of it: every state of the files has its outcome here.

Which files are whose, and what is between two segments, is decided in this module; what is in one segment, in
engine/journal/scanning.py. Nothing that a segment holds makes it fail, but for a later format version. Runs in a
thread and reads in pieces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import structlog

from engine._fastpath import decode_frame, find_record, scan_record
from engine.errors import JournalTooNew
from engine.frames import COUNTS_MOST, EPOCH_SHIFT, Loss, LossReason, Position, epoch_of
from engine.journal.checkpoint import Checkpoint, read_checkpoint
from engine.journal.positions import Positions
from engine.journal.scanning import Scan, scan, sync_or_copy, torn_group
from engine.journal.segment import HEADER_BYTES, Header, Index, LaterVersion, NotAHeader, Segment, named
from engine.journal.walking import PIECE_BYTES, Found, read_around, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from engine.journal.files import Files
    from engine.journal.kept import Kept

log = structlog.get_logger(__name__)

_PROGRESS_EACH_S = 5.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was in the journal when it was opened."""

    positions: tuple[Position, ...] = ()
    """The newest of each connection's subscriptions."""
    frames: int = 0
    """That were scanned: segments of which all was committed may have been passed over."""
    losses: tuple[Loss, ...] = ()
    """Holes that were found; `read` tells them again, and also what is missing before the first segment."""
    last_sequence: int = 0


@dataclass(slots=True)
class Recovery:
    """The journal as recovery leaves it."""

    stream: UUID
    database_id: UUID | None
    last_epoch: int
    segments: list[Segment]
    recovered: Recovered
    trimmed: int
    """Everything up to here is known to have been removed in order."""


@dataclass(slots=True)
class _Candidate:
    """A file that may be a segment of ours."""

    path: Path
    size_bytes: int
    header: Header | None
    first: int
    """By the header, else by the name; 0 where neither says it."""
    epoch: int


def recover(files: Files, folder: Path, tenant: UUID, kept: Kept, now_us: Callable[[], int]) -> Recovery:
    """Return the journal that is in a folder, which is locked. Raises JournalTooNew and OSError."""
    return _Start(files, folder, tenant, kept, now_us).recovery()


@dataclass(slots=True)
class _Start:
    files: Files
    folder: Path
    tenant: UUID
    kept: Kept
    now_us: Callable[[], int]
    foreign: list[tuple[int, str]] = field(default_factory=list)
    """First sequence and new name of each segment that was moved away."""
    losses: list[Loss] = field(default_factory=list)
    synced: int = 0
    """The last frame that was durable although it may be gone: before a torn group."""

    def recovery(self) -> Recovery:
        started_s = time.monotonic()
        candidates = list(self._candidates())
        checkpoint = read_checkpoint(self.files, self.folder, self.tenant)
        stream = self._stream(candidates, checkpoint)
        if checkpoint is not None and checkpoint.stream != stream:
            log.warning(
                "the journal's checkpoint is of another stream: the start is slower", stream=str(stream)
            )
            checkpoint = None
        segments = self._segments(candidates, stream)
        tail = self._scan(segments, stream, checkpoint)
        last = self._holes(segments)
        last = self._end(segments, checkpoint, tail, last)
        positions = self._positions(segments, stream)
        scanned = [segment.index for segment in segments if segment.index is not None]
        frames = sum(index.frames for index in scanned)
        if segments:
            log.info(
                "the journal is recovered",
                stream=str(stream),
                segments=len(segments),
                segments_not_read=len(segments) - len(scanned),
                frames=frames,
                readings=sum(index.rows for index in scanned),
                losses=len(self.losses),
                seconds=round(time.monotonic() - started_s, 3),
            )
        epochs = [segment.epoch for segment in segments]
        return Recovery(
            stream=stream,
            database_id=_database(segments, checkpoint),
            last_epoch=max([*epochs, epoch_of(last), checkpoint.epoch if checkpoint else 0]),
            segments=segments,
            recovered=Recovered(positions, frames, tuple(self.losses), last),
            trimmed=checkpoint.trimmed if checkpoint else 0,
        )

    # Which files are segments, and of which stream.

    def _candidates(self) -> Iterator[_Candidate]:
        for name in self.files.list(self.folder):
            if not name.endswith(".seg"):
                continue
            path = self.folder / name
            epoch, first = named(name) or (0, 0)
            header = None
            try:
                header = Header.decoded(read_around(self.files, path, 0, HEADER_BYTES))
                epoch, first = header.epoch, header.first
            except NotAHeader:
                pass
            except LaterVersion as exc:
                raise JournalTooNew(
                    f"written in format {exc}, which a newer engine made and this one does not know",
                    str(path),
                ) from exc
            yield _Candidate(path, self.files.size_bytes(path), header, first, epoch)

    def _stream(self, candidates: list[_Candidate], checkpoint: Checkpoint | None) -> UUID:
        """Return the stream of this folder: of two, the checkpoint's, or else the one with more segments."""
        headers = [each.header for each in candidates if each.header and each.header.tenant == self.tenant]
        streams = [header.stream for header in headers]
        if checkpoint is not None and (not streams or checkpoint.stream in streams):
            return checkpoint.stream
        if headers:
            return max(headers, key=lambda header: (streams.count(header.stream), header.made_us)).stream
        for each in candidates:
            if each.header is None:
                data = read_around(self.files, each.path, 0, PIECE_BYTES)
                at = find_record(data, 0)
                if at >= 0 and (record := scan_record(data, at)) is not None:
                    return UUID(bytes=record.stream)
        return uuid4()

    def _segments(self, candidates: list[_Candidate], stream: UUID) -> list[Segment]:
        segments: list[Segment] = []
        for each in candidates:
            if each.header is None:
                segment = self._headless(each, stream)
            elif (each.header.tenant, each.header.stream) != (self.tenant, stream):
                self._move_foreign(each, "a segment of another stream or tenant")
                segment = None
            else:
                segment = Segment(
                    path=each.path,
                    epoch=each.epoch,
                    first=each.first,
                    previous=each.header.previous,
                    database=each.header.database,
                    size_bytes=each.size_bytes,
                )
            if segment is not None:
                segments.append(segment)
        segments.sort(key=lambda segment: (segment.first, segment.path.name))
        for one, following in pairwise(segments):
            one.limit = following.first
        return segments

    def _headless(self, each: _Candidate, stream: UUID) -> Segment | None:
        """Make a segment of a file without a valid header by what its records say; None where it has no record."""
        records = walk(self.files, each.path, stream.bytes, HEADER_BYTES, each.size_bytes)
        first = next((found.record for found in records if isinstance(found, Found)), None)
        if first is not None:
            name = self.kept.copy(each.path, 0, HEADER_BYTES)
            log.error("a segment's header is damaged; its frames are read", file=str(each.path), kept_in=name)
            return Segment(
                path=each.path,
                epoch=first.epoch,
                first=each.first or first.sequence,
                previous=None,
                database=None,
                size_bytes=each.size_bytes,
            )
        name = self.kept.copy(each.path, 0, each.size_bytes)
        if name is None:
            log.error("a segment without any frame is passed over", file=str(each.path))
            return None
        if name:
            self.losses.append(Loss(0, each.first, 0, LossReason.CORRUPT, name))
        log.warning("a segment without any frame is removed", file=str(each.path), kept_in=name)
        self.files.remove(each.path)
        self.files.sync_folder(self.folder)
        return None

    def _move_foreign(self, each: _Candidate, what: str) -> None:
        name = self.kept.move(each.path)
        self.foreign.append((each.first, name))
        log.error(f"{what} lay in the journal: it is moved away", file=str(each.path), kept_in=name)

    # What is in them.

    def _scan(self, segments: list[Segment], stream: UUID, checkpoint: Checkpoint | None) -> Scan | None:
        """Scan what may not be committed, and mend the end of the newest segment; return what is known of that."""
        total = sum(segment.size_bytes for segment in segments)
        done = 0
        next_s = time.monotonic() + _PROGRESS_EACH_S

        def progress(offset: int) -> None:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + _PROGRESS_EACH_S
                log.info(
                    "recovering the journal", percent=round(100 * (done + offset) / total), total_bytes=total
                )

        if segments:
            self._cut_torn_group(segments[-1], stream, checkpoint)
        newest = None
        for place, segment in enumerate(segments):
            following = segments[place + 1] if place + 1 < len(segments) else None
            if following is None or not _all_committed(following, checkpoint):
                newest = self._scan_one(segment, stream, progress)
            else:
                segment.unscanned_last = following.previous or 0
            done += segment.size_bytes
        # The newest one that holds frames has the positions, and stays when all is committed.
        for segment in reversed(segments):
            if segment.index is None:
                self._scan_one(segment, stream, progress)
            if segment.index is not None and segment.index.frames:
                break
        if newest is not None:
            self._mend_end(segments[-1], newest)
        return newest

    def _scan_one(self, segment: Segment, stream: UUID, progress: Callable[[int], None]) -> Scan:
        found = scan(self.files, segment, stream.bytes, self.kept, progress)
        segment.index = found.index
        return found

    def _cut_torn_group(self, segment: Segment, stream: UUID, checkpoint: Checkpoint | None) -> None:
        """Leave out what follows a hole in the newest segment's last group: nobody was told that it was durable.

        A position in it would say that what is missing has come, and the server would not be asked for it again.
        """
        torn = torn_group(self.files, segment, stream.bytes)
        if torn is None or (checkpoint is not None and checkpoint.last >= torn.first):
            return
        kept_in = self.kept.copy(segment.path, torn.offset, segment.size_bytes)
        log.warning(
            "the newest segment's last frames were never synced, and are cut off",
            file=str(segment.path),
            at=torn.offset,
            bytes=segment.size_bytes - torn.offset,
            kept_in=kept_in,
        )
        segment.size_bytes = torn.offset
        if torn.first & COUNTS_MOST > 1:
            self.synced = torn.first - 1

    def _mend_end(self, segment: Segment, found: Scan) -> None:
        """Cut a torn tail off, and have the rest on disk for certain: whoever wrote it may have been killed before."""
        if found.tail is not None:
            if found.tail_kept is None:
                log.error("a torn tail stays, because it cannot be kept elsewhere", file=str(segment.path))
            else:
                say = log.warning if found.tail_kept else log.info
                say(
                    "the newest segment's torn tail is cut off: nobody was told that it was durable",
                    file=str(segment.path),
                    at=found.tail.offset,
                    bytes=found.tail.end - found.tail.offset,
                    kept_in=found.tail_kept,
                )
                segment.size_bytes = found.tail.offset
        sync_or_copy(self.files, segment.path, segment.size_bytes)
        self.files.sync_folder(self.folder)

    # What is between them.

    def _holes(self, segments: list[Segment]) -> int:
        """Note the holes between frames; return the last frame's sequence."""
        headless, self.losses = self.losses, []
        last, begun = 0, False
        for segment in segments:
            index = segment.index
            if index is None:
                last, begun = segment.unscanned_last, True
            elif index.frames:
                previous = segment.previous_of(index.first, last)
                if begun and previous > last:
                    self._note(Loss(last, index.first, index.first_us, LossReason.MISSING), index, headless)
                self.losses.extend(index.losses)
                last, begun = index.last, True
        return last

    def _end(
        self, segments: list[Segment], checkpoint: Checkpoint | None, newest: Scan | None, last: int
    ) -> int:
        """Note what is missing at the end, by headers without frames and by the checkpoint; return where it goes on."""
        should_be = max([last, self.synced, *(segment.previous or 0 for segment in segments)])
        committed = 0
        if checkpoint is not None:
            committed = checkpoint.committed
            should_be = max(should_be, checkpoint.last)
            if (checkpoint.last > last or not segments) and not checkpoint.closed:
                # The newest segment is never removed: frames behind the last one that we know of may have been in it.
                should_be = max(should_be, checkpoint.epoch << EPOCH_SHIFT) + 1
        after = max(last, committed) if not any(segment.holds_frames for segment in segments) else last
        if should_be > after:
            torn = newest is not None and newest.tail is not None
            reason = LossReason.CORRUPT if torn else LossReason.MISSING
            kept_in = (newest.tail_kept or "") if newest is not None else ""
            self._note(Loss(after, should_be + 1, self.now_us(), reason, kept_in), None, [])
        return max(should_be, last)

    def _note(self, loss: Loss, index: Index | None, headless: list[Loss]) -> None:
        if index is not None and index.head_damage is not None:
            loss = replace(loss, reason=LossReason.CORRUPT, kept_in=index.head_damage)
        for gone in headless:
            if loss.after < gone.until < loss.until:
                loss = replace(loss, reason=LossReason.CORRUPT, kept_in=gone.kept_in)
        for first, name in self.foreign:
            if loss.after < first < loss.until:
                loss = replace(loss, reason=LossReason.FOREIGN, kept_in=name)
        self.losses.append(loss)
        log.error(
            "the journal has a hole: frames are lost",
            after=loss.after,
            until=loss.until,
            reason=loss.reason.value,
            kept_in=loss.kept_in,
        )

    def _positions(self, segments: list[Segment], stream: UUID) -> tuple[Position, ...]:
        """Return them from the newest segment that holds frames; from earlier ones, too, where its first is lost."""
        sources = []
        for segment in reversed(segments):
            if segment.index is None:
                self._scan_one(segment, stream, lambda _: None)
            if segment.index is not None and segment.index.frames:
                sources.append(segment)
                if segment.index.first == segment.first:
                    break
        positions = Positions()
        for segment in reversed(sources):
            positions.move(self._moved(segment, stream))
        return positions.all()

    def _moved(self, segment: Segment, stream: UUID) -> Iterable[Position]:
        for found in walk(self.files, segment.path, stream.bytes, HEADER_BYTES, segment.size_bytes):
            if isinstance(found, Found) and found.record.sequence < segment.limit:
                yield from decode_frame(found.data, found.record.offset)[2]


def _all_committed(following: Segment, checkpoint: Checkpoint | None) -> bool:
    """Return whether the segment before this one may be passed over."""
    return (
        checkpoint is not None
        and following.previous is not None
        and following.previous <= checkpoint.committed
    )


def _database(segments: list[Segment], checkpoint: Checkpoint | None) -> UUID | None:
    for segment in reversed(segments):
        if segment.database is not None:
            return segment.database
    return checkpoint.database if checkpoint is not None else None
