"""crc32c: both ways of it against division bit by bit, and the values that RFC 3720 gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import crc32c
from tests.engine import reference_frames as reference

WAYS = pytest.mark.parametrize("by_tables", [False, True], ids=["fastest", "tables"])


@WAYS
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_values_of_the_standard_come_out(data: bytes, crc: int, by_tables: bool) -> None:
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(data, by_tables=by_tables) == crc


@WAYS
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=100), start=st.integers(0, 100))
def test_any_bytes_from_any_place_give_what_division_gives(data: bytes, start: int, by_tables: bool) -> None:
    start = min(start, len(data))
    memory = np.frombuffer(data, np.uint8).copy().data
    assert crc32c(memory, start, by_tables=by_tables) == reference.crc32c(data[start:])


def test_both_ways_agree_on_much() -> None:
    data = np.random.default_rng(seed=1).bytes(1_000_003)
    assert crc32c(data, 5) == crc32c(data, 5, by_tables=True)


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_outside_of_the_data_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match=f"start: {start} is outside of 3 bytes"):
        crc32c(b"abc", start)
