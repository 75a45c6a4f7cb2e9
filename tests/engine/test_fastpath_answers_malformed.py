"""Answers to reads, history reads and item creations that break Part 6: refused with a place, and nothing changes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Ring, decode_created_items, decode_history, decode_read, measure
from engine.errors import MalformedMessage
from tests.engine import reference_decoder
from tests.engine.reference_codec import (
    History,
    Item,
    Message,
    Variant,
    array,
    data_value,
    element,
    extension_object,
    header,
    history_response,
    numeric_node_id,
    read_response,
    string,
)
from tests.engine.strategies import FIXED_VALUES, STRUCTURES, diagnostic_infos
from tests.engine.test_fastpath_decode import RECEIVED_US, rows_of, same
from tests.engine.test_fastpath_items import columns, created
from tests.engine.test_fastpath_malformed import ITEMS, exact

SLOTS = [5, 6, 0xFFFFFFFF, 8, 9, 10, 11]
ELEMENTS = np.array([-1, 0, 3, 1, 0, -1, 2], np.int32)
AFTER_US, BEFORE_US = [-(2**62), 0], [2**62, RECEIVED_US]
DIAGNOSTICS = array([b"\x01" + bytes(4)])


def read(message: bytes, ring: Ring, elements: Any = None) -> object:
    """Decode a read response."""
    return decode_read(exact(message), ring, np.array(SLOTS, np.uint32), RECEIVED_US, elements)


def history(message: bytes, ring: Ring, elements: Any = None) -> object:
    """Decode a history answer for two nodes."""
    after_us, before_us = np.array(AFTER_US), np.array(BEFORE_US)
    slots = np.array(SLOTS[:2], np.uint32)
    return decode_history(exact(message), ring, slots, after_us, before_us, RECEIVED_US, elements)


def items(message: bytes, _ring: Ring, _elements: Any = None) -> object:
    """Decode what became of two items, and check that nothing changes with an error."""
    arrays = columns(2)
    try:
        return decode_created_items(exact(message), *arrays), [column.tolist() for column in arrays]
    except MalformedMessage:
        assert all((column == 7).all() for column in arrays)
        raise


def read_reference(message: bytes) -> object:
    """Return what the plain decoder makes of a read response."""
    return reference_decoder.decode_read(message, SLOTS, RECEIVED_US)


def history_reference(message: bytes) -> object:
    """Return what the plain decoder makes of a history answer."""
    return reference_decoder.decode_history(message, SLOTS[:2], AFTER_US, BEFORE_US, RECEIVED_US)


def items_reference(message: bytes) -> object:
    """Return what the plain decoder makes of what became of two items."""
    found = reference_decoder.decode_created(message, 2)
    return [list(column) for column in zip(*found, strict=True)] if found else None


@dataclass(frozen=True)
class Answer:
    """A whole answer, its decoder, and the plain one."""

    name: str
    whole: bytes
    decode: Callable[..., object]
    reference: Callable[[bytes], object]


RESULT = (0x80340000, 1, 100.0, 5, extension_object(numeric_node_id(737), bytes(16)))
ANSWERS = [
    Answer("read", read_response(ITEMS, tail=DIAGNOSTICS), read, read_reference),
    Answer(
        "history",
        history_response([History(ITEMS, 0, b"more"), History([Item(0)])], tail=DIAGNOSTICS),
        history,
        history_reference,
    ),
    Answer("items", created([RESULT, RESULT], tail=DIAGNOSTICS), items, items_reference),
]
each_answer = pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)


def refused(answer: Answer, message: bytes, elements: Any = None) -> MalformedMessage:
    """Return the error that the message makes, after checking that it changed nothing."""
    ring = Ring(1_000)
    with pytest.raises(MalformedMessage) as caught:
        answer.decode(message, ring, elements)
    assert 0 <= caught.value.offset <= len(message)
    assert len(ring) == 0
    assert ring.drain(10).texts == {}
    return caught.value


def agree(answer: Answer, message: bytes) -> None:
    """Check that both decoders refuse a message, or find the same in it."""
    try:
        expected = answer.reference(message)
    except reference_decoder.Broken:
        refused(answer, message)
        return
    ring = Ring(1_000)
    found = answer.decode(message, ring)
    if answer.name == "items":
        assert expected is None or repr(found[1]) == repr(expected)  # type: ignore[index]
    else:
        assert same(rows_of(ring.drain(1_000)), expected)  # type: ignore[arg-type]


@each_answer
@pytest.mark.parametrize("elements", [None, ELEMENTS], ids=["whole", "elements"])
def test_an_answer_cut_off_at_any_byte_is_refused(answer: Answer, elements: Any) -> None:
    answer.decode(answer.whole, Ring(1_000), elements)
    for size in range(len(answer.whole)):
        refused(answer, answer.whole[:size], elements)


@each_answer
def test_bytes_behind_the_end_are_refused(answer: Answer) -> None:
    assert "1 bytes behind the end of the message" in str(refused(answer, answer.whole + b"\x00"))


@each_answer
def test_on_every_change_of_one_byte_the_decoder_and_the_reference_agree(answer: Answer) -> None:
    whole = answer.whole
    for place in range(len(whole)):
        for byte in (0x00, 0x01, 0x40, 0x7F, 0x80, 0xC0, 0xFF, whole[place] ^ 0x02):
            agree(answer, whole[:place] + bytes([byte]) + whole[place + 1 :])


@each_answer
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_on_changed_bytes_the_decoder_and_the_reference_agree(answer: Answer, data: st.DataObject) -> None:
    message = bytearray(answer.whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.sampled_from([0, 1, 2, 0x40, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    agree(answer, bytes(message))
    with_elements = Ring(1_000)
    try:
        answer.decode(bytes(message), with_elements, ELEMENTS)
    except MalformedMessage:
        assert len(with_elements) == 0


@each_answer
@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=200))
def test_on_noise_the_decoder_and_the_reference_agree(answer: Answer, noise: bytes) -> None:
    agree(answer, noise)
    agree(answer, answer.whole[:32] + noise)


@each_answer
@pytest.mark.parametrize("count", [2**31 - 1, -2, -(2**31), 3])
def test_a_huge_or_negative_count_of_results_is_refused(answer: Answer, count: int) -> None:
    head = header(Message(None)).__len__()
    assert answer.whole[head : head + 4] in (struct.pack("<i", 7), struct.pack("<i", 2))
    refused(answer, answer.whole[:head] + struct.pack("<i", count) + answer.whole[head + 4 :])


@each_answer
@pytest.mark.parametrize(
    "type_id", [numeric_node_id(829), b"\x01\x01\x7a\x02", b"\x03\x00\x00" + string(b"x")]
)
def test_any_other_message_type_is_refused(answer: Answer, type_id: bytes) -> None:
    message = header(Message(None, type_id=type_id)) + answer.whole[len(header(Message(None))) :]
    assert "is not an answer to a" in str(refused(answer, message))


def test_a_huge_count_of_values_in_a_history_is_refused_before_anything_is_made() -> None:
    for count in (2**31 - 1, -2, 3):
        body = struct.pack("<i", count) + b"\x00\x00"
        result = struct.pack("<I", 0) + string(None) + extension_object(numeric_node_id(658), body)
        message = header(Message(None, type_id=numeric_node_id(667))) + array([result, result]) + array(None)
        assert f"array of {count} elements" in str(refused(ANSWERS[1], message))


def test_a_history_cannot_read_past_its_own_body() -> None:
    body = struct.pack("<i", 1) + data_value(Item(0, Variant(11, 1.0)))
    for cut in (body[:-1], body + b"\x00"):
        result = struct.pack("<I", 0) + string(None) + extension_object(numeric_node_id(658), cut)
        message = header(Message(None, type_id=numeric_node_id(667))) + array([result, result]) + array(None)
        refused(ANSWERS[1], message)


@pytest.mark.parametrize("elements", [None, np.zeros(7, np.int32)], ids=["whole", "elements"])
def test_deep_nesting_is_refused(elements: Any) -> None:
    deep = b"\x98\x01\x00\x00\x00" * 1_000_000 + b"\x01\x00"
    head = header(Message(None, type_id=numeric_node_id(634)))
    message = head + array([b"\x01" + deep, *[b"\x00"] * 6]) + array(None)
    assert "nested" in str(refused(ANSWERS[0], message, elements))


def test_more_history_than_the_ring_can_ever_hold_is_refused_with_both_numbers() -> None:
    message = history_response([History([Item(0)] * 7), History(None)])
    with pytest.raises(MalformedMessage, match="7 values in one message, the ring holds 6"):
        history(message, Ring(6))


every_type = st.sampled_from(sorted({**FIXED_VALUES, **STRUCTURES}.keys() - {27})).flatmap(
    lambda built_in: st.tuples(st.just(built_in), {**FIXED_VALUES, **STRUCTURES}[built_in])
)


@settings(max_examples=200, deadline=None)
@given(value=every_type, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_a_value_measures_what_the_reference_writes(
    value: tuple[int, Any], before: bytes, after: bytes
) -> None:
    encoded = element(*value)
    end = len(before) + len(encoded)
    assert measure(exact(before + encoded + after), len(before), value[0]) == end
    for size in range(len(before), end):
        with pytest.raises(MalformedMessage):
            measure(exact((before + encoded)[:size]), len(before), value[0])


@settings(max_examples=50, deadline=None)
@given(info=diagnostic_infos)
def test_values_that_nest_count_the_levels_around_them(info: bytes) -> None:
    assert measure(info, 0, 25, 1) == len(info)
    with pytest.raises(MalformedMessage, match="nested"):
        measure(info, 0, 25, 101)


@pytest.mark.parametrize(("offset", "built_in"), [(-1, 1), (5, 1), (0, 0), (0, 26), (0, -1)])
def test_measuring_nothing_is_an_error_of_the_caller(offset: int, built_in: int) -> None:
    with pytest.raises(ValueError, match=r"offset|built_in"):
        measure(bytes(4), offset, built_in)
