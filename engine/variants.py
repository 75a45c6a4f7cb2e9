"""The text of values that are not plain numbers: strings, Guids, NodeIds, arrays, structures. The slow lane.

Reads the bytes of one Variant (OPC 10000-6, 5.2.2) that the compiled decoder has walked over and so checked: lengths,
counts, masks and nesting hold. What text a value gets:

    String, XmlElement            as it is
    ByteString                    base64
    Guid, NodeId, QualifiedName   their string notations (Part 6, 5.3.1 and 5.4.2)
    LocalizedText                 its text; the locale is dropped
    Int64, UInt64                 decimal digits
    arrays, everything else       JSON in the manner of Part 6, 5.4.2; matrices as nested arrays

A text of its own is what the server sent: NUL stays in it, and bytes that are no UTF-8 stay as the lone surrogates that
surrogateescape makes of them. PostgreSQL takes neither, so the store puts such a reading into the quarantine, with the
server's bytes. In JSON both become U+FFFD.

A null string, array or text has no text (None). An ExtensionObject is not looked into: {"TypeId", "Encoding", "Body"};
structures.py does that. Very many parts in one message would take seconds and hundreds of megabytes to write as JSON;
the values with too many become {"Variant": base64 of its encoding}: nothing is lost, and time and memory stay bounded.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_ARRAY_BIT = 0x80
_DIMENSIONS_BIT = 0x40
_TYPE_BITS = 0x3F
_STRUCTURED = frozenset({22, 23, 25})
_LAST_TICK = 2_650_467_743_999_999_999  # 9999-12-31T23:59:59.9999999Z, in 100 ns since 1601
# In one message: below a second of one core, and some tens of megabytes while they are made.
MOST_PARTS = 262_144
# Numbers of an array are made in one step, so this many count as one part.
NUMBERS_A_PART = 16
# More are no matrix that anybody has, and each makes JSON one level deeper.
MOST_DIMENSIONS = 32
# What an ExtensionObject's body became, if it could not be looked into.
UNKNOWN = object()


class TooManyParts(Exception):
    """A message has more parts than may be written as JSON."""


class Spending:
    """How many more parts may be written as JSON; shared by all values of one message."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_PARTS

    def take(self, parts: int) -> None:
        """Count parts that are about to be made. Raises TooManyParts."""
        self._left -= parts
        if self._left < 0:
            raise TooManyParts


class _Message:
    """What the message that is being decoded may still spend; the compiled decoder begins and ends it."""

    spending: Spending | None = None


def begin_message() -> None:
    """Let the values that follow share one bound, until `end_message`."""
    _Message.spending = Spending()


def end_message() -> None:
    """Let each value have a bound of its own again."""
    _Message.spending = None


def current_spending() -> Spending:
    """Return what the values of the message at hand share."""
    return _Message.spending or Spending()


def text_of(variant: bytes) -> str | None:
    """Return the text of one encoded Variant, None for a null."""
    return text_of_reader(VariantReader(variant, current_spending()), variant)


def text_of_reader(reader: VariantReader, variant: bytes) -> str | None:
    """Return what `text_of` returns, with a reader of one's own at the beginning of `variant`."""
    is_json = variant[0] & _ARRAY_BIT or variant[0] & _TYPE_BITS in _STRUCTURED
    reader.keeps_bytes = not is_json
    try:
        value = reader.variant()
        if value is None:
            return None
        if is_json:
            return orjson.dumps(value).decode()
    except (TooManyParts, orjson.JSONEncodeError):
        # The second: matrices in matrices, deeper than orjson goes.
        return orjson.dumps({"Variant": base64.b64encode(variant).decode()}).decode()
    return value if isinstance(value, str) else str(value)


def storable(text: str) -> str:
    """Return the text with U+FFFD for each character that PostgreSQL's text cannot hold: NUL and lone surrogates."""
    return _REFUSED.sub(REPLACEMENT, text)


