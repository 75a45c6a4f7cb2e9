"""Reading frames again: for a backlog, for the newest reading of each tag, and to count. Runs in a thread.

A hole is seen where it is read: a frame's number and its segment's header say which frame was before it. So a hole
that came after the start, or in a segment that was passed over then, is told like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from engine._fastpath import decode_frame
from engine.frames import Frame, Loss, LossReason
from engine.journal.newest import Newest, NewestReadings
from engine.journal.scanning import scan
from engine.journal.segment import NO_LIMIT
from engine.journal.walking import PIECE_BYTES, Damage, Found, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.journal.files import Files
    from engine.journal.kept import Kept
    from engine.journal.segment import Index, Segment

log = structlog.get_logger(__name__)

# The first piece that a reading takes; what goes on reads larger ones.
_FIRST_PIECE_BYTES = 1 << 20


class HasLane(Protocol):
    """A part of the stream: frames behind `after`, of which those up to `mark` are committed."""

    @property
    def after(self) -> int:
        """The sequence before its first frame."""

    @property
    def mark(self) -> int:
        """The last sequence that is committed."""


@dataclass(frozen=True, slots=True)
class Part:
    """Frames of a backlog, in order, without a hole between them."""

    frames: tuple[Frame, ...]
    loss: Loss | None
    """A hole before the first of them; without frames: up to the end of what was asked for."""
    end: int
    """The mark when this part is committed: nothing is left between the part and this sequence."""


@dataclass(frozen=True, slots=True)
class View:
    """What there is to read at one moment."""

    files: Files
    kept: Kept
    stream: bytes
    segments: tuple[tuple[Segment, int], ...]
    """With the bytes of each that are durable."""
    last_sequence: int
    trimmed: int
    losses: tuple[Loss, ...]
    """Holes of which more is known than that they are there."""
    now_us: int

    def frames(self, after: int) -> Iterator[tuple[Found, int, str | None]]:
        """Yield records behind a sequence, each with the sequence before it and where damage in front is kept.

        That is None where there is no damage.
        """
        last = after
        for place, (segment, size_bytes) in enumerate(self.segments):
            index = self.index(segment)
            if index.last <= after:
                last = max(last, segment.last)
                continue
            start, _ = index.place(after)
            pieces = PIECE_BYTES if place and last > after else _FIRST_PIECE_BYTES
            damage = None
            for found in walk(self.files, segment.path, self.stream, start, size_bytes, piece_bytes=pieces):
                if isinstance(found, Damage):
                    damage = self.kept.copy(segment.path, found.offset, found.end) or ""
                    continue
                sequence = found.record.sequence
                if sequence >= segment.limit:
                    break
                if sequence > last:
                    yield found, segment.previous_of(sequence, last), damage
                    last = sequence
                damage = None

    def index(self, segment: Segment) -> Index:
        """Return a segment's index; a segment that the start passed over is scanned now."""
        if segment.index is None:
            segment.index = scan(self.files, segment, self.stream, self.kept).index
        return segment.index

    def loss(self, after: int, until: int, until_us: int, damage: str | None) -> Loss:
        """Return the hole between two sequences with what is known of its reason."""
        if damage is not None:
            return Loss(after, until, until_us, LossReason.CORRUPT, damage)
        for known in self.losses:
            if known.after < until and after < known.until:
                return Loss(after, until, until_us, known.reason, known.kept_in)
        reason = LossReason.TRIMMED if after < self.trimmed else LossReason.MISSING
        return Loss(after, until, until_us, reason)


def read_part(view: View, after: int, until: int | None, most_rows: int, most_bytes: int) -> Part:
    """Return what follows a sequence; at least one frame, if there is one. Raises OSError."""
    bound = view.last_sequence if until is None else min(until, view.last_sequence)
    frames: list[Frame] = []
    loss = None
    last = after
    rows = nbytes = 0
    before_next, damage = view.last_sequence, None
    for found, previous, damaged in view.frames(after):
        record = found.record
        if record.sequence > bound:
            before_next, damage = previous, damaged
            break
        if previous > last:
            if frames:
                return Part(tuple(frames), loss, last)
            loss = view.loss(last, record.sequence, record.journaled_us, damaged)
        if frames and (rows + record.rows > most_rows or nbytes + record.nbytes > most_bytes):
            return Part(tuple(frames), loss, last)
        batch, gaps, positions = decode_frame(found.data, record.offset)
        frames.append(
            Frame(record.sequence, previous, record.journaled_us, batch, gaps, positions, record.nbytes)
        )
        last = record.sequence
        rows += record.rows
        nbytes += record.nbytes
    if min(before_next, bound) <= last:
        return Part(tuple(frames), loss, max(last, bound))
    if frames:
        return Part(tuple(frames), loss, last)
    return Part((), view.loss(last, bound + 1, view.now_us, damage), bound)


def read_newest(view: View, after: int) -> Newest:
    """Return the newest reading of each tag in the frames behind a sequence. Raises OSError."""
    newest = NewestReadings()
    for found, _, _ in view.frames(after):
        newest.take(decode_frame(found.data, found.record.offset)[0])
    return newest.all()


def count_uncommitted_rows(view: View, lanes: Sequence[HasLane]) -> int:
    """Return the rows of frames that no lane has committed. Raises OSError."""
    ends = [*(lane.after for lane in lanes[1:]), NO_LIMIT - 1]
    return sum(
        _rows_up_to(view, segment, size_bytes, end) - _rows_up_to(view, segment, size_bytes, lane.mark)
        for lane, end in zip(lanes, ends, strict=True)
        if lane.mark < end
        for segment, size_bytes in view.segments
        if lane.mark < segment.last and end >= segment.first
    )


def _rows_up_to(view: View, segment: Segment, size_bytes: int, sequence: int) -> int:
    index = view.index(segment)
    if index.last <= sequence:
        return index.rows
    if sequence < index.first:
        return 0
    start, rows = index.place(sequence)
    for found in walk(
        view.files, segment.path, view.stream, start, size_bytes, piece_bytes=_FIRST_PIECE_BYTES
    ):
        if isinstance(found, Found):
            if found.record.sequence > sequence:
                break
            rows += found.record.rows
    return rows
