"""decode_history: what a history answer puts into the ring, compared with the reference codec."""

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

from engine._fastpath import HistoryAnswer, Ring, decode_history
from engine.errors import MalformedMessage
from engine.outcomes import Outcome
from engine.readings import RawBatch
from tests.engine.reference_codec import (
    NOT_OURS,
    History,
    Item,
    Message,
    Variant,
    array,
    expected,
    extension_object,
    header,
    history_response,
    numeric_node_id,
    string,
    ts_us_of,
)
from tests.engine.strategies import UINT32, diagnostic_infos, items
from tests.engine.test_fastpath_decode import RECEIVED_US, TICKS, rows_of, same
from tests.engine.test_fastpath_malformed import exact

EVER = -(2**63), 2**63 - 1
number: Any = int


def history(
    message: bytes,
    slots: list[int],
    windows: list[tuple[int, int]] | None = None,
    elements: list[int] | None = None,
    ring: Ring | None = None,
) -> tuple[HistoryAnswer, RawBatch]:
    """Decode into a ring of its own, unless one is given, and drain it."""
    ring = ring or Ring(1_000)
    windows = windows or [EVER] * len(slots)
    answer = decode_history(
        exact(message),
        ring,
        np.array(slots, np.uint32),
        np.array([after for after, _ in windows], np.int64),
        np.array([before for _, before in windows], np.int64),
        RECEIVED_US,
        None if elements is None else np.array(elements, np.int32),
    )
    return answer, ring.drain(ring.capacity_rows)


def at(seconds: int, value: float = 1.0) -> Item:
    """Return a value some seconds after a fixed time."""
    return Item(0, Variant(11, value), source=TICKS + seconds * 10_000_000)


histories = st.builds(
    History,
    values=st.none() | st.lists(items, max_size=5),
    status=UINT32,
    continuation_point=st.none() | st.binary(min_size=1, max_size=8),
)
times = st.sampled_from([EVER[0], -1, RECEIVED_US, RECEIVED_US + 1, EVER[1]])


@settings(max_examples=100, deadline=None)
@given(
    results=st.lists(histories, max_size=5),
    windows=st.lists(st.tuples(times, times), min_size=5, max_size=5),
    elements=st.none() | st.lists(st.integers(-1, 6), min_size=5, max_size=5),
    diagnostics=st.none() | st.lists(diagnostic_infos, max_size=2),
    unwanted=st.integers(0, 9),
)
def test_every_result_gives_the_rows_that_the_reference_expects(
    results: list[History],
    windows: list[tuple[int, int]],
    elements: list[int] | None,
    diagnostics: list[bytes] | None,
    unwanted: int,
) -> None:
    slots = [NOT_OURS if place == unwanted else 100 - place for place in range(len(results))]
    windows = windows[: len(results)]
    answer, batch = history(history_response(results, tail=array(diagnostics)), slots, windows, elements)
    rows = []
    for place, (result, (after_us, before_us)) in enumerate(zip(results, windows, strict=True)):
        values = [replace(value, handle=place) for value in result.values or []]
        kept = [
            row for row in expected(values, slots, RECEIVED_US, elements) if after_us < row.ts_us < before_us
        ]
        rows += kept
        found = answer.results[place]
        assert (found.status, found.continuation_point) == (result.status, result.continuation_point)
        assert (found.rows, found.seen) == (len(kept), len(values))
        assert found.newest_us == max((ts_us_of(value, RECEIVED_US) for value in values), default=0)
    assert same(rows_of(batch), rows)
    assert (answer.outcome, answer.rows, len(answer.results)) == (Outcome.DATA, len(rows), len(results))


def test_only_values_between_the_two_times_of_their_node_become_rows() -> None:
    first = RECEIVED_US
    message = history_response([History([at(n, n) for n in range(6)]), History([at(n) for n in range(6)])])
    answer, batch = history(
        message, [1, 2], [(first + 1_000_000, first + 4_000_000), (first + 5_000_000, EVER[1])]
    )
    assert batch.value.tolist() == [2.0, 3.0]
    assert [(each.rows, each.seen, each.newest_us) for each in answer.results] == [
        (2, 6, first + 5_000_000),
        (0, 6, first + 5_000_000),
    ]


