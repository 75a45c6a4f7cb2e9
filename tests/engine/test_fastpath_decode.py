"""decode_publish: what a publish response puts into the ring, compared with the reference codec."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Publish, Ring, decode_publish
from engine.outcomes import Outcome
from engine.readings import Kind, RawBatch
from tests.engine.reference_codec import (
    NOT_OURS,
    Item,
    Message,
    Row,
    Variant,
    data_change,
    encode,
    event_list,
    expected,
    extension_object,
    header,
    notification_message,
    numeric_node_id,
    status_change,
)
from tests.engine.strategies import traffic

RECEIVED_US = 1_700_000_000_000_000
TICKS = 133_444_736_000_000_000  # 1 700 000 000 s since 1970
SLOTS = [5, 6, 7, NOT_OURS, 8, 9, 10, 11, 12, 13]


def rows_of(batch: RawBatch) -> list[Row]:
    """Return a drained batch in the reference's form."""
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


def same(left: list[Row], right: list[Row]) -> bool:
    """Compare rows with NaN equal to NaN."""
    return repr(left) == repr(right)


def decode(message: bytes, ring: Ring | None = None) -> tuple[Publish, RawBatch]:
    """Decode into a ring of its own, unless one is given, and drain it."""
    ring = ring or Ring(1_000)
    publish = decode_publish(message, ring, np.array(SLOTS, np.uint32), RECEIVED_US)
    return publish, ring.drain(ring.capacity_rows)


def one(value: Variant | None, **fields: int) -> RawBatch:
    """Return the batch that one item with this value makes."""
    return decode(encode(Message([data_change([Item(0, value, **fields)])])))[1]


@settings(max_examples=100, deadline=None)
@given(case=traffic(), before=st.integers(0, 40))
def test_every_message_gives_the_rows_that_the_reference_expects(
    case: tuple[Message, list[Item]], before: int
) -> None:
    message, items = case
    # A small ring that is already turned, so that rows wrap around its end.
    ring = Ring(41)
    filler = np.zeros(before, np.int64)
    ring.append(
        RawBatch(
            filler,
            filler.astype(np.uint32),
            filler.astype(np.uint32),
            filler.astype(np.float64),
            filler.astype(np.uint8),
        )
    )
    ring.drain(before)
    publish, batch = decode(encode(message), ring)
    rows = expected(items, SLOTS, RECEIVED_US)
    assert same(rows_of(batch), rows)
    assert publish.rows == len(rows)
    assert publish.unknown_handles == len(items) - len(rows)
    assert publish.sequence_number == message.sequence_number
    assert publish.subscription_id == message.subscription_id
    assert publish.more_notifications == message.more_notifications
    assert publish.refused_acks == sum(result >> 31 for result in message.results or [])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Variant(1, True), 1.0),
        (Variant(2, -3), -3.0),
        (Variant(3, 255), 255.0),
        (Variant(4, -300), -300.0),
        (Variant(5, 65535), 65535.0),
        (Variant(6, -70000), -70000.0),
        (Variant(7, 4294967295), 4294967295.0),
        (Variant(8, -(2**53)), -(2.0**53)),
        (Variant(9, 2**53), 2.0**53),
        (Variant(10, 0.5), 0.5),
        (Variant(11, -1e300), -1e300),
        (Variant(13, TICKS + 5), 1_700_000_000.0000005),
        (Variant(19, 0x80350000), float(0x80350000)),
    ],
)
def test_a_scalar_number_of_any_type_becomes_a_double(value: Variant, number: float) -> None:
    batch = one(value)
    assert batch.value[0] == number
    assert batch.kind[0] == Kind.NUMBER
    assert batch.texts == {}


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_an_integer_that_a_double_cannot_hold_keeps_its_digits_as_text(number: int) -> None:
    batch = one(Variant(8, number))
    assert batch.kind[0] == Kind.NUMBER | Kind.TEXT
    assert batch.value[0] == float(number)
    assert batch.texts == {0: str(number)}


