"""From record to record through a segment's file, and over what is no record; in pieces, so that memory is bounded.

Every record that comes out is valid and of the given stream. A search for the next record behind damage looks for the
stream's UUID, which bytes that somebody else had a hand in (the texts of readings) do not hold.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from engine._fastpath import scan_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine._fastpath import Scanned
    from engine.journal.files import Files

log = structlog.get_logger(__name__)

PIECE_BYTES = 8 << 20
_MAGIC = b"SREC"
_RECORD_HEADER_BYTES = 56
_LENGTH_AT = 8
_STREAM_AT = 16
# What a disk reads at once: where one such block cannot be read, its neighbours can.
_BLOCK_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Found:
    """A record, and the piece of the file that it is in."""

    offset: int
    """Where it begins in the file."""
    data: bytes
    record: Scanned
    """`record.offset` is where it begins in `data`."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of the file that are no record."""

    offset: int
    end: int


class _Window:
    """The piece of a file in which a walk is."""

    def __init__(self, files: Files, path: Path, start: int, end: int, piece_bytes: int) -> None:
        self._files = files
        self._path = path
        self._piece_bytes = piece_bytes
        self.end = end
        self.base = start
        self.data = b""

    @property
    def is_last(self) -> bool:
        return self.base + len(self.data) >= self.end

    def move(self, offset: int, least_bytes: int) -> None:
        """Let the piece begin at an offset, and have at least so many bytes if the file has."""
        wanted = min(max(self._piece_bytes, least_bytes), self.end - offset)
        self.base, self.data = offset, read_around(self._files, self._path, offset, wanted)
        if len(self.data) < wanted:
            self.end = offset + len(self.data)  # somebody has cut the file

    def claimed_bytes(self, at: int) -> int:
        """Return how many bytes the record at a place takes by what its header says; 0: this is no record."""
        if len(self.data) - at < _RECORD_HEADER_BYTES:
            return _RECORD_HEADER_BYTES
        if self.data[at : at + 4] != _MAGIC:
            return 0
        payload = int.from_bytes(self.data[at + _LENGTH_AT : at + _LENGTH_AT + 4], "little")
        claimed = _RECORD_HEADER_BYTES + payload + 7 & ~7
        return claimed if self.base + at + claimed <= self.end else 0

    def is_cut(self, at: int, claimed: int) -> bool:
        return at + claimed > len(self.data) and not self.is_last


def walk(
    files: Files, path: Path, stream: bytes, start: int, end: int, *, piece_bytes: int = PIECE_BYTES
) -> Iterator[Found | Damage]:
    """Yield what is between two offsets, in order. Raises OSError."""
    window = _Window(files, path, start, end, piece_bytes)
    at = 0
    while window.base + at < window.end:
        record = scan_record(window.data, at, stream)
        if record is not None:
            yield Found(window.base + at, window.data, record)
            at += record.nbytes
        elif window.is_cut(at, claimed := window.claimed_bytes(at)):
            window.move(window.base + at, claimed)
            at = 0
        else:
            offset = window.base + at
            at = _search(window, stream, at + 8)
            yield Damage(offset, window.base + at)


def _search(window: _Window, stream: bytes, at: int) -> int:
    """Return the place in the window of the next record from `at` on; the window moves with the search."""
    while True:
        place = window.data.find(stream, at + _STREAM_AT)
        if place < 0:
            if window.is_last:
                return len(window.data)
            # The header of a record may be cut by the window's end.
            at = max(at, len(window.data) - _RECORD_HEADER_BYTES & ~7)
            window.move(window.base + at, 0)
            at = 0
            continue
        at = place - _STREAM_AT
        if at % 8:
            at += 8 - at % 8
        elif window.is_cut(at, claimed := window.claimed_bytes(at)):
            window.move(window.base + at, claimed)
            at = 0
        elif scan_record(window.data, at, stream) is not None:
            return at
        else:
            at += 8


def read_around(files: Files, path: Path, offset: int, most_bytes: int) -> bytes:
    """Return the bytes of a file, with zeros for blocks that the disk cannot read (EIO). Raises other OSErrors."""
    try:
        return files.read(path, offset, most_bytes)
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        log.error(
            "the journal's disk cannot read a segment: reading around it",
            file=str(path),
            at=offset,
            error=str(exc),
        )
    parts = []
    end = min(offset + most_bytes, files.size_bytes(path))
    while offset < end:
        part_bytes = min(_BLOCK_BYTES - offset % _BLOCK_BYTES, end - offset)
        try:
            parts.append(files.read(path, offset, part_bytes))
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            parts.append(bytes(part_bytes))
        offset += part_bytes
    return b"".join(parts)
