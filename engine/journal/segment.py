"""A segment: the header of its file, its name, and what is kept in memory of its records.

The layout of the header stands in engine/journal/__init__.py. In memory a segment has an index that does not grow with
its frames, only with its bytes: one place for each 256 KiB.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from engine._fastpath import crc32c
from engine.frames import COUNTS_MOST, Loss

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1
HEADER_BYTES = 96
NO_LIMIT = 1 << 63
# Frames that are written and synced together are a group. A frame's place in it is in the low bits of `journaled at`.
GROUP_MOST_FRAMES = 1_024
_MAGIC = b"SCADAJNL"
_HEAD = struct.Struct("<8sII")
_REST = struct.Struct("<16s16s16sQQQq")
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})\.seg")
_INDEX_EACH_BYTES = 256 * 1024


class NotAHeader(Exception):
    """These bytes are no segment's header: too short, another magic, or another checksum."""


class LaterVersion(Exception):
    """A valid header of a format that this engine does not know."""


def group_us(now_us: int) -> int:
    """Return the `journaled at` of the first frame of a group; each other's is one more than the one before it."""
    return now_us & -GROUP_MOST_FRAMES


def place_in_group(journaled_us: int) -> int:
    """Return how many frames of its group are before a frame."""
    return journaled_us % GROUP_MOST_FRAMES


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says about itself."""

    stream: UUID
    tenant: UUID
    database: UUID
    epoch: int
    first: int
    previous: int
    made_us: int

    def encoded(self, version: int = FORMAT_VERSION) -> bytes:
        """Return the 96 bytes."""
        rest = _REST.pack(
            self.stream.bytes,
            self.tenant.bytes,
            self.database.bytes,
            self.epoch,
            self.first,
            self.previous,
            self.made_us,
        )
        return _HEAD.pack(_MAGIC, version, crc32c(_checked(version, rest))) + rest

    @classmethod
    def decoded(cls, data: bytes) -> Header:
        """Return what these bytes say; raises NotAHeader or LaterVersion."""
        if len(data) < HEADER_BYTES:
            raise NotAHeader
        magic, version, checksum = _HEAD.unpack_from(data)
        rest = data[_HEAD.size : HEADER_BYTES]
        if magic != _MAGIC or checksum != crc32c(_checked(version, rest)):
            raise NotAHeader
        if version > FORMAT_VERSION:
            raise LaterVersion(version)
        stream, tenant, database, epoch, first, previous, made_us = _REST.unpack(rest)
        return cls(
            UUID(bytes=stream), UUID(bytes=tenant), UUID(bytes=database), epoch, first, previous, made_us
        )


def _checked(version: int, rest: bytes) -> bytes:
    return _MAGIC + version.to_bytes(4, "little") + rest


def segment_name(epoch: int, first: int) -> str:
    """Return the name of the file; names sort in the order of the stream."""
    return f"{epoch:08x}-{first:016x}.seg"


def named(name: str) -> tuple[int, int] | None:
    """Return epoch and first sequence of a segment's name; None for other names."""
    match = _NAME.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None


@dataclass(slots=True)
class Index:
    """What is known of a segment's records; grows by one place for each 256 KiB."""

    first: int = 0
    """Of the first record; 0 while there is none."""
    first_us: int = 0
    last: int = 0
    frames: int = 0
    rows: int = 0
    losses: list[Loss] = field(default_factory=list)
    """Holes between two of its records, as they were when it was scanned."""
    head_damage: str | None = None
    """Where bytes before the first record are kept that are none; empty: nowhere; None: there are none."""
    _sequences: array[int] = field(default_factory=lambda: array("q"))
    _offsets: array[int] = field(default_factory=lambda: array("q"))
    _rows: array[int] = field(default_factory=lambda: array("q"))

    def add(self, sequence: int, journaled_us: int, offset: int, rows: int) -> None:
        """Take the next record."""
        if not self._offsets or offset - self._offsets[-1] >= _INDEX_EACH_BYTES:
            self._offsets.append(offset)
            self._rows.append(self.rows)
            # The last of the three: another thread may be looking for a place.
            self._sequences.append(sequence)
        if not self.frames:
            self.first, self.first_us = sequence, journaled_us
        self.last = sequence
        self.frames += 1
        self.rows += rows

    def place(self, after: int) -> tuple[int, int]:
        """Return an offset before which no record is behind `after`, and the rows of the records before it."""
        place = bisect_right(self._sequences, after) - 1
        if place < 0:
            return HEADER_BYTES, 0
        return self._offsets[place], self._rows[place]


@dataclass(slots=True, eq=False)
class Segment:
    """One file of the stream."""

    path: Path
    epoch: int
    first: int
    """The first sequence that may be in it."""
    previous: int | None
    """The sequence before it; None where the header cannot be read."""
    database: UUID | None
    size_bytes: int
    """Behind them nothing is of interest: torn, or not yet synced."""
    limit: int = NO_LIMIT
    """Records from this sequence on do not count: a later segment has them."""
    index: Index | None = None
    """None while nobody has looked into it: all of it is committed."""
    unscanned_last: int = 0
    """Without an index: the sequence of the last record, as the next segment's header gives it."""
    committed_s: float | None = None
    """Since when everything in it is committed, by the monotonic clock."""

    @property
    def last(self) -> int:
        """The sequence of the last record; where there is none, of the one before it."""
        if self.index is None:
            return self.unscanned_last
        return self.index.last or self.previous or 0

    @property
    def holds_frames(self) -> bool:
        """False only where it is known to be empty."""
        return self.index is None or self.index.frames > 0

    def previous_of(self, sequence: int, before: int) -> int:
        """Return the sequence that was written before this one, of which `before` is the last that is there.

        An owner counts its frames without a hole; what was before the first is known from the header.
        """
        if sequence & COUNTS_MOST > 1:
            return sequence - 1
        return before if self.previous is None else self.previous