@pytest.mark.parametrize(
    "value", [None, Variant(0), Variant(12, None), Variant(15, None), Variant(21, b"\0")]
)
def test_an_absent_or_null_value_is_a_null_reading_with_its_status(value: Variant | None) -> None:
    batch = one(value, status=0x800A0000)
    assert batch.kind[0] == Kind.NULL
    assert batch.status[0] == 0x800A0000
    assert batch.texts == {}


def test_text_values_keep_their_rows_through_the_ring() -> None:
    ring = Ring(100)
    items = [Item(0, Variant(12, b"on")), Item(1, Variant(11, 2.0)), Item(2, Variant(12, b"off"))]
    for _ in range(2):
        decode_publish(encode(Message([data_change(items)])), ring, np.array(SLOTS, np.uint32), RECEIVED_US)
    assert ring.drain(1).texts == {0: "on"}
    assert ring.drain(3).texts == {1: "off", 2: "on"}
    assert ring.drain(9).texts == {1: "off"}


def test_the_text_of_an_unknown_handle_is_not_given_to_the_next_row() -> None:
    items = [
        Item(3, Variant(12, b"nobody's")),
        Item(0, Variant(12, b"ours")),
        Item(99, Variant(12, b"nobody's")),
    ]
    publish, batch = decode(encode(Message([data_change(items)])))
    assert batch.texts == {0: "ours"}
    assert publish.unknown_handles == 2


@pytest.mark.parametrize(
    ("source", "server", "ts_us"),
    [
        (TICKS, TICKS + 10, 1_700_000_000_000_000),
        (TICKS + 19, None, 1_700_000_000_000_001),
        (0, TICKS + 10, 1_700_000_000_000_001),
        (-5, TICKS, 1_700_000_000_000_000),
        (None, TICKS, 1_700_000_000_000_000),
        (None, 0, RECEIVED_US),
        (None, None, RECEIVED_US),
        (1, None, -11_644_473_600_000_000),
        (2**63 - 1, None, 910_692_730_085_477_580),
    ],
)
def test_time_is_the_source_time_then_the_server_time_then_the_time_of_receipt(
    source: int | None, server: int | None, ts_us: int
) -> None:
    item = Item(0, Variant(11, 1.0), source=source, server=server, source_picoseconds=7, server_picoseconds=9)
    _, batch = decode(encode(Message([data_change([item])])))
    assert batch.ts_us[0] == ts_us


@pytest.mark.parametrize("notifications", [None, []])
def test_a_keep_alive_has_null_or_empty_notifications(notifications: list[bytes] | None) -> None:
    publish, batch = decode(encode(Message(notifications, sequence_number=2**32 - 1)))
    assert publish.outcome == Outcome.KEEP_ALIVE
    assert publish.sequence_number == 2**32 - 1
    assert len(batch) == 0


def test_a_data_change_without_items_is_data_and_not_a_keep_alive() -> None:
    assert decode(encode(Message([data_change(None)])))[0].outcome == Outcome.DATA


def test_a_status_change_is_reported_and_values_beside_it_are_stored() -> None:
    notifications = [status_change(0x80040000), data_change([Item(0, Variant(11, 1.0))])]
    publish, batch = decode(encode(Message(notifications)))
    assert publish.outcome == Outcome.STATUS_CHANGE
    assert publish.status_change == 0x80040000
    assert len(batch) == 1


def test_events_and_unknown_notifications_are_counted_and_the_values_beside_them_stored() -> None:
    notifications = [
        event_list([[Variant(12, b"x"), Variant(11, [1.0])], []]),
        extension_object(b"\x03\x02\x00\x01\x00\x00\x00z", b"anything"),
        extension_object(numeric_node_id(811), b"<xml/>", 2),
        extension_object(numeric_node_id(0, 0), None, 0),
        data_change([Item(0, Variant(11, 1.0))]),
    ]
    publish, batch = decode(encode(Message(notifications)))
    assert publish.events == 5
    assert publish.outcome == Outcome.DATA
    assert len(batch) == 1