class VariantReader:
    """Walks over bytes that have been checked, and makes values that JSON knows."""

    def __init__(self, data: bytes | memoryview, spending: Spending, level: int = 0) -> None:
        self.keeps_bytes = False
        """Strings hold what the server sent; False: what JSON and PostgreSQL can hold of it."""
        self._data = data
        self._at = 0
        self._spending = spending
        # How many Variants and DataValues are around the place being read.
        self._level = level

    def _take(self, size: int) -> bytes | memoryview:
        self._at += size
        return self._data[self._at - size : self._at]

    def _unpack(self, layout: str) -> Any:
        return struct.unpack("<" + layout, self._take(struct.calcsize("<" + layout)))[0]

    def variant(self) -> Any:
        encoding = self._unpack("B")
        if not encoding:
            return None
        built_in = encoding & _TYPE_BITS
        if built_in in _STRUCTURED:
            self._spending.take(1)
        self._level += 1
        values = self._array(built_in) if encoding & _ARRAY_BIT else READERS[built_in](self)
        self._level -= 1
        if encoding & _DIMENSIONS_BIT:
            dimensions = max(self._unpack("i"), 0)
            if dimensions > MOST_DIMENSIONS:
                raise TooManyParts
            return self.folded(values, [self._unpack("i") for _ in range(dimensions)])
        return values

    def _array(self, built_in: int) -> list[Any] | None:
        count: int = self._unpack("i")
        return None if count < 0 else self.elements(built_in, count)

    def elements(self, built_in: int, count: int) -> list[Any]:
        """Return the values of an array, behind its count."""
        layout = _LAYOUTS.get(built_in)
        if layout is None:
            self._spending.take(count)
            read = READERS[built_in]
            return [read(self) for _ in range(count)]
        self._spending.take(count // NUMBERS_A_PART)
        numbers = np.frombuffer(self._take(count * layout.itemsize), layout)
        if built_in == 10:
            return [_json_number(float(str(number))) for number in numbers]
        values: list[Any] = (numbers != 0).tolist() if built_in == 1 else numbers.tolist()
        if built_in == 11 and not np.isfinite(numbers).all():
            return [_json_number(number) for number in values]
        return values

    def folded(self, values: list[Any] | None, dimensions: list[int]) -> list[Any] | None:
        """Nest a flat array by its dimensions, none of them 0; the last one varies fastest (Part 6, 5.2.2.16)."""
        for size in reversed(dimensions[1:]):
            if values is not None:
                self._spending.take(len(values) // size)
                values = [values[at : at + size] for at in range(0, len(values), size)]
        return values

    def boolean_value(self) -> bool:
        return bool(self._unpack("B"))

    def float_value(self) -> float | str:
        # The shortest decimal that is this 32-bit number, not the digits of the nearest 64-bit one.
        return _json_number(float(str(np.float32(self._unpack("f")))))

    def double_value(self) -> float | str:
        return _json_number(self._unpack("d"))

    def string(self) -> str | None:
        data = self._bytes()
        if data is None:
            return None
        if self.keeps_bytes:
            return data.decode("utf-8", "surrogateescape")
        return storable(data.decode("utf-8", "replace"))

    def byte_string(self) -> str | None:
        data = self._bytes()
        return None if data is None else base64.b64encode(data).decode()

    def _bytes(self) -> bytes | None:
        length = self._unpack("i")
        return None if length < 0 else bytes(self._take(length))

    def date_time(self) -> str:
        ticks = self._unpack("q")
        # Part 6, 5.4.2.6: what ISO 8601 cannot say becomes the nearest date that it can; 0 and below mean "none".
        seconds, fraction = divmod(min(max(ticks, 0), _LAST_TICK), 10_000_000)
        moment = datetime(1601, 1, 1) + timedelta(seconds=seconds)  # noqa: DTZ001  (formatted with its Z below)
        digits = f".{fraction:07d}".rstrip("0").rstrip(".")
        return f"{moment.isoformat()}{digits}Z"

    def guid(self) -> str:
        return str(uuid.UUID(bytes_le=bytes(self._take(16))))

    def node_id(self) -> str:
        return self._node_id(self._unpack("B"))

    def expanded_node_id(self) -> str:
        encoding = self._unpack("B")
        node_id = self._node_id(encoding & 0x3F)
        if encoding & 0x80:
            node_id = f"nsu={self.string() or ''};{node_id}"
        if encoding & 0x40:
            node_id = f"svr={self._unpack('I')};{node_id}"
        return node_id

    def _node_id(self, form: int) -> str:
        namespace = 0 if form == 0 else self._unpack("B") if form == 1 else self._unpack("H")
        if form <= 2:
            identifier = f"i={self._unpack('BHI'[form])}"
        elif form == 3:
            identifier = f"s={self.string() or ''}"
        elif form == 4:
            identifier = f"g={self.guid()}"
        else:
            identifier = f"b={self.byte_string() or ''}"
        return f"ns={namespace};{identifier}" if namespace else identifier

    def qualified_name(self) -> str:
        namespace = self._unpack("H")
        name = self.string() or ""
        return f"{namespace}:{name}" if namespace else name

    def localized_text(self) -> str | None:
        mask = self._unpack("B")
        if mask & 1:
            self.string()
        return self.string() if mask & 2 else None

    def extension_object(self) -> Any:
        type_id = self.node_id()
        encoding = self._unpack("B")
        if encoding != 1:
            return {"TypeId": type_id, "Encoding": encoding, "Body": self.string() if encoding else None}
        length = self._unpack("i")
        if length < 0:
            return {"TypeId": type_id, "Encoding": encoding, "Body": None}
        body = self._take(length)
        value = self._structure(type_id, body)
        if value is UNKNOWN:
            return {"TypeId": type_id, "Encoding": encoding, "Body": base64.b64encode(body).decode()}
        return value

    def _structure(self, _type_id: str, _body: bytes | memoryview) -> Any:
        """Return the value of a body that nobody has checked, or UNKNOWN."""
        return UNKNOWN

    def data_value(self) -> dict[str, Any]:
        self._level += 1
        fields = self._data_value()
        self._level -= 1
        return fields

    def _data_value(self) -> dict[str, Any]:
        mask = self._unpack("B")
        return {name: read(self) for bit, name, read in _DATA_VALUE if mask & bit} if mask else {}

    def diagnostic_info(self) -> dict[str, Any]:
        mask = self._unpack("B")
        return {name: read(self) for bit, name, read in _DIAGNOSTIC_INFO if mask & bit} if mask else {}


def _json_number(number: float) -> float | str:
    """JSON has no NaN and no infinities; Part 6, 5.4.2.4 writes them as strings."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _number(layout: str) -> Callable[[VariantReader], Any]:
    return lambda reader: reader._unpack(layout)


# Bit of the mask, name, how it is read, in the order of the wire (Part 6, 5.2.2.17 and 5.2.2.12).
_DATA_VALUE: tuple[tuple[int, str, Callable[[VariantReader], Any]], ...] = (
    (0x01, "Value", VariantReader.variant),
    (0x02, "Status", _number("I")),
    (0x04, "SourceTimestamp", VariantReader.date_time),
    (0x10, "SourcePicoseconds", _number("H")),
    (0x08, "ServerTimestamp", VariantReader.date_time),
    (0x20, "ServerPicoseconds", _number("H")),
)
_DIAGNOSTIC_INFO: tuple[tuple[int, str, Callable[[VariantReader], Any]], ...] = (
    (0x01, "SymbolicId", _number("i")),
    (0x02, "NamespaceUri", _number("i")),
    (0x08, "Locale", _number("i")),
    (0x04, "LocalizedText", _number("i")),
    (0x10, "AdditionalInfo", VariantReader.string),
    (0x20, "InnerStatusCode", _number("I")),
    (0x40, "InnerDiagnosticInfo", VariantReader.diagnostic_info),
)
# Types whose arrays are columns of numbers. DateTimes become text one by one.
_LAYOUTS = {
    number: np.dtype("<" + layout)
    for number, layout in {
        1: "u1", 2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 8: "i8", 9: "u8", 10: "f4", 11: "f8", 19: "u4",
    }.items()
}  # fmt: skip
FIXED_BYTES = {number: layout.itemsize for number, layout in _LAYOUTS.items()}
# By built-in type (Part 6, table 1); the types 26 to 31 are read as a ByteString.
READERS: dict[int, Callable[[VariantReader], Any]] = {
    1: VariantReader.boolean_value,
    2: _number("b"),
    3: _number("B"),
    4: _number("h"),
    5: _number("H"),
    6: _number("i"),
    7: _number("I"),
    8: _number("q"),
    9: _number("Q"),
    10: VariantReader.float_value,
    11: VariantReader.double_value,
    12: VariantReader.string,
    13: VariantReader.date_time,
    14: VariantReader.guid,
    15: VariantReader.byte_string,
    16: VariantReader.string,
    17: VariantReader.node_id,
    18: VariantReader.expanded_node_id,
    19: _number("I"),
    20: VariantReader.qualified_name,
    21: VariantReader.localized_text,
    22: VariantReader.extension_object,
    23: VariantReader.data_value,
    24: VariantReader.variant,
    25: VariantReader.diagnostic_info,
} | dict.fromkeys(range(26, 32), VariantReader.byte_string)
