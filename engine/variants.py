"""The text of values that are not plain numbers: strings, Guids, NodeIds, arrays, structures. The slow lane.

Reads the bytes of one Variant (OPC 10000-6, 5.2.2) that the compiled decoder has walked over and so checked: lengths,
counts, masks and nesting hold. What text a value gets:

    String, XmlElement            as it is
    ByteString                    base64
    Guid, NodeId, QualifiedName   their string notations (Part 6, 5.3.1 and 5.4.2)
    LocalizedText                 its text; the locale is dropped
    Int64, UInt64                 decimal digits
    arrays, everything else       JSON in the manner of Part 6, 5.4.2; matrices as nested arrays

A null string, array or text has no text (None). An ExtensionObject is not looked into: {"TypeId", "Encoding", "Body"}.
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

from engine.errors import MalformedMessage

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_ARRAY_BIT = 0x80
_DIMENSIONS_BIT = 0x40
_TYPE_BITS = 0x3F
_STRUCTURED = frozenset({22, 23, 25})
_LAST_TICK = 2_650_467_743_999_999_999  # 9999-12-31T23:59:59.9999999Z, in 100 ns since 1601


def text_of(variant: bytes) -> str | None:
    """Return the text of one encoded Variant, None for a null; PostgreSQL accepts every character of it.

    Raises MalformedMessage for arrays in arrays that are too deep to be JSON (254 levels).
    """
    value = _Reader(variant).variant()
    if value is None:
        return None
    encoding = variant[0]
    if encoding & _ARRAY_BIT or encoding & _TYPE_BITS in _STRUCTURED:
        try:
            return orjson.dumps(value).decode()
        except orjson.JSONEncodeError as exc:
            raise MalformedMessage(f"a value cannot be JSON: {exc}", 0) from exc
    return value if isinstance(value, str) else str(value)


def storable(text: str) -> str:
    """Return the text with U+FFFD for each character that PostgreSQL's text cannot hold: NUL and lone surrogates."""
    return _REFUSED.sub(REPLACEMENT, text)


class _Reader:
    """Walks over bytes that have been checked, and makes values that JSON knows."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _unpack(self, layout: str) -> Any:
        return struct.unpack("<" + layout, self._take(struct.calcsize("<" + layout)))[0]

    def variant(self) -> Any:
        encoding = self._unpack("B")
        if not encoding:
            return None
        read = _READERS.get(encoding & _TYPE_BITS, _Reader.byte_string)
        if not encoding & _ARRAY_BIT:
            return read(self)
        count = self._unpack("i")
        values = None if count < 0 else [read(self) for _ in range(count)]
        if encoding & _DIMENSIONS_BIT:
            dimensions = [self._unpack("i") for _ in range(max(self._unpack("i"), 0))]
            return _folded(values, dimensions[1:])
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
        return None if data is None else storable(data.decode("utf-8", "replace"))

    def byte_string(self) -> str | None:
        data = self._bytes()
        return None if data is None else base64.b64encode(data).decode()

    def _bytes(self) -> bytes | None:
        length = self._unpack("i")
        return None if length < 0 else self._take(length)

    def date_time(self) -> str:
        ticks = self._unpack("q")
        # Part 6, 5.4.2.6: what ISO 8601 cannot say becomes the nearest date that it can; 0 and below mean "none".
        seconds, fraction = divmod(min(max(ticks, 0), _LAST_TICK), 10_000_000)
        moment = datetime(1601, 1, 1) + timedelta(seconds=seconds)  # noqa: DTZ001  (formatted with its Z below)
        digits = f".{fraction:07d}".rstrip("0").rstrip(".")
        return f"{moment.isoformat()}{digits}Z"

    def guid(self) -> str:
        return str(uuid.UUID(bytes_le=self._take(16)))

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
        identifier = {
            0: lambda: f"i={self._unpack('B')}",
            1: lambda: f"i={self._unpack('H')}",
            2: lambda: f"i={self._unpack('I')}",
            3: lambda: f"s={self.string() or ''}",
            4: lambda: f"g={self.guid()}",
            5: lambda: f"b={self.byte_string() or ''}",
        }[form]()
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

    def extension_object(self) -> dict[str, Any]:
        type_id = self.node_id()
        encoding = self._unpack("B")
        body = None if not encoding else self.byte_string() if encoding == 1 else self.string()
        return {"TypeId": type_id, "Encoding": encoding, "Body": body}

    def data_value(self) -> dict[str, Any]:
        mask = self._unpack("B")
        parts: tuple[tuple[int, str, Callable[[], Any]], ...] = (
            (0x01, "Value", self.variant),
            (0x02, "Status", lambda: self._unpack("I")),
            (0x04, "SourceTimestamp", self.date_time),
            (0x10, "SourcePicoseconds", lambda: self._unpack("H")),
            (0x08, "ServerTimestamp", self.date_time),
            (0x20, "ServerPicoseconds", lambda: self._unpack("H")),
        )
        return {name: read() for bit, name, read in parts if mask & bit}

    def diagnostic_info(self) -> dict[str, Any]:
        mask = self._unpack("B")
        parts: tuple[tuple[int, str, Callable[[], Any]], ...] = (
            (0x01, "SymbolicId", lambda: self._unpack("i")),
            (0x02, "NamespaceUri", lambda: self._unpack("i")),
            (0x08, "Locale", lambda: self._unpack("i")),
            (0x04, "LocalizedText", lambda: self._unpack("i")),
            (0x10, "AdditionalInfo", self.string),
            (0x20, "InnerStatusCode", lambda: self._unpack("I")),
            (0x40, "InnerDiagnosticInfo", self.diagnostic_info),
        )
        return {name: read() for bit, name, read in parts if mask & bit}


def _json_number(number: float) -> float | str:
    """JSON has no NaN and no infinities; Part 6, 5.4.2.4 writes them as strings."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _folded(values: list[Any] | None, inner: list[int]) -> list[Any] | None:
    """Nest a flat array by the lengths of its inner dimensions; the last one varies fastest (Part 6, 5.2.2.16)."""
    for size in reversed(inner):
        values = None if values is None else [values[at : at + size] for at in range(0, len(values), size)]
    return values


def _number(layout: str) -> Callable[[_Reader], Any]:
    return lambda reader: reader._unpack(layout)


# By built-in type (Part 6, table 1); the types 26 to 31 are read as a ByteString.
_READERS: dict[int, Callable[[_Reader], Any]] = {
    1: _Reader.boolean_value,
    2: _number("b"),
    3: _number("B"),
    4: _number("h"),
    5: _number("H"),
    6: _number("i"),
    7: _number("I"),
    8: _number("q"),
    9: _number("Q"),
    10: _Reader.float_value,
    11: _Reader.double_value,
    12: _Reader.string,
    13: _Reader.date_time,
    14: _Reader.guid,
    15: _Reader.byte_string,
    16: _Reader.string,
    17: _Reader.node_id,
    18: _Reader.expanded_node_id,
    19: _number("I"),
    20: _Reader.qualified_name,
    21: _Reader.localized_text,
    22: _Reader.extension_object,
    23: _Reader.data_value,
    24: _Reader.variant,
    25: _Reader.diagnostic_info,
}