def test_event_lists_and_unknown_notifications_are_kept_whole_and_in_order() -> None:
    event = event_list([[Variant(12, b"x"), Variant(11, [1.0])], []])
    notifications = [
        event,
        data_change([Item(0, Variant(11, 1.0))]),
        extension_object(b"\x03\x02\x00\x01\x00\x00\x00z", b"anything"),
        extension_object(numeric_node_id(811), b"<xml/>", 2),
        extension_object(numeric_node_id(812), b""),
        extension_object(numeric_node_id(0, 0), None, 0),
    ]
    publish, _ = decode(encode(Message(notifications)))
    assert publish.event_lists == (event[9:], b"anything", b"<xml/>")
    assert decode(encode(Message(None)))[0].event_lists == ()


@pytest.mark.parametrize(
    ("status", "overflows"),
    [(0x480, 1), (0x80000480, 1), (0x4FFF, 1), (0x400, 0), (0x80, 0), (0x880, 0), (None, 0), (0x40000000, 0)],
)
def test_values_behind_which_the_server_lost_others_are_counted(status: int | None, overflows: int) -> None:
    # Handle 3 is of nobody.
    items = [Item(0, Variant(11, 1.0), status), Item(3, Variant(11, 1.0), 0x480), Item(1, None, status)]
    publish, batch = decode(encode(Message([data_change(items)])))
    assert publish.overflows == 2 * overflows
    assert batch.status.tolist() == [status or 0] * 2


@pytest.mark.parametrize(
    ("ticks", "us"),
    [(TICKS + 19, 1_700_000_000_000_001), (0, 0), (-1, 0), (2**63 - 1, 910_692_730_085_477_580)],
)
def test_the_time_of_a_message_is_told_and_0_where_it_has_none(ticks: int, us: int) -> None:
    message = encode(Message([data_change([])], 7))
    told = struct.pack("<Iq", 7, 133_000_000_000_000_000)
    assert decode(message.replace(told, struct.pack("<Iq", 7, ticks)))[0].publish_time_us == us


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("make", [data_change, event_list])
def test_type_ids_are_understood_in_each_legal_encoding(form: int, make: Callable[..., bytes]) -> None:
    message = Message([make([], form=form), status_change(1, form=form)], type_id=numeric_node_id(829, form))
    publish, _ = decode(encode(message))
    assert publish.status_change == 1
    assert publish.events == 0


@pytest.mark.parametrize("form", [1, 2])
def test_a_service_fault_is_reported_with_its_result(form: int) -> None:
    message = header(Message(None, service_result=0x80790000, type_id=numeric_node_id(397, form)))
    publish, _ = decode(message)
    assert publish.outcome == Outcome.FAULT
    assert publish.service_result == 0x80790000


def test_a_publish_response_with_a_bad_result_is_a_fault_whatever_follows() -> None:
    message = Message([data_change([Item(0, Variant(11, 1.0))])], service_result=0x80000000)
    publish, batch = decode(encode(message))
    assert publish.outcome == Outcome.FAULT
    assert len(batch) == 0


def test_a_republish_response_is_read_as_the_message_it_carries() -> None:
    message = Message([data_change([Item(0, Variant(11, 1.0))])], 9, type_id=numeric_node_id(835))
    publish, batch = decode(header(message) + notification_message(message))
    assert publish.outcome == Outcome.DATA
    assert publish.sequence_number == 9
    assert len(batch) == 1


def test_a_full_ring_takes_nothing_and_takes_the_same_bytes_after_a_drain() -> None:
    ring = Ring(3)
    slots = np.array(SLOTS, np.uint32)
    items = [Item(0, Variant(11, 1.0), 0x480), Item(3), Item(1, Variant(12, b"text"))]
    message = encode(Message([data_change(items), event_list([[]])], results=[BAD_RESULT]))
    assert decode_publish(message, ring, slots, RECEIVED_US).rows == 2
    publish = decode_publish(message, ring, slots, RECEIVED_US)
    assert publish.outcome == Outcome.RING_FULL
    assert (publish.rows, publish.unknown_handles, publish.events, publish.refused_acks) == (0, 0, 0, 0)
    assert (publish.overflows, publish.event_lists, publish.status_change) == (0, (), None)
    assert len(ring) == 2
    assert ring.drain(3).texts == {1: "text"}
    publish = decode_publish(message, ring, slots, RECEIVED_US)
    assert (publish.rows, publish.unknown_handles, publish.events, publish.refused_acks) == (2, 1, 1, 1)
    assert ring.drain(3).texts == {1: "text"}


