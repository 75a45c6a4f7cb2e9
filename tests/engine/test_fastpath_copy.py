"""encode_copy and decode_copy: PostgreSQL's binary COPY format, byte for byte."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import decode_copy, encode_copy
from engine.errors import DatabaseError
from engine.readings import Batch, Kind

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
Y2K_US = 946_684_800_000_000
LEAST_TS_US = -210_866_803_200_000_000


def columns(rows: list[tuple[int, int, int, float | None, str | None]]) -> Batch:
    """Return rows of (ts_us, tag_id, status, value, text_value) as a Batch."""
    return Batch(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.uint32),
        np.array([0.0 if row[3] is None else row[3] for row in rows], np.float64),
        np.array(
            [(row[3] is not None) * Kind.NUMBER | (row[4] is not None) * Kind.TEXT for row in rows], np.uint8
        ),
        {place: row[4] for place, row in enumerate(rows) if row[4] is not None},
    )


def encode(batch: Batch) -> bytearray:
    """Encode a whole batch."""
    return encode_copy(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, batch.texts)


def reference(rows: list[tuple[int, int, int, float | None, str | None]]) -> bytes:
    """Encode rows as the PostgreSQL manual describes it."""
    out = HEADER
    for ts_us, tag_id, status, value, text in rows:
        out += struct.pack(">hiqiiiI", 5, 8, ts_us - Y2K_US, 4, tag_id, 4, status)
        out += struct.pack(">i", -1) if value is None else struct.pack(">id", 8, value)
        out += (
            struct.pack(">i", -1) if text is None else struct.pack(">i", len(text.encode())) + text.encode()
        )
    return out + TRAILER


row_strategy = st.tuples(
    st.integers(LEAST_TS_US, 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.none() | st.floats(),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(row_strategy, max_size=12))
def test_rows_are_encoded_as_the_manual_says_and_come_back_as_they_were(
    rows: list[tuple[int, int, int, float | None, str | None]],
) -> None:
    batch = columns(rows)
    encoded = encode(batch)
    assert isinstance(encoded, bytearray)
    if all(row[3] == row[3] for row in rows):  # NaN has many bit patterns
        assert encoded == reference(rows)
    back = decode_copy(encoded)
    assert back.texts == batch.texts
    for name in ("ts_us", "tag_id", "status", "value", "kind"):
        np.testing.assert_array_equal(getattr(back, name), getattr(batch, name))
        assert getattr(back, name).dtype == getattr(batch, name).dtype


def test_no_rows_are_a_header_and_a_trailer() -> None:
    assert encode(columns([])) == HEADER + TRAILER
    assert len(decode_copy(HEADER + TRAILER)) == 0


def test_texts_may_come_in_any_order_of_rows() -> None:
    batch = columns([(0, 1, 0, None, "first"), (0, 2, 0, None, "second")])
    swapped = dict(reversed(batch.texts.items()))
    encoded = encode_copy(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, swapped)
    assert encoded == encode(batch)


def test_a_text_is_written_as_it_is_or_refused() -> None:
    back = decode_copy(encode(columns([(0, 1, 0, None, "a\0b")])))
    assert back.texts == {0: "a\0b"}
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(columns([(0, 1, 0, None, "a\udc80")]))


def test_a_time_before_timestamptz_begins_is_refused_with_its_row() -> None:
    with pytest.raises(ValueError, match="in row 1"):
        encode(columns([(0, 1, 0, 1.0, None), (LEAST_TS_US - 1, 1, 0, 1.0, None)]))


def test_columns_that_do_not_belong_together_are_refused() -> None:
    batch = columns([(0, 1, 0, 1.0, None)])
    with pytest.raises(ValueError, match="different lengths"):
        encode_copy(batch.ts_us, batch.tag_id[:0], batch.status, batch.value, batch.kind, {})
    with pytest.raises(ValueError, match="text"):
        encode_copy(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, {0: "not announced"})
    with pytest.raises(ValueError, match="dtype"):
        encode_copy(batch.ts_us, batch.tag_id, batch.status.astype(np.int64), batch.value, batch.kind, {})


@pytest.mark.parametrize(
    ("since_2000_us", "ts_us"),
    [
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63 - 1 - Y2K_US, 2**63 - 1),
        (0, Y2K_US),
    ],
)
def test_infinite_times_become_the_ends_of_int64(since_2000_us: int, ts_us: int) -> None:
    row = struct.pack(">hiqiiiIii", 5, 8, since_2000_us, 4, 1, 4, 0, -1, -1)
    assert decode_copy(HEADER + row + TRAILER).ts_us.tolist() == [ts_us]


WHOLE = bytes(encode(columns([(0, 1, 0, 1.5, "text"), (1, 2, 3, None, None)])))


def test_a_stream_cut_off_at_any_byte_is_an_error_with_a_place() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(DatabaseError, match="at byte"):
            # An array has no byte behind its end, where an address sanitizer would not see a read.
            decode_copy(np.frombuffer(WHOLE[:size], np.uint8).copy().data)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_gives_rows_or_an_error_and_nothing_else(place: int, byte: int) -> None:
    changed = WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :]
    with contextlib.suppress(DatabaseError):
        assert len(decode_copy(np.frombuffer(changed, np.uint8).copy().data)) <= len(WHOLE) // 38


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PGCOPY\n\xff\r\n\x01" + bytes(8) + TRAILER, "no binary COPY header"),
        (WHOLE + b"\x00", "1 bytes behind the trailer"),
        (HEADER + struct.pack(">h", 4), "a row of 4 fields where 5 belong"),
        (HEADER + struct.pack(">hi", 5, -1), "a field of -1 bytes where 8 belong"),
        (HEADER + struct.pack(">hiqii", 5, 8, 0, 8, 0), "a field of 8 bytes where 4 belong"),
        (HEADER[:11] + b"\x00\x01\x00\x00" + bytes(4) + TRAILER, "unknown flags"),
        (HEADER[:15] + struct.pack(">I", 2**32 - 1), "4294967295 bytes expected"),
    ],
)
def test_other_bytes_are_an_error_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(DatabaseError, match=why):
        decode_copy(data)


def test_a_header_with_an_extension_is_read_past_it() -> None:
    assert len(decode_copy(HEADER[:15] + struct.pack(">I", 3) + b"abc" + TRAILER)) == 0
