"""Where a corpus begins: small messages of every kind, made by the tests' reference encoder. The same each time.

Real servers' responses lie in the corpus itself, as captured: open62541-*, node-opcua-*, asyncua-*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from uuid import UUID

import numpy as np

from engine.frames import Entry, Position, sequence_of
from engine.gaps import Cause, GapChanges
from engine.readings import Batch, Kind
from tests.engine.reference_codec import (
    FIXED,
    Item,
    Message,
    Variant,
    array,
    data_change,
    data_value,
    element,
    encode,
    event_list,
    extension_object,
    header,
    notification_message,
    numeric_node_id,
    status_change,
    string,
    variant,
)
from tests.engine.reference_frames import encode as encode_record
from tests.engine.reference_frames import gaps_of

_TICKS = 133_444_736_000_000_000
_GUID = bytes(range(16))
_STRUCTURES: dict[int, object] = {
    12: b"text \xe2\x82\xac",
    14: _GUID,
    15: b"\x00\xff",
    16: b"<a/>",
    17: b"\x03\x02\x00" + string(b"name"),
    18: b"\xc3\x01\x00" + string(b"id") + string(b"urn:x") + bytes(4),
    20: b"\x02\x00" + string(b"name"),
    21: b"\x03" + string(b"en") + string(b"label"),
    22: extension_object(b"\x04\x01\x00" + _GUID, b"body"),
    25: b"\x7f" + bytes(16) + string(b"info") + bytes(4) + b"\x00",
    27: b"later",
}


def _variants() -> Iterator[tuple[str, Variant]]:
    yield "null", Variant(0)
    for built_in, layout in FIXED.items():
        value: bytes | int = _GUID if layout == "16s" else 1
        yield f"scalar-{built_in}", Variant(built_in, value)
        yield f"array-{built_in}", Variant(built_in, [value, value])
    for built_in, encoded in _STRUCTURES.items():
        yield f"scalar-{built_in}", Variant(built_in, encoded)
        yield f"array-{built_in}", Variant(built_in, [encoded, encoded])
    yield "big", Variant(9, 2**64 - 1)
    yield "nan", Variant(11, float("nan"))
    yield "null-string", Variant(12, None)
    yield "matrix", Variant(6, [1, 2, 3, 4, 5, 6], [2, 3])
    yield "cube", Variant(3, list(range(8)), [2, 2, 2])
    yield "empty", Variant(11, [])
    yield "variants", Variant(24, [Variant(11, 1.5), Variant(24, [Variant(0)]), Variant(12, b"x")])
    yield "value", Variant(23, data_value(Item(0, Variant(11, 1.5), 7, _TICKS, 1, _TICKS, 2)))


def _messages() -> Iterator[tuple[str, bytes]]:
    every = [Item(handle % 10, value) for handle, (_, value) in enumerate(_variants())]
    yield "every-type", encode(Message([data_change(every)]))
    stamped = Item(0, Variant(11, 1.5), 0x80AB_0000, _TICKS, 9_999, _TICKS, 9_999)
    yield (
        "stamps",
        encode(Message([data_change([stamped, Item(3), Item(99, Variant(11, 1.0)), Item(1, status=5)])])),
    )
    full = Message(
        [data_change([stamped]), event_list([[Variant(12, b"event")], []]), status_change(0x8004_0000)],
        available=[1, 2],
        results=[0, 0x8000_0000],
        string_table=[b"a", None],
        diagnostics=[b"\x01" + bytes(4), b"\x40\x20" + bytes(4)],
        header_diagnostics=b"\x10" + string(b"more"),
    )
    yield "full", encode(full)
    yield "keep-alive", encode(Message(None))
    yield "fault", header(Message(None, type_id=numeric_node_id(397), service_result=0x8079_0000))
    republished = Message([data_change([stamped])], type_id=numeric_node_id(835))
    yield "republished", header(republished) + notification_message(republished)
    yield "unknown", encode(Message([extension_object(numeric_node_id(999), b"what"), data_change(None)]))
    yield "four-rows", encode(Message([data_change([stamped] * 4)]))


def _structures() -> Iterator[tuple[str, bytes]]:
    every = b"".join(
        element(n, (_GUID if FIXED[n] == "16s" else 1) if n in FIXED else _STRUCTURES[n])
        if n not in (23, 24)
        else b"\x00"
        for n in range(1, 26)
    )
    matrix = array([struct.pack("<i", 2), struct.pack("<i", 3)]) + struct.pack("<6i", *range(6))
    lists = array([struct.pack("<d", 1.5)]) + matrix
    bodies = {
        201: every,
        202: b"",
        203: lists + struct.pack("<i", 1),
        204: struct.pack("<I", 0b01001) + b"\x01" + array([struct.pack("<d", 1.5)]),
        205: struct.pack("<Ii", 2, 1),
        206: lists + struct.pack("<i", 0) + array([]),
        207: array([array([]) + string(b"leaf")]) + string(b"root"),
        208: extension_object(numeric_node_id(202), b"") + variant(Variant(11, 1.5)),
    }
    for type_id, body in bodies.items():
        encoded = extension_object(numeric_node_id(type_id, 2), body)
        yield f"type-{type_id}", variant(Variant(22, encoded))
        yield f"array-{type_id}", variant(Variant(22, [encoded, encoded]))


def _values() -> Iterator[bytes]:
    yield data_value(Item(0, Variant(11, 1.5), 0, _TICKS, None, _TICKS))
    yield data_value(Item(0, Variant(12, b"text"), 0x4000_0000))
    yield data_value(Item(0, Variant(6, [1, 2, 3]), None, _TICKS))


def _reads() -> Iterator[tuple[str, bytes]]:
    values = list(_values())
    head = header(Message(None, type_id=numeric_node_id(634)))
    yield "values", b"\x00\x03" + head + array(values) + array(None)
    yield "elements", b"\x04\x03" + head + array(values) + array([b"\x00"])
    yield "full", b"\x03\x03" + head + array(values) + array(None)
    yield (
        "fault",
        b"\x00\x03" + header(Message(None, type_id=numeric_node_id(397), service_result=0x8079_0000)),
    )


def _histories() -> Iterator[tuple[str, bytes]]:
    head = header(Message(None, type_id=numeric_node_id(667)))
    values = extension_object(numeric_node_id(658), array(list(_values())))
    modified = extension_object(numeric_node_id(664), array(list(_values())) + array(None))
    results = [
        struct.pack("<I", 0) + string(None) + values,
        struct.pack("<I", 0) + string(b"more") + values,
        struct.pack("<I", 0x8000_0000) + string(None) + modified,
    ]
    yield "results", b"\x00\x03" + head + array(results) + array(None)
    yield "elements", b"\x04\x03" + head + array(results) + array([b"\x00"])
    yield "full", b"\x03\x01" + head + array(results[:1]) + array(None)


def _created() -> Iterator[tuple[str, bytes]]:
    none = extension_object(numeric_node_id(0, 0), None, 0)
    revised = extension_object(numeric_node_id(734), bytes(20))
    results = [
        struct.pack("<IIdI", 0, 7, 100.0, 10) + none,
        struct.pack("<IIdI", 0x8034_0000, 0, 0, 0) + revised,
    ]
    head = header(Message(None, type_id=numeric_node_id(754)))
    yield "results", b"\x02" + head + array(results) + array(None)
    yield "more", b"\x03" + head + array(results * 2) + array([b"\x00"])


def _copies() -> Iterator[tuple[str, bytes]]:
    head = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    number = struct.pack(">hiqiiiIidi", 5, 8, 7, 4, 1, 4, 0, 8, 1.5, -1)
    text = struct.pack(">hiqiiiIii", 5, 8, 7, 4, 1, 4, 0, -1, 4) + b"text"
    yield "rows", head + number + text + b"\xff\xff"
    yield "none", head + b"\xff\xff"
    yield "extended", head[:15] + struct.pack(">i", 3) + b"abc" + b"\xff\xff"


def _frames() -> Iterator[tuple[str, bytes]]:
    kinds = (Kind.NUMBER, Kind.TEXT, Kind.NULL, Kind.NUMBER | Kind.TEXT)
    rows = len(kinds)
    batch = Batch(
        np.arange(rows, dtype=np.int64),
        np.arange(rows, dtype=np.int32),
        np.arange(rows, dtype=np.uint32),
        np.arange(rows, dtype=np.float64),
        np.array(kinds, np.uint8),
        {1: "text \u20ac", 3: "\x00\udcff"},
    )
    numbers = batch.part(0, 1)
    recorded, recovered = gaps_of([(1, 2, 3, Cause.OUTAGE)]), gaps_of([(1, 2, 3, Cause.JOURNAL)] * 2)
    position = Position(UUID(bytes=_GUID), 1, 2)
    entries = {
        "number": Entry(numbers, GapChanges()),
        "every-kind": Entry(batch, GapChanges()),
        "gaps": Entry(batch.part(0, 0), GapChanges(recorded, recovered)),
        "positions": Entry(batch.part(0, 0), GapChanges(), (position, position)),
        "all": Entry(batch, GapChanges(recorded, recovered), (position,)),
    }
    for name, entry in entries.items():
        record = encode_record(entry, _GUID, sequence_of(1, 1), _TICKS)
        yield name, b"\x08" + record
        yield f"{name}-sealed", b"\x01" + record


def seeds(target: str) -> dict[str, bytes]:
    """Return the seeds of a target by name."""
    rings = {"whole": 0, "tight": 2, "elements": 4}
    found: dict[str, Iterable[tuple[str, bytes]]] = {
        "publish": (
            (f"{name}-{ring}", bytes([n]) + data) for name, data in _messages() for ring, n in rings.items()
        ),
        "variant": ((name, variant(value)) for name, value in _variants()),
        "structure": _structures(),
        "read": _reads(),
        "history": _histories(),
        "created": _created(),
        "copy": _copies(),
        "frame": _frames(),
    }
    return dict(found[target])