def test_the_texts_of_values_outside_are_not_given_to_those_inside() -> None:
    values = [replace(at(n), value=Variant(12, str(n).encode())) for n in range(3)]
    _, batch = history(history_response([History(values)]), [1], [(RECEIVED_US, RECEIVED_US + 2_000_000)])
    assert batch.texts == {0: "1"}


def test_other_kinds_of_history_are_passed_over() -> None:
    head = header(Message(None, type_id=numeric_node_id(667)))
    bodies = [
        extension_object(numeric_node_id(658), b"<xml/>", 2),
        extension_object(numeric_node_id(11227), b"\x01\x02"),
        extension_object(b"\x03\x02\x00" + string(b"own"), b"\x01\x02"),
        extension_object(numeric_node_id(658), array(None)),
    ]
    message = head + array([bytes(4) + string(b"") + body for body in bodies]) + array(None)
    answer, batch = history(message, [1, 2, 3, 4])
    assert len(batch) == 0
    assert [(each.seen, each.newest_us, each.continuation_point) for each in answer.results] == [
        (0, 0, None)
    ] * 4


def test_an_answer_as_the_serializer_of_asyncua_writes_it_is_understood() -> None:
    when: Any = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    data = ua.HistoryData(
        DataValues=[ua.DataValue(ua.Variant(float(n)), SourceTimestamp=when) for n in range(3)]
    )
    response = ua.HistoryReadResponse()
    response.Results = [
        ua.HistoryReadResult(
            StatusCode=ua.StatusCode(number(StatusCodes.GoodMoreData)),
            ContinuationPoint=b"more",
            HistoryData=data,
        ),
        ua.HistoryReadResult(StatusCode=ua.StatusCode(number(StatusCodes.BadNodeIdUnknown))),
    ]
    answer, batch = history(bytes(struct_to_binary(response)), [4, 5])
    assert batch.value.tolist() == [0.0, 1.0, 2.0]
    assert batch.slot.tolist() == [4, 4, 4]
    assert [each.status for each in answer.results] == [
        StatusCodes.GoodMoreData,
        StatusCodes.BadNodeIdUnknown,
    ]
    assert [each.continuation_point for each in answer.results] == [b"more", None]


def test_a_full_ring_takes_nothing_and_keeps_no_continuation_points() -> None:
    ring = Ring(3)
    message = history_response([History([at(0), at(1)], continuation_point=b"more")])
    first = decode_history(message, ring, np.zeros(1, np.uint32), *_ever(1), RECEIVED_US)
    assert first.rows == 2
    answer = decode_history(message, ring, np.zeros(1, np.uint32), *_ever(1), RECEIVED_US)
    assert (answer.outcome, answer.rows, answer.results, len(ring)) == (Outcome.RING_FULL, 0, [], 2)
    ring.drain(3)
    assert history(message, [0], ring=ring)[0].results[0].continuation_point == b"more"


def _ever(nodes: int) -> tuple[Any, Any]:
    return np.full(nodes, EVER[0]), np.full(nodes, EVER[1])


@pytest.mark.parametrize("type_id", [667, 397])
def test_a_bad_result_is_a_fault_whatever_follows(type_id: int) -> None:
    message = header(Message(None, service_result=0x80130000, type_id=numeric_node_id(type_id))) + b"\xff"
    answer, batch = history(message, [0])
    assert (answer.outcome, answer.service_result, answer.results) == (Outcome.FAULT, 0x80130000, [])
    assert len(batch) == 0


@pytest.mark.parametrize("results", [0, 1, 3])
def test_another_number_of_results_than_was_asked_for_is_refused(results: int) -> None:
    with pytest.raises(MalformedMessage, match=f"{results} results where 2 nodes"):
        history(history_response([History(None)] * results), [0, 1])


def test_arrays_of_different_lengths_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="different lengths: 2, 1, 2"):
        decode_history(b"", Ring(1), np.zeros(2, np.uint32), _ever(1)[0], _ever(2)[1], RECEIVED_US)