BAD_RESULT = 0x80770000


def test_a_ring_with_too_much_waiting_text_is_full_though_it_has_rows_left() -> None:
    ring = Ring(100)
    slots = np.array(SLOTS, np.uint32)
    message = encode(Message([data_change([Item(0, Variant(12, b"x" * (40 << 20)))])]))
    assert decode_publish(message, ring, slots, RECEIVED_US).outcome == Outcome.DATA
    assert decode_publish(message, ring, slots, RECEIVED_US).outcome == Outcome.RING_FULL
    ring.drain(1)
    assert decode_publish(message, ring, slots, RECEIVED_US).outcome == Outcome.DATA


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: memoryview(b"ab" + data)[2:]])
def test_any_contiguous_buffer_is_a_message(wrap: Callable[[bytes], bytes]) -> None:
    message = encode(Message([data_change([Item(0, Variant(11, 4.5))])]))
    assert decode(wrap(message))[1].value.tolist() == [4.5]


def test_messages_as_the_serializer_of_asyncua_writes_them_are_understood() -> None:
    from datetime import UTC, datetime

    from asyncua import ua
    from asyncua.ua.ua_binary import struct_to_binary

    when = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    values: list[Any] = ["text", ua.Variant([1, 2], ua.VariantType.Int16), ua.NodeId.from_string("ns=2;s=X")]
    fields: dict[str, Any] = {
        "StatusCode": ua.StatusCode(ua.UInt32(0x40000000)),
        "SourceTimestamp": when,
        "ServerTimestamp": when,
    }
    handles = (0, 1, 2, 4)
    change = ua.DataChangeNotification(
        [
            ua.MonitoredItemNotification(ua.UInt32(handle), ua.DataValue(ua.Variant(value), **fields))
            for handle, value in zip(handles, [1.5, *values], strict=True)
        ],
        [],
    )
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 3
    response.Parameters.NotificationMessage.NotificationData = [change]
    publish, batch = decode(struct_to_binary(response))
    assert publish.subscription_id == 3
    assert batch.value[0] == 1.5
    assert batch.texts == {1: "text", 2: "[1,2]", 3: "ns=2;s=X"}
    assert batch.ts_us[:3].tolist() == [int(when.timestamp()) * 1_000_000 + 123456] * 3
    assert batch.status[:3].tolist() == [0x40000000] * 3


def test_the_outcome_integers_are_those_of_the_compiled_module() -> None:
    fault = header(Message(None, service_result=0x80000000))
    full = Ring(1)
    decode_publish(
        encode(Message([data_change([Item(0, Variant(11, 1.0))])])), full, np.array([0], np.uint32), 0
    )
    messages = {
        Outcome.DATA: (encode(Message([data_change([])])), Ring(1)),
        Outcome.KEEP_ALIVE: (encode(Message(None)), Ring(1)),
        Outcome.STATUS_CHANGE: (encode(Message([status_change(5)])), Ring(1)),
        Outcome.FAULT: (fault, Ring(1)),
        Outcome.RING_FULL: (encode(Message([data_change([Item(0, Variant(11, 1.0))])])), full),
    }
    assert set(messages) == set(Outcome)
    for outcome, (message, ring) in messages.items():
        assert decode_publish(message, ring, np.array([0], np.uint32), 0).outcome == outcome


def test_wrong_arguments_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="Buffer dtype mismatch"):
        decode_publish(b"", Ring(1), np.zeros(1, np.int64), 0)
    with pytest.raises(TypeError):
        decode_publish("text", Ring(1), np.zeros(1, np.uint32), 0)  # type: ignore[arg-type]
