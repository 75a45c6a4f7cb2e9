"""One element of an array as the reading: what decode_publish picks, compared with the reference codec."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Ring, decode_publish
from engine.readings import Kind, RawBatch
from engine.variants import text_of
from tests.engine.reference_codec import (
    BAD_INDEX_RANGE_NO_DATA,
    Item,
    Message,
    Variant,
    data_change,
    data_value,
    encode,
    expected,
    picked,
    string,
    variant,
)
from tests.engine.strategies import items, variants
from tests.engine.test_fastpath_decode import RECEIVED_US, SLOTS, rows_of, same
from tests.engine.test_fastpath_malformed import exact


def decode(values: list[Item], elements: list[int] | None) -> RawBatch:
    """Decode one message with these items."""
    ring = Ring(1_000)
    picks = None if elements is None else np.array(elements, np.int32)
    message = exact(encode(Message([data_change(values)])))
    decode_publish(message, ring, np.array(SLOTS, np.uint32), RECEIVED_US, picks)
    return ring.drain(1_000)


def element(value: Variant, place: int, status: int | None = None) -> RawBatch:
    """Return the reading that one element is."""
    return decode([Item(0, value, status)], [place])


@settings(max_examples=200, deadline=None)
@given(values=st.lists(items, max_size=8), elements=st.lists(st.integers(-1, 6), max_size=12))
def test_every_element_gives_the_row_and_the_text_that_the_reference_expects(
    values: list[Item], elements: list[int]
) -> None:
    batch = decode(values, elements)
    assert same(rows_of(batch), expected(values, SLOTS, RECEIVED_US, elements))
    ours = [each for each in values if each.handle < len(SLOTS) and SLOTS[each.handle] != 0xFFFFFFFF]
    for row, text in batch.texts.items():
        item = ours[row]
        value, _ = picked(item.value, elements[item.handle] if item.handle < len(elements) else -1)
        assert value is not None
        assert text == text_of(variant(value))


@pytest.mark.parametrize(
    ("value", "place", "number"),
    [
        (Variant(11, [0.5, 1.5, 2.5]), 2, 2.5),
        (Variant(1, [False, True]), 1, 1.0),
        (Variant(2, [-1, -2]), 1, -2.0),
        (Variant(5, [1, 65535]), 1, 65535.0),
        (Variant(8, [1, -(2**53)]), 1, -(2.0**53)),
        (Variant(13, [0, 116_444_736_010_000_000]), 1, 1.0),
        (Variant(19, [0, 0x80350000]), 1, float(0x80350000)),
        (Variant(6, [1, 2, 3, 4, 5, 6], [2, 3]), 4, 5.0),
        (Variant(24, [Variant(12, b"x"), Variant(7, 9)]), 1, 9.0),
        (Variant(15, b"\x00\xff"), 1, 255.0),
        (Variant(11, [7.5]), 3, 7.5),
        (Variant(15, b"\x07"), 3, 7.0),
    ],
)
def test_an_element_that_is_a_number_becomes_the_value(value: Variant, place: int, number: float) -> None:
    batch = element(value, place, 0x40000000)
    assert batch.kind[0] == Kind.NUMBER
    assert batch.value[0] == number
    assert batch.status[0] == 0x40000000


@pytest.mark.parametrize(
    ("value", "place", "text"),
    [
        (Variant(12, [b"a", b"", b"c"]), 2, "c"),
        (Variant(12, [b"a", b""]), 1, ""),
        (Variant(21, [b"\x00", b"\x03" + string(b"en") + string(b"label")]), 1, "label"),
        (Variant(14, [bytes(16), bytes(16)]), 1, "00000000-0000-0000-0000-000000000000"),
        (Variant(15, [b"", b"\x01"]), 1, "AQ=="),
        (Variant(17, [b"\x00\x01", b"\x00\x55"]), 1, "i=85"),
        (Variant(24, [Variant(0), Variant(6, [1, 2])]), 1, "[1,2]"),
        (Variant(23, [data_value(Item(0)), data_value(Item(0, Variant(6, 5)))]), 1, '{"Value":5}'),
    ],
)
def test_an_element_that_is_no_number_becomes_the_text(value: Variant, place: int, text: str) -> None:
    batch = element(value, place)
    assert batch.kind[0] == Kind.TEXT
    assert batch.texts == {0: text}


def test_an_integer_element_that_a_double_cannot_hold_keeps_its_digits() -> None:
    batch = element(Variant(9, [1, 2**64 - 1]), 1)
    assert batch.kind[0] == Kind.NUMBER | Kind.TEXT
    assert batch.texts == {0: "18446744073709551615"}


@pytest.mark.parametrize(
    "value", [Variant(12, [None, None]), Variant(24, [Variant(0), Variant(0)]), Variant(0)]
)
def test_a_null_element_is_a_null_reading_with_the_status_of_the_server(value: Variant) -> None:
    batch = element(value, 1, 0x40000000)
    assert batch.kind[0] == Kind.NULL
    assert batch.status[0] == 0x40000000


@pytest.mark.parametrize(
    "value",
    [
        Variant(11, [1.0, 2.0]),
        Variant(11, []),
        Variant(12, [b"a", b"b"]),
        Variant(6, [1, 2, 3, 4], [2, 2]),
        Variant(15, b"ab"),
        Variant(15, None),
        Variant(11, 1.0),
        Variant(12, b"text"),
        Variant(23, data_value(Item(0, Variant(6, 5)))),
    ],
)
def test_an_element_that_is_not_there_is_a_null_with_that_status(value: Variant) -> None:
    batch = element(value, 7)
    assert batch.kind[0] == Kind.NULL
    assert batch.status[0] == BAD_INDEX_RANGE_NO_DATA
    assert batch.texts == {}


def test_a_null_array_has_no_elements() -> None:
    null_array = b"\x8b" + struct.pack("<i", -1)
    item = struct.pack("<I", 0) + b"\x01" + null_array
    message = encode(Message([data_change([Item(0, Variant(1, True))])])).replace(
        struct.pack("<I", 0) + b"\x01\x01\x01", item
    )
    # The body of the notification has grown by what the value has.
    grown = len(item) - 7
    body = struct.pack("<i", 4 + 7 + 4)
    message = message.replace(body, struct.pack("<i", 4 + 7 + 4 + grown), 1)
    ring = Ring(1)
    decode_publish(message, ring, np.zeros(1, np.uint32), RECEIVED_US, np.array([2], np.int32))
    batch = ring.drain(1)
    assert (batch.kind[0], batch.status[0]) == (Kind.NULL, BAD_INDEX_RANGE_NO_DATA)


def test_a_bad_status_of_the_server_stays_when_the_element_is_not_there() -> None:
    assert element(Variant(11, []), 0, 0x80320000).status[0] == 0x80320000


def test_without_a_table_or_beyond_its_end_values_are_whole() -> None:
    value = Variant(6, [1, 2])
    for elements in (None, [], [-1], [-5]):
        assert decode([Item(0, value)], elements).texts == {0: "[1,2]"}


@settings(max_examples=100, deadline=None)
@given(value=variants, place=st.integers(0, 2**31 - 1))
def test_any_element_of_any_value_is_answered(value: Variant, place: int) -> None:
    assert len(element(value, place)) == 1
