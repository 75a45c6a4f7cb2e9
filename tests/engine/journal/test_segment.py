"""The bytes of a segment's header and of the checkpoint, as engine/journal/__init__.py says; and a segment's index."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine._fastpath import crc32c
from engine.journal.checkpoint import Checkpoint
from engine.journal.segment import (
    HEADER_BYTES,
    Header,
    Index,
    LaterVersion,
    NotAHeader,
    Segment,
    named,
    segment_name,
)

HEADER = Header(
    stream=UUID("00112233-4455-6677-8899-aabbccddeeff"),
    tenant=UUID(int=2),
    database=UUID(int=3),
    epoch=5,
    first=5 << 40 | 1,
    previous=4 << 40 | 9,
    made_us=-1,
)
CHECKPOINT = Checkpoint(
    stream=UUID(int=1),
    tenant=UUID(int=2),
    database=UUID(int=3),
    epoch=4,
    committed=5,
    trimmed=6,
    last=7,
    saved_us=8,
    closed=True,
)


def test_a_header_is_these_bytes() -> None:
    rest = bytes.fromhex(
        "00112233445566778899aabbccddeeff"
        "00000000000000000000000000000002"
        "00000000000000000000000000000003"
        "0500000000000000"
        "0100000000050000"
        "0900000000040000"
        "ffffffffffffffff"
    )
    head = b"SCADAJNL" + bytes.fromhex("01000000")
    assert HEADER.encoded() == head + struct.pack("<I", crc32c(head + rest)) + rest
    assert len(HEADER.encoded()) == HEADER_BYTES == 96
    assert Header.decoded(HEADER.encoded()) == HEADER


def test_a_checkpoint_is_these_bytes() -> None:
    rest = UUID(int=1).bytes + UUID(int=2).bytes + UUID(int=3).bytes + struct.pack("<7Q", 4, 5, 6, 7, 8, 1, 0)
    assert CHECKPOINT.encoded() == b"SCADACKP" + struct.pack("<II", 1, crc32c(rest)) + rest
    assert len(CHECKPOINT.encoded()) == 120
    assert Checkpoint.decoded(CHECKPOINT.encoded()) == CHECKPOINT


def test_a_changed_bit_makes_it_no_header_and_no_later_version_either() -> None:
    for place in range(HEADER_BYTES * 8):
        changed = bytearray(HEADER.encoded())
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(NotAHeader):
            Header.decoded(bytes(changed))


def test_a_changed_bit_or_another_length_makes_it_no_checkpoint() -> None:
    content = CHECKPOINT.encoded()
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        assert Checkpoint.decoded(bytes(changed)) is None
    assert all(Checkpoint.decoded(content[:size]) is None for size in range(len(content)))
    assert Checkpoint.decoded(content + b"\0") is None


def test_a_later_version_is_told_from_damage() -> None:
    with pytest.raises(LaterVersion):
        Header.decoded(HEADER.encoded(version=2))


def test_names_sort_in_the_order_of_the_stream() -> None:
    assert segment_name(1, 1 << 40 | 1) == "00000001-0000010000000001.seg"
    assert named("00000001-0000010000000001.seg") == (1, 1 << 40 | 1)
    assert [named(name) for name in ("lock", "1-1.seg", "00000001-0000010000000001.seg.copy")] == [None] * 3
    assert segment_name(1, 1 << 40 | 255) < segment_name(1, 1 << 40 | 256) < segment_name(2, 2 << 40 | 1)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40))
def test_an_index_leads_close_to_every_frame_and_stays_small(sizes: list[int]) -> None:
    index, offset, rows_before = Index(), HEADER_BYTES, 0
    places = []
    for sequence, nbytes in enumerate(sizes, 1):
        index.add(sequence, 0, offset, 2)
        places.append((offset, rows_before))
        offset += nbytes
        rows_before += 2
    for sequence, (offset_of, rows_of) in enumerate(places, 1):
        found, rows = index.place(sequence)
        assert found <= offset_of
        assert offset_of - found < 256  # conftest.py; as KiB in production
        assert rows <= rows_of
        assert (found, rows) in places
    assert len(index._offsets) <= offset // 256 + 1


def test_what_was_before_a_frame_follows_from_its_number_or_the_header() -> None:
    segment = Segment(Path("a"), 5, 5 << 40 | 1, previous=4 << 40 | 9, database=None, size_bytes=0)
    assert segment.previous_of(5 << 40 | 2, 0) == 5 << 40 | 1
    assert segment.previous_of(5 << 40 | 1, 0) == 4 << 40 | 9
    segment.previous = None
    assert segment.previous_of(5 << 40 | 1, 77) == 77
