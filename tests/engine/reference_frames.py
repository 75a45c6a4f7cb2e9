"""Records of the journal in plain Python: the slow, obvious oracle for the compiled frames and their checksum.

Written from the format in engine/journal/__init__.py, column by column, with nothing of the compiled code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from uuid import UUID

import numpy as np

from engine.frames import Entry, Position
from engine.gaps import Cause, GapChanges, Gaps
from engine.readings import Batch, Kind

HEADER_BYTES = 56
MOST_PAYLOAD_BYTES = 256 * 1024 * 1024
_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, the lowest bit first

GapRow = tuple[int, int, int, int]  # from_us, to_us, tag_id, cause


class NoRecord(Exception):
    """The bytes are no valid record; the message says why."""


def crc32c(data: bytes) -> int:
    """Divide bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sealed(fields: bytes, payload: bytes) -> bytes:
    """Return a record of header fields (bytes 8 .. 55) and a payload, with the checksum that belongs to them."""
    return b"SREC" + struct.pack("<I", crc32c(fields + payload)) + fields + payload


def header(nbytes: int, stream: bytes, sequence: int, journaled_us: int, *, kind: int = 1) -> bytes:
    """Return bytes 8 .. 55 of a record."""
    return struct.pack("<II16sQQq", nbytes, kind, stream, sequence >> 40, sequence, journaled_us)


def encode(entry: Entry, stream: bytes, sequence: int, journaled_us: int) -> bytes:
    """Return the record of an entry."""
    batch, rows = entry.batch, len(entry.batch)
    texts = [(row, raw_text(text)) for row, text in sorted(batch.texts.items())]
    gaps = [*gap_rows(entry.gaps.recorded), *gap_rows(entry.gaps.recovered)]
    recorded, recovered = len(entry.gaps.recorded), len(entry.gaps.recovered)
    text_bytes = sum(len(text) for _, text in texts)
    counts = (rows, len(texts), text_bytes, recorded, recovered, len(entry.positions))
    payload = struct.pack("<6I", *counts)
    for layout, column in zip("qdiIB", _columns(batch), strict=True):
        payload += struct.pack(f"<{rows}{layout}", *column)
    payload = padded(payload)
    payload += b"".join(struct.pack("<II", row, len(text)) for row, text in texts)
    payload = padded(payload + b"".join(text for _, text in texts))
    for place, layout in enumerate("qqiB"):
        payload += b"".join(struct.pack(f"<{layout}", gap[place]) for gap in gaps)
    payload = padded(payload)
    for each in entry.positions:
        payload += each.connection_id.bytes + struct.pack("<II", each.subscription_id, each.sequence_number)
    return padded(sealed(header(len(payload), stream, sequence, journaled_us), payload))


def padded(data: bytes) -> bytes:
    """Return the bytes with zeros up to a multiple of 8."""
    return data + bytes(-len(data) % 8)


