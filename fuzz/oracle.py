"""What must hold for every input, whatever the target: shared checks, and bytes in memory of just their size.

Owns no target. A check that fails raises AssertionError, which a fuzzer and a test both report with the input.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine._fastpath import Ring
from engine.errors import MalformedMessage
from engine.readings import Kind, RawBatch
from tests.engine.reference_codec import NOT_OURS, Row

RECEIVED_US = 1_700_000_000_000_000
# Handle 3 is nobody's; from 10 on there is none.
SLOTS = [5, 6, 7, NOT_OURS, 8, 9, 10, 11, 12, 13]
# Rows that are in the ring before a message comes: they must be there, unchanged, after it.
_BEFORE_US = 1_234_567
# Text that one byte of a message can become, at the most: an ExtensionObject of three bytes is written with 42
# characters, an empty DataValue of one byte with 3, a DiagnosticInfo of one byte with 24.
MOST_TEXT_PER_BYTE = 64
# ... and what a text costs that says nothing.
_LEAST_TEXT = 128


def exact(data: bytes) -> memoryview:
    """Return the bytes in memory of just their size: behind a bytes object's end is a NUL that a read could hit."""
    return np.frombuffer(data, np.uint8).copy().data


def slots() -> NDArray[np.uint32]:
    """Return the lookup table of all targets."""
    return np.array(SLOTS, np.uint32)


def ring_of(rows: int, before: int) -> Ring:
    """Return a ring of `rows`, turned by half, with `before` rows in it."""
    ring = Ring(rows)
    _fill(ring, rows // 2)
    ring.drain(rows)
    _fill(ring, before)
    return ring


def _fill(ring: Ring, rows: int) -> None:
    zeros = np.zeros(rows, np.int64)
    assert ring.append(
        RawBatch(
            zeros + _BEFORE_US,
            zeros.astype(np.uint32),
            zeros.astype(np.uint32),
            zeros.astype(np.float64),
            np.full(rows, int(Kind.NUMBER), np.uint8),
        )
    )


def placed(exc: MalformedMessage, message: bytes) -> None:
    """Check that a refusal names a place in the message."""
    assert 0 <= exc.offset <= len(message), f"the error is at byte {exc.offset} of {len(message)}"


def taken_in(ring: Ring, before: int, rows: int, input_bytes: int, most_more_text: int = 0) -> list[Row]:
    """Drain the ring: it must hold what was there before, and behind it exactly `rows`. Return those."""
    assert len(ring) == before + rows, f"{len(ring)} rows in the ring; {before} before, {rows} counted"
    old = ring.drain(before)
    assert (old.ts_us == _BEFORE_US).all(), "rows from before have changed"
    assert not old.texts, "rows from before have got texts"
    new = ring.drain(rows + 1)
    assert len(ring) == 0, "more rows in the ring than it says"
    check_texts(new, input_bytes, most_more_text)
    return _rows(new)


def check_texts(batch: RawBatch, input_bytes: int, most_more: int = 0) -> None:
    """Exactly the rows that announce a text have one; all of them together are not much longer than the input."""
    announced = set(np.flatnonzero(batch.kind & Kind.TEXT).tolist())
    assert announced == set(batch.texts), (
        f"rows {announced} announce a text, rows {set(batch.texts)} have one"
    )
    for text in batch.texts.values():
        keepable(text)
    characters = sum(map(len, batch.texts.values()))
    most = MOST_TEXT_PER_BYTE * input_bytes + _LEAST_TEXT + most_more
    assert characters <= most, f"{characters} characters of text out of {input_bytes} bytes"


def keepable(text: str) -> None:
    """Check that the journal can keep the text: the only surrogates in it are bytes that were no UTF-8."""
    text.encode("utf-8", "surrogateescape")


def _rows(batch: RawBatch) -> list[Row]:
    return [
        Row(
            int(batch.ts_us[row]),
            int(batch.slot[row]),
            int(batch.status[row]),
            float(batch.value[row]) if batch.kind[row] & Kind.NUMBER else None,
            row in batch.texts,
        )
        for row in range(len(batch))
    ]


def agree(ours: list[Row] | None, theirs: list[Row] | None) -> None:
    """Compare the rows of both decoders, NaN equal to NaN; None is a refusal."""
    if theirs is None:
        assert ours is None, "the reference decoder refuses this, ours does not"
        return
    assert ours is not None, "the reference decoder takes this, ours does not"
    assert repr(ours) == repr(theirs), f"ours {ours}\nreference {theirs}"
