"""What is in one segment: its index, the damage in it, and its end. Runs in a thread."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from engine.frames import Loss, LossReason
from engine.journal.segment import HEADER_BYTES, Index, Segment, place_in_group
from engine.journal.walking import PIECE_BYTES, Damage, read_around, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.journal.files import Files
    from engine.journal.kept import Kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Scan:
    """A segment's index, and the bytes behind its last record if there are any."""

    index: Index
    tail: Damage | None = None
    tail_kept: str | None = ""
    """Where they are kept; empty where they are only zeros, None where they are nowhere else."""


def scan(
    files: Files,
    segment: Segment,
    stream: bytes,
    kept: Kept,
    progress: Callable[[int], None] = lambda _: None,
) -> Scan:
    """Go through a segment and keep what is damaged in it. Raises OSError."""
    index = Index()
    damage: Damage | None = None
    superseded = 0
    for found in walk(files, segment.path, stream, HEADER_BYTES, segment.size_bytes):
        progress(found.offset)
        if isinstance(found, Damage):
            damage = found
            continue
        record = found.record
        if not segment.first <= record.sequence < segment.limit or record.sequence <= index.last:
            superseded += 1
            damage = None
            continue
        kept_in = None
        if damage is not None:
            kept_in = _keep(kept, segment, damage)
            damage = None
        if not index.frames:
            index.head_damage = kept_in
        elif (previous := segment.previous_of(record.sequence, index.last)) > index.last:
            reason = LossReason.MISSING if kept_in is None else LossReason.CORRUPT
            index.losses.append(Loss(index.last, record.sequence, record.journaled_us, reason, kept_in or ""))
            log.error(
                "the journal has a hole: frames are lost",
                after=index.last,
                until=record.sequence,
                missing=previous - index.last,
                reason=reason.value,
                kept_in=kept_in,
            )
        index.add(record.sequence, record.journaled_us, found.offset, record.rows)
    if superseded:
        log.info(
            "frames of a segment were written again to a later one", file=str(segment.path), frames=superseded
        )
    if damage is None:
        return Scan(index)
    return Scan(index, damage, kept.copy(segment.path, damage.offset, damage.end))


@dataclass(frozen=True, slots=True)
class TornGroup:
    """The last group of a segment, if a frame is missing in it in front of one that is there."""

    offset: int
    """Where the missing one began."""
    first: int
    """The sequence of the group's first frame: all before it was synced before it was written."""


def torn_group(files: Files, segment: Segment, stream: bytes) -> TornGroup | None:
    """Return the last group of a segment if it is torn. Raises OSError.

    When the power fails, pages get lost in any order: of frames that were to be synced together, a later one may be on
    disk and an earlier one not.
    """
    torn: TornGroup | None = None
    last, end = segment.first - 1, HEADER_BYTES
    for found in walk(files, segment.path, stream, HEADER_BYTES, segment.size_bytes):
        if isinstance(found, Damage):
            continue
        record = found.record
        first = record.sequence - place_in_group(record.journaled_us)
        if torn is not None and first > torn.first:
            torn = None  # a later group: this one was synced, and what is missing got lost since
        if torn is None and max(last + 1, first) < record.sequence:
            torn = TornGroup(end, first)
        last, end = record.sequence, found.offset + record.nbytes
    return torn


def _keep(kept: Kept, segment: Segment, damage: Damage) -> str:
    name = kept.copy(segment.path, damage.offset, damage.end)
    log.error(
        "bytes of a segment are no frame; reading goes on behind them",
        file=str(segment.path),
        at=damage.offset,
        bytes=damage.end - damage.offset,
        kept_in=name,
    )
    return name or ""


def sync_or_copy(files: Files, path: Path, size_bytes: int) -> None:
    """Have a file's first bytes on disk, and no others in it; in a new file if this one cannot be synced.

    Raises OSError. After a failed fdatasync the pages are taken for clean: only writing them again helps.
    """
    file = files.append(path)
    try:
        if files.size_bytes(path) != size_bytes:
            file.truncate(size_bytes)
        file.sync()
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        log.error(
            "a segment cannot be synced: it is written again to a new file", file=str(path), error=str(exc)
        )
    else:
        return
    finally:
        file.close()
    copy = path.with_name(f"{path.name}.copy")
    if copy.name in files.list(path.parent):
        files.remove(copy)
    file = files.create(copy)
    try:
        offset = 0
        while offset < size_bytes:
            data = memoryview(read_around(files, path, offset, min(PIECE_BYTES, size_bytes - offset)))
            offset += len(data)
            while data:
                data = data[file.write(data) :]
        file.sync()
    finally:
        file.close()
    files.rename(copy, path)
