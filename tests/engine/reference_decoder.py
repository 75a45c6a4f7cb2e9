"""The other direction of reference_codec: bytes -> readings, or a Broken error, in plain Python.

Used to compare verdicts on bytes that no encoder would write: both decoders must refuse the same messages.
"""

from __future__ import annotations

import struct
from typing import Any

from tests.engine.reference_codec import FIXED, NOT_OURS, Row

MOST_LEVELS = 100
SMALLEST = {17: 2, 18: 2, 20: 6, 21: 1, 22: 3, 23: 1, 24: 1, 25: 1}
GOOD, BAD = 0, 0x80000000


class Broken(Exception):
    """The bytes are not a publish response."""


class Reader:
    """A position in bytes, with a check on every step."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if self.at + size > len(self.data):
            raise Broken("too short")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, layout: str) -> Any:
        """Return the next number."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def count(self, smallest: int) -> int:
        """Return an array's count, -1 for a null one."""
        count: int = self.unpack("i")
        if count < -1 or count * smallest > len(self.data) - self.at:
            raise Broken("count")
        return count

    def string(self) -> bytes | None:
        """Return a String or ByteString."""
        length = self.count(1)
        return None if length < 0 else self.take(length)

    def node_id(self, expanded: bool = False) -> int | None:
        """Return the number of a numeric NodeId of namespace 0, None for others."""
        encoding = self.unpack("B")
        form = encoding & 0x3F if expanded else encoding
        identifier = None
        if form == 0:
            identifier = self.unpack("B")
        elif form in (1, 2):
            namespace = self.unpack("B" if form == 1 else "H")
            number = self.unpack("H" if form == 1 else "I")
            identifier = number if namespace == 0 else None
        elif form in (3, 5):
            self.take(2)
            self.string()
        elif form == 4:
            self.take(18)
        else:
            raise Broken("NodeId")
        if expanded and encoding & 0x80:
            self.string()
        if expanded and encoding & 0x40:
            self.take(4)
        return identifier

    def diagnostic_info(self, level: int = 1) -> None:
        """Check a DiagnosticInfo."""
        mask = self.mask(0x7F, level)
        for bit in (1, 2, 4, 8):
            if mask & bit:
                self.take(4)
        if mask & 0x10:
            self.string()
        if mask & 0x20:
            self.take(4)
        if mask & 0x40:
            self.diagnostic_info(level + 1)

    def mask(self, known: int, level: int) -> int:
        """Return a mask byte without unknown bits."""
        if level > MOST_LEVELS:
            raise Broken("nesting")
        mask: int = self.unpack("B")
        if mask & ~known:
            raise Broken("mask")
        return mask

    def element(self, built_in: int, level: int) -> Any:
        """Return a value where rows need it, and check it in any case."""
        if built_in in FIXED:
            return self.unpack(FIXED[built_in])
        if built_in in (17, 18):
            return self.node_id(expanded=built_in == 18) or 0
        if built_in == 20:
            self.take(2)
            self.string()
        elif built_in == 21:
            mask = self.mask(0x03, 0)
            if mask & 1:
                self.string()
            return self.string() if mask & 2 else None
        elif built_in == 22:
            self.extension_object()
        elif built_in == 23:
            self.data_value(level + 1)
        elif built_in == 24:
            self.variant(level + 1)
        elif built_in == 25:
            self.diagnostic_info(level + 1)
        else:
            return self.string()
        return ()

    def extension_object(self) -> tuple[int | None, int, bytes]:
        """Return the type, the encoding and the body."""
        type_id, encoding = self.node_id(), self.unpack("B")
        if encoding > 2:
            raise Broken("encoding")
        return type_id, encoding, (self.string() or b"") if encoding else b""

    def variant(self, level: int = 1) -> tuple[int, Any]:
        """Return (type, value); arrays as lists."""
        if level > MOST_LEVELS:
            raise Broken("nesting")
        encoding = self.unpack("B")
        built_in = encoding & 0x3F
        if built_in > 31:
            raise Broken("type")
        if not encoding & 0x80:
            if encoding & 0x40 or built_in == 24:
                raise Broken("Variant")
            return built_in, self.element(built_in, level) if built_in else None
        if built_in == 0:
            raise Broken("array of nothing")
        size = struct.calcsize("<" + FIXED[built_in]) if built_in in FIXED else SMALLEST.get(built_in, 4)
        count = self.count(size)
        value = None if count < 0 else [self.element(built_in, level) for _ in range(count)]
        if encoding & 0x40:
            self.dimensions(count)
        return built_in, value

    def dimensions(self, length: int) -> None:
        """Check ArrayDimensions."""
        dimensions = [self.unpack("i") for _ in range(self.count(4))]
        product, lists = 1, 0
        for dimension in dimensions:
            product *= dimension
            lists += product
        if dimensions and (min(dimensions) <= 0 or product != length or lists > 4 * length + 200):
            raise Broken("dimensions")

    def data_value(self, level: int = 0) -> tuple[tuple[int, Any], int, list[int]]:
        """Return (type, value), status and the timestamps in the order of preference."""
        mask = self.mask(0x3F, level)
        value = self.variant(level + 1) if mask & 1 else (0, None)
        status = self.unpack("I") if mask & 2 else 0
        source = self.unpack("q") if mask & 4 else 0
        self.take(2 if mask & 0x10 else 0)
        server = self.unpack("q") if mask & 8 else 0
        self.take(2 if mask & 0x20 else 0)
        return value, status, [source, server]


