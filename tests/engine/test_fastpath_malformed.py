"""decode_publish on bytes that break Part 6: always MalformedMessage with a place, never a change to the ring."""

from __future__ import annotations

import base64
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Ring, decode_publish
from engine.errors import MalformedMessage
from tests.engine import reference_decoder
from tests.engine.reference_codec import (
    Item,
    Message,
    Variant,
    data_change,
    encode,
    event_list,
    extension_object,
    header,
    numeric_node_id,
    status_change,
    string,
    variant,
)
from tests.engine.strategies import traffic
from tests.engine.test_fastpath_decode import RECEIVED_US, SLOTS, rows_of, same

ITEMS = [
    Item(0, Variant(11, 1.5), 0, 133_000_000_000_000_000, 1, 133_000_000_000_000_000, 2),
    Item(1, Variant(12, b"text")),
    Item(2, Variant(6, [1, 2, 3, 4], [2, 2])),
    Item(4, Variant(24, [Variant(21, b"\x03" + string(b"en") + string(b"label")), Variant(0)])),
    Item(5, Variant(22, extension_object(b"\x04\x01\x00" + bytes(16), b"body"))),
    Item(6, Variant(18, b"\xc3\x01\x00" + string(b"id") + string(b"urn:x") + bytes(4))),
    Item(7, Variant(25, b"\x7f" + bytes(16) + string(b"info") + bytes(4) + b"\x00")),
]
WHOLE = encode(
    Message(
        [data_change(ITEMS), event_list([[Variant(11, 1.0)]]), status_change(0)],
        available=[1, 2],
        results=[0],
        string_table=[b"a", None],
        diagnostics=[b"\x01" + bytes(4)],
    )
)


def exact(message: bytes) -> memoryview:
    """Return the bytes in memory of just their size: bytes objects have a NUL behind them, where a read by one byte
    too many would go unseen by an address sanitizer (docs/development.md)."""
    return np.frombuffer(message, np.uint8).copy().data


def refused(message: bytes, *, capacity_rows: int = 1_000) -> MalformedMessage:
    """Return the error that the message makes, after checking that it changed nothing."""
    ring = Ring(capacity_rows)
    with pytest.raises(MalformedMessage) as caught:
        decode_publish(exact(message), ring, np.array(SLOTS, np.uint32), RECEIVED_US)
    assert 0 <= caught.value.offset <= len(message)
    assert len(ring) == 0
    assert ring.drain(10).texts == {}
    return caught.value


def of_value(encoded: bytes) -> bytes:
    """Return a message with one item whose DataValue holds these bytes as its Variant."""
    item = struct.pack("<IB", 0, 1) + encoded
    return encode(
        Message([extension_object(numeric_node_id(811), struct.pack("<i", 1) + item + struct.pack("<i", -1))])
    )


def test_a_message_cut_off_at_any_byte_is_malformed() -> None:
    for size in range(len(WHOLE)):
        refused(WHOLE[:size])


def test_a_byte_behind_the_message_is_malformed() -> None:
    assert "1 bytes behind the end" in str(refused(WHOLE + b"\x00"))


@settings(max_examples=100, deadline=None)
@given(case=traffic(), data=st.data())
def test_on_changed_bytes_the_decoder_and_the_reference_agree(
    case: tuple[Message, list[Item]], data: st.DataObject
) -> None:
    message = bytearray(encode(case[0]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.sampled_from([0, 1, 2, 0x40, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    _agree(bytes(message))


def test_on_every_change_of_one_byte_the_decoder_and_the_reference_agree() -> None:
    for place in range(len(WHOLE)):
        for byte in (0x00, 0x01, 0x40, 0x7F, 0x80, 0xC0, 0xFF, WHOLE[place] ^ 0x02):
            _agree(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=200))
def test_on_noise_the_decoder_and_the_reference_agree(noise: bytes) -> None:
    _agree(noise)
    _agree(WHOLE[:40] + noise)


def _agree(message: bytes) -> None:
    ring = Ring(1_000)
    try:
        rows = reference_decoder.decode(message, SLOTS, RECEIVED_US)
    except reference_decoder.Broken:
        refused(message)
        return
    decode_publish(exact(message), ring, np.array(SLOTS, np.uint32), RECEIVED_US)
    assert same(rows_of(ring.drain(1_000)), rows)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"\x0c" + struct.pack("<i", -2), "length -2"),
        (b"\x0c" + struct.pack("<i", 2**31 - 1), "length 2147483647"),
        (b"\x0f" + struct.pack("<i", -(2**31)), "length -2147483648"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1), "array of 2147483647"),
        (b"\x8b" + struct.pack("<i", -2), "array of -2"),
        (b"\x98" + struct.pack("<i", 1_000), "array of 1000"),
        (b"\x80" + struct.pack("<i", 2**31 - 1), "array without a type"),
        (b"\x18\x0b" + bytes(8), "single Variant"),
        (b"\x20", "type 32"),
        (b"\x4b" + bytes(8), "dimensions but is no array"),
        (variant(Variant(6, [1, 2], [2, 0])), "dimension 0"),
        (variant(Variant(6, [1, 2], [-1, -2])), "dimension -1"),
        (variant(Variant(6, [1, 2], [3])), "length 2"),
        (variant(Variant(6, [1, 2, 3, 4], [65536, 65536, 65536, 65536])), "length 4"),
        (variant(Variant(6, [], [1])), "length 0"),
        (b"\x11\x06", "NodeId encoding 0x06"),
        (b"\x11\x80" + bytes(9), "NodeId encoding 0x80"),
        (b"\x15\x04", "LocalizedText mask"),
        (b"\x16\x00\x00\x03", "ExtensionObject encoding 3"),
        (b"\x17\x40", "DataValue mask"),
        (b"\x19\x80", "DiagnosticInfo mask"),
    ],
)
def test_a_value_that_breaks_part_6_is_refused_with_the_reason(encoded: bytes, why: str) -> None:
    assert why in str(refused(of_value(encoded)))


