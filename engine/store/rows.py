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

from engine.readings import Batch, Kind
from engine.unstorable import LEAST_US, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from engine.frames import Frame

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

    batch: Batch
    origin: NDArray[np.intp]
    """Of each row, its place in all rows of the frames."""
    starts: NDArray[np.int64]
    """Of each frame, the place of its first row in all rows."""
    sequences: Sequence[int]

    def __len__(self) -> int:
        return len(self.batch)

    def refused(self, row: int, reason: Reason, detail: str, sqlstate: str | None = None) -> Refused:
        """Return a row as the quarantine keeps it."""
        batch = self.batch
        place = int(self.origin[row])
        frame = int(np.searchsorted(self.starts, place, "right")) - 1
        text = batch.texts.get(row)
        return Refused(
            sequence=self.sequences[frame],
            place=place - int(self.starts[frame]),
            reason=reason,
            detail=detail,
            sqlstate=sqlstate,
            tag_id=int(batch.tag_id[row]),
            ts_us=int(batch.ts_us[row]),
            status=int(batch.status[row : row + 1].view(np.int32)[0]),
            value=float(batch.value[row]) if batch.kind[row] & Kind.NUMBER else None,
            text_bytes=None if text is None else bytes_of(text),
        )


def screened(frames: Sequence[Frame], ahead_most_s: float) -> tuple[Rows, list[Refused]]:
    """Return the rows of some frames that can be stored, sorted, and those that cannot."""
    sizes = np.array([len(frame.batch) for frame in frames], np.int64)
    starts = np.cumsum(sizes) - sizes
    joined = _joined([frame.batch for frame in frames], starts)
    everything = Rows(joined, np.arange(len(joined)), starts, [frame.sequence for frame in frames])
    latest_us = _latest_us(np.array([frame.journaled_us for frame in frames], np.int64), ahead_most_s)
    early = joined.ts_us < LEAST_US
    late = joined.ts_us > np.repeat(latest_us, sizes)
    fits = ~(early | late)
    refused = [
        everything.refused(int(row), Reason.TIMESTAMP, _about_time(joined, int(row), bool(early[row])))
        for row in np.flatnonzero(~fits)
    ]
    for row in _refused_texts(joined):
        if fits[row]:
            fits[row] = False
            refused.append(everything.refused(row, Reason.TEXT, _about_text(joined, row)))
    origin = np.lexsort((joined.ts_us, joined.tag_id))
    if refused:
        origin = origin[fits[origin]]
    return Rows(_picked(joined, origin), origin, starts, everything.sequences), refused


def bytes_of(text: str) -> bytes:
    """Return a text as it came: what was no UTF-8 stands in it as surrogateescape left it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that no decoder made
        return text.encode("utf-8", "surrogatepass")


def _latest_us(journaled_us: NDArray[np.int64], ahead_most_s: float) -> NDArray[np.int64]:
    by_clock = journaled_us + int(ahead_most_s * 1_000_000)
    return np.where(journaled_us < _CLOCK_LEAST_US, _LATE_WITHOUT_CLOCK_US, by_clock)


def _joined(batches: Sequence[Batch], starts: NDArray[np.int64]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    texts: dict[int, str] = {}
    for batch, start in zip(batches, starts.tolist(), strict=True):
        if batch.texts:
            texts |= {start + place: text for place, text in batch.texts.items()}
    return Batch(
        ts_us=np.concatenate([np.empty(0, np.int64), *(batch.ts_us for batch in batches)]),
        tag_id=np.concatenate([np.empty(0, np.int32), *(batch.tag_id for batch in batches)]),
        status=np.concatenate([np.empty(0, np.uint32), *(batch.status for batch in batches)]),
        value=np.concatenate([np.empty(0, np.float64), *(batch.value for batch in batches)]),
        kind=np.concatenate([np.empty(0, np.uint8), *(batch.kind for batch in batches)]),
        texts=texts,
    )


def _picked(batch: Batch, rows: NDArray[np.intp]) -> Batch:
    texts = batch.texts
    if texts:
        place = np.full(len(batch), -1, np.intp)
        place[rows] = np.arange(len(rows))
        texts = {int(place[row]): text for row, text in texts.items() if place[row] >= 0}
    return Batch(
        batch.ts_us[rows], batch.tag_id[rows], batch.status[rows], batch.value[rows], batch.kind[rows], texts
    )


def _refused_texts(batch: Batch) -> Iterable[int]:
    # One search over all of them: it is rare that there is anything to find.
    if not batch.texts or not _REFUSED.search("".join(batch.texts.values())):
        return ()
    return sorted(row for row, text in batch.texts.items() if _REFUSED.search(text))


def _about_time(batch: Batch, row: int, early: bool) -> str:
    ts_us = int(batch.ts_us[row])
    said = "before 1990" if early else "later than when it came, by more than reading_ahead_most_s"
    return f"its time, {_shown_time(ts_us)}, is {said}"


def _shown_time(ts_us: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_us)).isoformat()
    except OverflowError:
        return f"{ts_us} microseconds since 1970"


def _about_text(batch: Batch, row: int) -> str:
    text = batch.texts[row]
    found = _REFUSED.search(text)
    assert found is not None
    at = found.start()
    data = bytes_of(text)
    before = bytes_of(text[:at])
    what = "NUL" if found[0] == "\0" else f"the byte {data[len(before)]:#04x}, which is no UTF-8,"
    excerpt = data[:_DETAIL_CHARACTERS]
    return f"its text has {what} at byte {len(before)}: {excerpt!r}"
