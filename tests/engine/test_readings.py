"""What the reading record promises: the bits of a status, and columns of fixed types."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.readings import READING_COLUMNS, Batch, Kind, Quality, quality_of


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (0x00000000, "Good"),
        (0x00A60000, "Good"),
        (0x40000000, "Uncertain"),
        (0x408F0000, "Uncertain"),
        (0x80000000, "Bad"),
        (0x80340000, "Bad"),
        (0xC0000000, "Bad"),
        (0xFFFFFFFF, "Bad"),
    ],
)
def test_a_status_has_the_quality_of_its_top_two_bits(status: int, label: str) -> None:
    assert quality_of(status).label == label


@given(st.integers(0, 2**32 - 1))
def test_a_status_reads_the_same_signed_and_unsigned(status: int) -> None:
    """The database holds the same 32 bits as a signed integer."""
    signed = int(np.uint32(status).view(np.int32))
    assert quality_of(signed) is quality_of(status)
    assert quality_of(status) is [Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD][status >> 30]


def test_the_columns_are_those_of_the_table() -> None:
    assert READING_COLUMNS == ("ts", "tag_id", "status", "value", "text_value")


def test_null_is_neither_number_nor_text_and_both_can_be_there() -> None:
    assert not Kind.NULL
    assert Kind.NUMBER | Kind.TEXT == 3


def test_a_batch_is_as_long_as_its_columns_and_cannot_be_changed() -> None:
    batch = Batch(*(np.zeros(3, np.int64) for _ in range(5)))  # type: ignore[arg-type]
    assert len(batch) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.ts_us = batch.ts_us  # type: ignore[misc]