def _row(reader: Reader, slots: list[int], received_us: int, handle: int | None = None) -> Row | None:
    if handle is None:
        handle = reader.unpack("I")
    (built_in, value), status, times = reader.data_value()
    slot = slots[handle] if handle < len(slots) else NOT_OURS
    ts_us = next((ticks // 10 - 11_644_473_600_000_000 for ticks in times if ticks > 0), received_us)
    if slot == NOT_OURS:
        return None
    if value is None:
        return Row(ts_us, slot, status, None)
    if isinstance(value, list) or built_in not in FIXED or built_in == 14:
        return Row(ts_us, slot, status, None, True)
    if built_in == 13:
        value = (value - 116_444_736_000_000_000) / 1e7
    return Row(ts_us, slot, status, float(value), built_in in (8, 9) and abs(value) > 2**53)


def _header(reader: Reader, type_ids: tuple[int, ...]) -> tuple[int, int]:
    """Return the type of an answer and its result."""
    type_id = reader.node_id()
    if type_id not in (397, *type_ids):
        raise Broken("TypeId")
    reader.take(12)
    service_result: int = reader.unpack("I")
    reader.diagnostic_info()
    for _ in range(reader.count(4)):
        reader.string()
    reader.extension_object()
    return type_id, service_result


def _results(data: bytes, type_id: int, smallest: int, wanted: int) -> Reader | None:
    """Return a reader at the results of an answer that has one for each thing asked, None for a fault."""
    reader = Reader(data)
    found, service_result = _header(reader, (type_id,))
    if service_result & BAD:
        return None
    if found == 397 or max(reader.count(smallest), 0) != wanted:
        raise Broken("results")
    return reader


def _end(reader: Reader) -> None:
    for _ in range(reader.count(1)):
        reader.diagnostic_info()
    if reader.at != len(reader.data):
        raise Broken("left over")


def decode_read(data: bytes, slots: list[int], received_us: int) -> list[Row]:
    """Return the readings of a read response; raise Broken."""
    reader = _results(data, 634, 1, len(slots))
    if reader is None:
        return []
    rows = [_row(reader, slots, received_us, place) for place in range(len(slots))]
    _end(reader)
    return [row for row in rows if row is not None]


def decode_history(
    data: bytes, slots: list[int], after_us: list[int], before_us: list[int], received_us: int
) -> list[Row]:
    """Return the readings of a history answer; raise Broken."""
    reader = _results(data, 667, 11, len(slots))
    if reader is None:
        return []
    rows = []
    for place in range(len(slots)):
        reader.take(4)
        reader.string()
        type_id, encoding, body = reader.extension_object()
        if type_id != 658 or encoding != 1:
            continue
        values = Reader(body)
        found = [_row(values, slots, received_us, place) for _ in range(values.count(1))]
        rows += [row for row in found if row is not None and after_us[place] < row.ts_us < before_us[place]]
        if values.at != len(body):
            raise Broken("left over in HistoryData")
    _end(reader)
    return rows


def decode_created(data: bytes, items: int) -> list[tuple[int, int, float, int]]:
    """Return what became of each item of a CreateMonitoredItems request; raise Broken."""
    reader = _results(data, 754, 23, items)
    if reader is None:
        return []
    created = []
    for _ in range(items):
        created.append(tuple(reader.unpack(layout) for layout in "IIdI"))
        reader.extension_object()
    _end(reader)
    return created


def decode(data: bytes, slots: list[int], received_us: int) -> list[Row]:
    """Return the readings of a publish response, republish response or service fault; raise Broken."""
    reader = Reader(data)
    type_id, service_result = _header(reader, (829, 835))
    if type_id == 397 or service_result & BAD:
        return []
    if type_id == 829:
        reader.take(4)
        reader.take(4 * max(reader.count(4), 0))
        reader.take(1)
    rows = _notifications(reader, slots, received_us)
    if type_id == 829:
        reader.take(4 * max(reader.count(4), 0))
        _end(reader)
    if reader.at != len(data):
        raise Broken("left over")
    return rows


def _notifications(reader: Reader, slots: list[int], received_us: int) -> list[Row]:
    rows: list[Row] = []
    reader.take(12)
    for _ in range(reader.count(3)):
        type_id, encoding, data = reader.extension_object()
        body = Reader(data)
        if encoding != 1 or type_id not in (811, 820, 916):
            continue
        if type_id == 811:
            found = [_row(body, slots, received_us) for _ in range(body.count(5))]
            rows += [row for row in found if row is not None]
            for _ in range(body.count(1)):
                body.diagnostic_info()
        elif type_id == 820:
            body.take(4)
            body.diagnostic_info()
        else:
            for _ in range(body.count(8)):
                body.take(4)
                for _ in range(body.count(1)):
                    body.variant()
        if body.at != len(data):
            raise Broken("left over in a body")
    return rows