@pytest.mark.parametrize("mask", [0x40, 0x80, 0xC1])
def test_an_unknown_bit_in_the_mask_of_a_value_is_refused(mask: int) -> None:
    item = struct.pack("<IB", 0, mask) + bytes(40)
    message = encode(
        Message([extension_object(numeric_node_id(811), struct.pack("<i", 1) + item + struct.pack("<i", -1))])
    )
    assert f"mask {mask:#04x}" in str(refused(message))


def _nested_variants(levels: int) -> bytes:
    return b"\x98\x01\x00\x00\x00" * (levels - 1) + b"\x0b" + bytes(8)


def _nested_data_values(levels: int) -> bytes:
    # Variant, DataValue, Variant ...: two levels each time.
    return b"\x17\x01" * ((levels - 1) // 2) + b"\x06" + bytes(4)


def _nested_diagnostics(levels: int) -> bytes:
    return b"\x19" + b"\x40" * (levels - 2) + b"\x00"


@pytest.mark.parametrize("nest", [_nested_variants, _nested_data_values, _nested_diagnostics])
def test_a_hundred_levels_of_nesting_are_read_and_more_are_refused(nest: object) -> None:
    assert callable(nest)
    ring = Ring(1)
    decode_publish(of_value(nest(99)), ring, np.array([0], np.uint32), 0)
    assert len(ring.drain(1).texts[0]) > 90
    assert "nested" in str(refused(of_value(nest(103))))
    assert "nested" in str(refused(of_value(nest(1_000_001))))


def test_deep_nesting_of_diagnostics_in_the_header_is_refused() -> None:
    assert "nested" in str(refused(encode(Message(None, header_diagnostics=b"\x40" * 1_000_000 + b"\x00"))))


def test_a_notification_cannot_read_past_its_own_body() -> None:
    notification = bytearray(data_change([Item(0, Variant(11, 1.0))]))
    length = struct.unpack_from("<i", notification, 5)[0]
    struct.pack_into("<i", notification, 5, length - 4)
    assert "4 bytes expected, 0 left" in str(refused(encode(Message([bytes(notification)]))))


def test_bytes_behind_a_notification_in_its_body_are_refused() -> None:
    message = encode(Message([data_change([Item(0, Variant(11, 1.0))], tail=b"\x00\x00")]))
    assert "2 bytes behind the end of a notification" in str(refused(message))


def test_a_good_notification_before_a_bad_one_is_not_kept() -> None:
    bad = data_change([Item(1, Variant(12, b"text"))], tail=b"\x00")
    refused(encode(Message([data_change(ITEMS), bad])))


def test_more_values_than_the_ring_can_ever_hold_are_refused_with_both_numbers() -> None:
    message = encode(Message([data_change([Item(0, Variant(11, 1.0))] * 7), data_change([Item(0)] * 4)]))
    assert "11 values in one message, the ring holds 10" in str(refused(message, capacity_rows=10))


@pytest.mark.parametrize(
    "type_id",
    [numeric_node_id(830), numeric_node_id(9, 0), b"\x01\x01\x3d\x03", b"\x03\x00\x00" + string(b"x")],
)
def test_any_other_message_type_is_refused(type_id: bytes) -> None:
    assert "not an answer to a publish request" in str(refused(header(Message(None, type_id=type_id))))


def test_an_empty_message_is_refused() -> None:
    assert refused(b"").offset == 0


def dimensions(*sizes: int) -> bytes:
    """Encode ArrayDimensions."""
    return struct.pack(f"<i{len(sizes)}i", len(sizes), *sizes)


def booleans(count: int) -> bytes:
    """Encode a Variant that is an array of Booleans with dimensions, up to those."""
    return b"\xc1" + struct.pack("<i", count) + bytes(count)


def test_an_array_of_many_dimensions_of_one_is_refused_before_it_fills_the_memory() -> None:
    error = refused(of_value(booleans(4_000) + dimensions(4_000, *[1] * 4_000)))
    assert "4001 array dimensions for 4000 elements" in str(error)
    # One column is a matrix like any other.
    decode_publish(
        of_value(booleans(4_000) + dimensions(4_000, 1)), Ring(1), np.array(SLOTS, np.uint32), RECEIVED_US
    )


def test_arrays_nested_too_deep_for_json_keep_their_bytes() -> None:
    nested = b"\x01\x01"
    for _ in range(20):
        nested = b"\xd8" + struct.pack("<i", 1) + nested + dimensions(*[1] * 30)
    ring = Ring(1)
    decode_publish(of_value(nested), ring, np.array([0], np.uint32), 0)
    assert orjson.loads(ring.drain(1).texts[0]) == {"Variant": base64.b64encode(nested).decode()}
