"""Answers of servers in plain Python: the slow, obvious oracle for the compiled decoder.

`encode` writes what the dataclasses say, in the order of OPC 10000-6, 5.2, and `expected` says what readings the
engine must make of it; neither shares code with the engine. The other direction is in reference_decoder.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NOT_OURS = 0xFFFFFFFF
BAD = 0x80000000
BAD_INDEX_RANGE_NO_DATA = 0x80370000
FIXED = dict(enumerate("?bBhHiIqQfd", start=1)) | {13: "q", 14: "16s", 19: "I"}


@dataclass(frozen=True)
class Variant:
    """A value by built-in type number; a list is an array. Strings are bytes or None, structures are encoded bytes."""

    built_in: int
    value: Any = None
    dimensions: list[int] | None = None


@dataclass(frozen=True)
class Item:
    """One MonitoredItemNotification; None means the field is absent."""

    handle: int
    value: Variant | None = None
    status: int | None = None
    source: int | None = None
    source_picoseconds: int | None = None
    server: int | None = None
    server_picoseconds: int | None = None


@dataclass(frozen=True)
class Message:
    """One PublishResponse; `notifications` holds whole ExtensionObjects."""

    notifications: list[bytes] | None
    sequence_number: int = 1
    subscription_id: int = 1
    service_result: int = 0
    more_notifications: bool = False
    available: list[int] | None = None
    results: list[int] | None = None
    string_table: list[bytes | None] | None = None
    type_id: bytes = b"\x01\x00\x3d\x03"
    diagnostics: list[bytes] | None = None
    header_diagnostics: bytes = b"\x00"


@dataclass(frozen=True)
class Row:
    """A reading as the ring should hold it; `value` is None where the reading has no number."""

    ts_us: int
    slot: int
    status: int
    value: float | None
    has_text: bool = field(default=False)


def array(elements: list[bytes] | None) -> bytes:
    """Encode an array of encoded elements; None is a null array."""
    if elements is None:
        return struct.pack("<i", -1)
    return struct.pack("<i", len(elements)) + b"".join(elements)


def string(data: bytes | None) -> bytes:
    """Encode a String, ByteString or XmlElement."""
    return struct.pack("<i", -1) if data is None else struct.pack("<i", len(data)) + data


def numeric_node_id(identifier: int, form: int = 1) -> bytes:
    """Encode a NodeId of namespace 0 in one of its three legal numeric forms."""
    if form == 0:
        return struct.pack("<BB", 0, identifier)
    if form == 1:
        return struct.pack("<BBH", 1, 0, identifier)
    return struct.pack("<BHI", 2, 0, identifier)


def extension_object(type_id: bytes, body: bytes | None, encoding: int = 1) -> bytes:
    """Encode an ExtensionObject; encoding 0 has no body."""
    return type_id + bytes([encoding]) + (string(body) if encoding else b"")


def element(built_in: int, value: Any) -> bytes:
    """Encode one value without its type."""
    if built_in in FIXED:
        return struct.pack("<" + FIXED[built_in], value)
    if built_in in (12, 15, 16) or built_in > 25:
        return string(value)
    if built_in == 24:
        return variant(value)
    assert isinstance(value, bytes), "structures are given in their encoded form"
    return value


def variant(value: Variant) -> bytes:
    """Encode a Variant with its encoding byte."""
    if value.built_in == 0:
        return b"\x00"
    if not isinstance(value.value, list):
        return bytes([value.built_in]) + element(value.built_in, value.value)
    body = array([element(value.built_in, each) for each in value.value])
    if value.dimensions is None:
        return bytes([value.built_in | 0x80]) + body
    dimensions = array([struct.pack("<i", dimension) for dimension in value.dimensions])
    return bytes([value.built_in | 0xC0]) + body + dimensions


def data_value(item: Item) -> bytes:
    """Encode the DataValue of an item, in the order of Part 6, 5.2.2.17."""
    fields: tuple[tuple[int, Any, Callable[[Any], bytes]], ...] = (
        (0x01, item.value, variant),
        (0x02, item.status, lambda v: struct.pack("<I", v)),
        (0x04, item.source, lambda v: struct.pack("<q", v)),
        (0x10, item.source_picoseconds, lambda v: struct.pack("<H", v)),
        (0x08, item.server, lambda v: struct.pack("<q", v)),
        (0x20, item.server_picoseconds, lambda v: struct.pack("<H", v)),
    )
    mask = sum(bit for bit, value, _ in fields if value is not None)
    return bytes([mask]) + b"".join(encode(value) for _, value, encode in fields if value is not None)


def data_change(items: list[Item] | None, *, form: int = 1, tail: bytes = b"") -> bytes:
    """Encode a DataChangeNotification as an ExtensionObject; `tail` is put behind it, inside its body."""
    elements = (
        None if items is None else [struct.pack("<I", item.handle) + data_value(item) for item in items]
    )
    return extension_object(numeric_node_id(811, form), array(elements) + array(None) + tail)


def status_change(status: int, *, form: int = 1) -> bytes:
    """Encode a StatusChangeNotification as an ExtensionObject."""
    return extension_object(numeric_node_id(820, form), struct.pack("<I", status) + b"\x00")


def event_list(events: list[list[Variant]], *, form: int = 1) -> bytes:
    """Encode an EventNotificationList as an ExtensionObject."""
    lists = [struct.pack("<I", 1) + array([variant(each) for each in fields]) for fields in events]
    return extension_object(numeric_node_id(916, form), array(lists))


def header(message: Message) -> bytes:
    """Encode the TypeId and the ResponseHeader."""
    table = None if message.string_table is None else [string(each) for each in message.string_table]
    return (
        message.type_id
        + struct.pack("<qII", 133_000_000_000_000_000, 7, message.service_result)
        + message.header_diagnostics
        + array(table)
        + extension_object(numeric_node_id(0, 0), None, 0)
    )


def notification_message(message: Message) -> bytes:
    """Encode the NotificationMessage."""
    return struct.pack("<Iq", message.sequence_number, 133_000_000_000_000_000) + array(message.notifications)


def encode(message: Message) -> bytes:
    """Encode a whole PublishResponse."""
    available = None if message.available is None else [struct.pack("<I", each) for each in message.available]
    results = None if message.results is None else [struct.pack("<I", each) for each in message.results]
    return (
        header(message)
        + struct.pack("<I", message.subscription_id)
        + array(available)
        + bytes([message.more_notifications])
        + notification_message(message)
        + array(results)
        + array(message.diagnostics)
    )


def read_response(values: list[Item], *, service_result: int = 0, tail: bytes | None = None) -> bytes:
    """Encode a ReadResponse with these DataValues; `tail` stands in for its DiagnosticInfos."""
    head = header(Message(None, service_result=service_result, type_id=numeric_node_id(634)))
    return head + array([data_value(each) for each in values]) + (array(None) if tail is None else tail)


@dataclass(frozen=True)
class History:
    """One HistoryReadResult; `values` None is a result without HistoryData."""

    values: list[Item] | None
    status: int = 0
    continuation_point: bytes | None = None


def history_data(values: list[Item] | None) -> bytes:
    """Encode HistoryData as an ExtensionObject."""
    return extension_object(
        numeric_node_id(658), array(None if values is None else [data_value(each) for each in values])
    )


def history_response(results: list[History], *, service_result: int = 0, tail: bytes | None = None) -> bytes:
    """Encode a HistoryReadResponse; `tail` stands in for its DiagnosticInfos."""
    head = header(Message(None, service_result=service_result, type_id=numeric_node_id(667)))
    nothing = extension_object(numeric_node_id(0, 0), None, 0)
    encoded = [
        struct.pack("<I", each.status)
        + string(each.continuation_point)
        + (nothing if each.values is None else history_data(each.values))
        for each in results
    ]
    return head + array(encoded) + (array(None) if tail is None else tail)


def expected(
    items: list[Item], slots: list[int], received_us: int, elements: list[int] | None = None
) -> list[Row]:
    """Return the readings that these items are, in their order; those with a handle of nobody are left out."""
    rows = []
    for item in items:
        slot = slots[item.handle] if item.handle < len(slots) else NOT_OURS
        if slot != NOT_OURS:
            element = elements[item.handle] if elements and item.handle < len(elements) else -1
            value, is_missing = picked(item.value, element)
            status = item.status or 0
            if is_missing and status < BAD:
                status = BAD_INDEX_RANGE_NO_DATA
            number, has_text = _columns(value)
            rows.append(Row(ts_us_of(item, received_us), slot, status, number, has_text))
    return rows


def picked(value: Variant | None, element: int) -> tuple[Variant | None, bool]:
    """Return the value that is the reading, and whether the one that was asked for is missing."""
    if element < 0 or value is None or value.built_in == 0:
        return value, False
    built_in, values = value.built_in, value.value
    if built_in == 15 and not isinstance(values, list):
        built_in, values = 3, list(values or b"")
    if not isinstance(values, list):
        return None, True
    if len(values) == 1:
        element = 0
    if element >= len(values):
        return None, True
    return (values[element] if built_in == 24 else Variant(built_in, values[element])), False


def ts_us_of(item: Item, received_us: int) -> int:
    """Return the time of an item in microseconds since 1970."""
    for ticks in (item.source, item.server):
        if ticks is not None and ticks > 0:
            return ticks // 10 - 11_644_473_600_000_000
    return received_us


def _columns(value: Variant | None) -> tuple[float | None, bool]:
    """Return the number, if there is one, and whether there is a text."""
    if value is None or value.value is None:
        return None, False
    if value.built_in == 13 and not isinstance(value.value, list):
        return (value.value - 116_444_736_000_000_000) / 1e7, False
    if value.built_in in FIXED and value.built_in != 14 and not isinstance(value.value, list):
        return float(value.value), abs(value.value) > 2**53 and value.built_in in (8, 9)
    # A LocalizedText of which the text itself is absent or null.
    if value.built_in == 21 and value.value in (b"\x00", b"\x02\xff\xff\xff\xff"):
        return None, False
    return None, True