def raw_text(text: str) -> bytes:
    """Return the bytes of a text: those that surrogates stand for, and three for any other surrogate."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def gap_rows(gaps: Gaps) -> list[GapRow]:
    """Return gaps one by one."""
    columns = (gaps.from_us, gaps.to_us, gaps.tag_id, gaps.cause)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def gaps_of(rows: Sequence[GapRow]) -> Gaps:
    """Return gaps as columns, their slots 0."""
    from_us, to_us, tag_id, cause = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Gaps(
        np.zeros(len(rows), np.uint32),
        np.array(tag_id, np.int32),
        np.array(from_us, np.int64),
        np.array(to_us, np.int64),
        np.array(cause, np.uint8),
    )


def decode(data: bytes, offset: int, checksum: Callable[[bytes], int] = crc32c) -> tuple[Entry, int, int]:
    """Return the entry of the record at `offset`, its sequence and its time. Raises NoRecord."""
    record = data[offset:]
    _need(len(record) >= HEADER_BYTES and record[:4] == b"SREC", "no magic")
    nbytes, kind, _, epoch, sequence, journaled_us = struct.unpack("<II16sQQq", record[8:HEADER_BYTES])
    _need(nbytes <= min(len(record) - HEADER_BYTES, MOST_PAYLOAD_BYTES), "cut short")
    payload = record[HEADER_BYTES : HEADER_BYTES + nbytes]
    _need(struct.unpack("<I", record[4:8])[0] == checksum(record[8 : HEADER_BYTES + nbytes]), "checksum")
    _need(kind == 1 and 0 < sequence < 2**63 and epoch == sequence >> 40, "header")
    return _entry(payload), sequence, journaled_us


def same(ours: Entry, theirs: Entry) -> None:
    """Assert that two entries that were read are the same, bit by bit."""
    for name in ("ts_us", "tag_id", "status", "value", "kind"):
        mine, other = getattr(ours.batch, name), getattr(theirs.batch, name)
        assert mine.dtype == other.dtype, name
        assert mine.tobytes() == other.tobytes(), name
    assert ours.batch.texts == theirs.batch.texts
    for name in ("recorded", "recovered"):
        mine, other = getattr(ours.gaps, name), getattr(theirs.gaps, name)
        assert gap_rows(mine) == gap_rows(other), name
        assert not mine.slot.any(), "a gap with a slot"
    assert list(ours.positions) == list(theirs.positions)


def _entry(payload: bytes) -> Entry:
    _need(len(payload) >= 24, "no counts")
    rows, texts, text_bytes, recorded, recovered, positions = struct.unpack("<6I", payload[:24])
    gaps = recorded + recovered
    sizes = (24 + 25 * rows, 8 * texts + text_bytes, 21 * gaps, 24 * positions)
    ends = list(accumulate(size + -size % 8 for size in sizes))
    _need(len(payload) == ends[-1], "parts that do not fill the payload")
    batch = _batch(payload, rows, payload[ends[0] : ends[1]], texts, text_bytes)
    found = _gaps(payload[ends[1] : ends[2]], gaps)
    changes = GapChanges(gaps_of(found[:recorded]), gaps_of(found[recorded:]))
    return Entry(batch, changes, [_position(payload[at : at + 24]) for at in range(ends[2], ends[3], 24)])


def _batch(payload: bytes, rows: int, heads: bytes, texts: int, text_bytes: int) -> Batch:
    columns, at = [], 24
    for layout in "qdiIB":
        columns.append(struct.unpack_from(f"<{rows}{layout}", payload, at))
        at += struct.calcsize(f"<{rows}{layout}")
    ts_us, _, tag_id, status, kind = columns
    _need(max(kind, default=0) <= (Kind.NUMBER | Kind.TEXT), "kind")
    placed = [struct.unpack_from("<II", heads, 8 * text) for text in range(texts)]
    _need(
        [row for row, _ in placed] == [row for row in range(rows) if kind[row] & Kind.TEXT], "rows of texts"
    )
    _need(sum(size for _, size in placed) == text_bytes, "bytes of texts")
    found, at = {}, 8 * texts
    for row, size in placed:
        found[row] = heads[at : at + size].decode("utf-8", "surrogateescape")
        at += size
    return Batch(
        np.array(ts_us, np.int64),
        np.array(tag_id, np.int32),
        np.array(status, np.uint32),
        # From the bytes: a NaN keeps its bits.
        np.frombuffer(payload, np.float64, rows, 24 + 8 * rows),
        np.array(kind, np.uint8),
        found,
    )


def _gaps(data: bytes, gaps: int) -> list[GapRow]:
    columns, at = [], 0
    for layout in "qqiB":
        columns.append(struct.unpack_from(f"<{gaps}{layout}", data, at))
        at += struct.calcsize(f"<{gaps}{layout}")
    _need(set(columns[3]) <= set(Cause), "cause")
    return list(zip(*columns, strict=True))


def _position(data: bytes) -> Position:
    return Position(UUID(bytes=data[:16]), *struct.unpack("<II", data[16:]))


def _columns(batch: Batch) -> list[list[float]]:
    return [column.tolist() for column in (batch.ts_us, batch.value, batch.tag_id, batch.status, batch.kind)]


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise NoRecord(what)
