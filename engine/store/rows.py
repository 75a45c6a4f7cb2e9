"""The rows of some frames as they go into COPY, and those that cannot: screened before the database sees them.

What is screened depends on the frames alone, never on when it is done, so that frames that are committed again meet the
same fate:

    timestamp  before 1990, or later than the frame was written by more than the settings allow. Such a time is a
               server's clock that is wrong, and each day of it would make a chunk of its own, for good.
    text       holds what PostgreSQL's text cannot: NUL, or bytes that are no UTF-8 (kept as lone surrogates)

Screened rows never hold a stream up, however many they are: they are known to be refused, they are kept in the
quarantine whole, and a server whose clock is wrong sends nothing else. (Rows that the database refuses by itself are
another matter: see copying.py.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from engine._fastpath import sort_readings
from engine.readings import Kind
from engine.unstorable import LEAST_US, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from engine._fastpath import SortedReadings
    from engine.frames import Frame
    from engine.readings import Batch

# This engine's own clock is wrong where it is before the engine was made, as after a start without a clock that is set.
# It then says nothing of what is too late.
_CLOCK_LEAST_US = 1_767_225_600_000_000  # 2026-01-01
_LATE_WITHOUT_CLOCK_US = 4_102_444_800_000_000  # 2100-01-01
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_DETAIL_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Refused:
    """One row for reading_quarantine."""

    sequence: int
    place: int
    """The row in its frame."""
    reason: Reason
    detail: str
    sqlstate: str | None = None
    tag_id: int | None = None
    ts_us: int | None = None
    status: int | None = None
    value: float | None = None
    text_bytes: bytes | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be stored of some frames, in the order of the index: tag_id, then ts.

    Measured: neighbouring rows in one part of the index make a COPY a third faster, and direct compress needs it.
    """

    sorted: SortedReadings
    batches: Sequence[Batch]
    starts: NDArray[np.int64]
    """Of each frame, the place of its first row in all rows."""
    sequences: Sequence[int]

    def __len__(self) -> int:
        return self.sorted.rows

    def encoded(self, first: int, end: int) -> Iterator[bytearray]:
        """Return the rows from `first` up to `end` as pieces of COPY bytes."""
        return self.sorted.encode(np.array([first], np.intp), np.array([end], np.intp))

    def refused(self, row: int, reason: Reason, detail: str, sqlstate: str | None = None) -> Refused:
        """Return one of the sorted rows as the quarantine keeps it."""
        return self.refused_at(int(self.sorted.place[row]), reason, detail, sqlstate)

    def refused_at(self, place: int, reason: Reason, detail: str, sqlstate: str | None = None) -> Refused:
        """Return the row at a place in all rows as the quarantine keeps it."""
        batch, row, sequence = self.found(place)
        text = batch.texts.get(row)
        return Refused(
            sequence=sequence,
            place=row,
            reason=reason,
            detail=detail,
            sqlstate=sqlstate,
            tag_id=int(batch.tag_id[row]),
            ts_us=int(batch.ts_us[row]),
            status=int(batch.status[row : row + 1].view(np.int32)[0]),
            value=float(batch.value[row]) if batch.kind[row] & Kind.NUMBER else None,
            text_bytes=None if text is None else bytes_of(text),
        )

    def found(self, place: int) -> tuple[Batch, int, int]:
        """Return a frame's batch, the row in it, and the frame's sequence, of a place in all rows."""
        frame = int(np.searchsorted(self.starts, place, "right")) - 1
        return self.batches[frame], place - int(self.starts[frame]), self.sequences[frame]


def screened(
    frames: Sequence[Frame], ahead_most_s: float, late_after_s: float = 300.0
) -> tuple[Rows, list[Refused]]:
    """Return the rows of some frames that can be stored, sorted, and those that cannot.

    Late is what is older than its frame by more than `late_after_s`; `Rows.sorted.late` counts it.
    """
    batches = [frame.batch for frame in frames]
    sizes = np.array([len(batch) for batch in batches], np.int64)
    journaled_us = np.array([frame.journaled_us for frame in frames], np.int64)
    found = sort_readings(
        batches,
        LEAST_US,
        _latest_us(journaled_us, ahead_most_s),
        journaled_us - int(late_after_s * 1_000_000),
    )
    rows = Rows(found, batches, np.cumsum(sizes) - sizes, [frame.sequence for frame in frames])
    early = set(found.refused_early.tolist())
    refused = [
        rows.refused_at(place, Reason.TIMESTAMP, _about_time(rows, place, place in early))
        for place in sorted(early.union(found.refused_late.tolist()))
    ]
    refused += [
        rows.refused_at(place, Reason.TEXT, _about_text(rows, place)) for place in found.refused_text.tolist()
    ]
    return rows, refused


def bytes_of(text: str) -> bytes:
    """Return a text as it came: what was no UTF-8 stands in it as surrogateescape left it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that no decoder made
        return text.encode("utf-8", "surrogatepass")


def _latest_us(journaled_us: NDArray[np.int64], ahead_most_s: float) -> NDArray[np.int64]:
    by_clock = journaled_us + int(ahead_most_s * 1_000_000)
    return np.where(journaled_us < _CLOCK_LEAST_US, _LATE_WITHOUT_CLOCK_US, by_clock)


def _about_time(rows: Rows, place: int, early: bool) -> str:
    batch, row, _ = rows.found(place)
    ts_us = int(batch.ts_us[row])
    said = "before 1990" if early else "later than when it came, by more than reading_ahead_most_s"
    return f"its time, {_shown_time(ts_us)}, is {said}"


def _shown_time(ts_us: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_us)).isoformat()
    except OverflowError:
        return f"{ts_us} microseconds since 1970"


def _about_text(rows: Rows, place: int) -> str:
    batch, row, _ = rows.found(place)
    text = batch.texts[row]
    found = _REFUSED.search(text)
    assert found is not None
    at = found.start()
    data = bytes_of(text)
    before = bytes_of(text[:at])
    what = "NUL" if found[0] == "\0" else f"the byte {data[len(before)]:#04x}, which is no UTF-8,"
    excerpt = data[:_DETAIL_CHARACTERS]
    return f"its text has {what} at byte {len(before)}: {excerpt!r}"
