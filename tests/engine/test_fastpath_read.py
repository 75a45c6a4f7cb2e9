"""decode_read: what a read response puts into the ring, compared with the reference codec."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import ReadAnswer, Ring, decode_read
from engine.errors import MalformedMessage
from engine.outcomes import Outcome
from engine.readings import Kind, RawBatch
from tests.engine.reference_codec import (
    NOT_OURS,
    Item,
    Message,
    Variant,
    array,
    expected,
    header,
    numeric_node_id,
    read_response,
)
from tests.engine.strategies import diagnostic_infos, items
from tests.engine.test_fastpath_decode import RECEIVED_US, rows_of, same
from tests.engine.test_fastpath_malformed import exact

number: Any = int


def read(
    message: bytes, slots: list[int], elements: list[int] | None = None, ring: Ring | None = None
) -> tuple[ReadAnswer, RawBatch]:
    """Decode into a ring of its own, unless one is given, and drain it."""
    ring = ring or Ring(1_000)
    picks = None if elements is None else np.array(elements, np.int32)
    answer = decode_read(exact(message), ring, np.array(slots, np.uint32), RECEIVED_US, picks)
    return answer, ring.drain(ring.capacity_rows)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(items, max_size=8),
    elements=st.none() | st.lists(st.integers(-1, 6), min_size=8, max_size=8),
    diagnostics=st.none() | st.lists(diagnostic_infos, max_size=2),
    unwanted=st.integers(0, 7),
)
def test_every_value_gives_the_row_that_the_reference_expects(
    values: list[Item], elements: list[int] | None, diagnostics: list[bytes] | None, unwanted: int
) -> None:
    slots = [NOT_OURS if place == unwanted else 100 - place for place in range(len(values))]
    answer, batch = read(read_response(values, tail=array(diagnostics)), slots, elements)
    placed = [replace(value, handle=place) for place, value in enumerate(values)]
    rows = expected(placed, slots, RECEIVED_US, elements)
    assert same(rows_of(batch), rows)
    assert (answer.outcome, answer.service_result, answer.rows) == (Outcome.DATA, 0, len(rows))


def test_an_answer_as_the_serializer_of_asyncua_writes_it_is_understood() -> None:
    when: Any = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    response = ua.ReadResponse()
    response.Results = [
        ua.DataValue(ua.Variant(2.5), SourceTimestamp=when),
        ua.DataValue(StatusCode=ua.StatusCode(number(StatusCodes.BadNodeIdUnknown))),
        ua.DataValue(ua.Variant("text"), ServerTimestamp=when),
    ]
    answer, batch = read(bytes(struct_to_binary(response)), [4, 5, 6])
    assert answer.rows == 3
    assert batch.slot.tolist() == [4, 5, 6]
    assert batch.kind.tolist() == [Kind.NUMBER, Kind.NULL, Kind.TEXT]
    assert batch.status.tolist() == [0, StatusCodes.BadNodeIdUnknown, 0]
    assert batch.texts == {2: "text"}
    assert batch.ts_us[0] == int(when.timestamp()) * 1_000_000 + 123456
    assert batch.ts_us[1] == RECEIVED_US


def test_a_full_ring_takes_nothing() -> None:
    ring = Ring(2)
    message = read_response([Item(0, Variant(11, 1.0)), Item(1, Variant(12, b"x"))])
    slots = np.array([0, 1], np.uint32)
    assert decode_read(message, ring, slots, RECEIVED_US).rows == 2
    answer = decode_read(message, ring, slots, RECEIVED_US)
    assert (answer.outcome, answer.rows, len(ring)) == (Outcome.RING_FULL, 0, 2)
    assert ring.drain(2).texts == {1: "x"}


@pytest.mark.parametrize("type_id", [634, 397])
def test_a_bad_result_is_a_fault_whatever_follows(type_id: int) -> None:
    message = header(Message(None, service_result=0x80130000, type_id=numeric_node_id(type_id))) + b"\xff"
    answer, batch = read(message, [0])
    assert (answer.outcome, answer.service_result, len(batch)) == (Outcome.FAULT, 0x80130000, 0)


@pytest.mark.parametrize("values", [0, 1, 3])
def test_another_number_of_values_than_was_asked_for_is_refused(values: int) -> None:
    with pytest.raises(MalformedMessage, match=f"{values} results where 2 nodes"):
        read(read_response([Item(0)] * values), [0, 1])


def test_a_text_maker_of_ones_own_is_given_the_encoded_variant_and_its_error_leaves_the_ring_unchanged() -> (
    None
):
    ring = Ring(10)
    message = read_response([Item(0, Variant(12, b"x")), Item(0, Variant(6, [1, 2]))])
    slots = np.array([0, 1], np.uint32)
    decode_read(message, ring, slots, RECEIVED_US, None, lambda encoded: encoded.hex())
    assert ring.drain(2).texts == {0: "0c0100000078", 1: "86020000000100000002000000"}
    with pytest.raises(ZeroDivisionError):
        decode_read(message, ring, slots, RECEIVED_US, text_of=lambda encoded: str(len(encoded) // 0))
    assert len(ring) == 0
