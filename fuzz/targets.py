"""The targets: a name, and what is done with one input. None needs a fuzzer; tests run the kept corpus through them.

Every target raises AssertionError, or whatever the code let out that it must not, for an input that shows a fault.
The first byte of most inputs chooses what surrounds the message: the ring, rows in it, elements to pick.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine import variants
from engine._fastpath import (
    Ring,
    crc32c,
    decode_copy,
    decode_created_items,
    decode_frame,
    decode_history,
    decode_publish,
    decode_read,
    encode_copy,
    encode_frame,
    find_record,
    scan_record,
)
from engine.errors import DatabaseError, MalformedMessage
from engine.frames import Entry
from engine.outcomes import Outcome
from engine.structures import STRUCTURE, StructureDefinition, StructureField, StructureKind, StructureTypes
from fuzz import oracle
from tests.engine import reference_decoder, reference_frames
from tests.engine.reference_codec import NOT_OURS, Message, Row, encode, extension_object, numeric_node_id

# Rows of the ring, and rows in it before: room for everything, for little, for one row, for nothing.
_RINGS = ((1_024, 0), (64, 7), (4, 3), (1, 1))
_ELEMENTS_BIT = 0x04
_ELEMENTS = np.array([-1, 0, 1, 2, 5, 2**31 - 1], np.int32)
_ROOMY = b"\x00"
_SEALED_BIT = 0x01
_LEAST_TS_US = -210_866_803_200_000_000  # 4714-11-24 BC, where timestamptz begins
_BAD = 0x80000000
_MOST_RESULTS = 8
# Field names are written again for each value, so such a text is bounded by the parts that one value may have.
_MOST_NAMED_TEXT = 64 * variants.MOST_PARTS


@dataclass(frozen=True, slots=True)
class _Case:
    """What the first byte chooses, and the message behind it."""

    ring: Ring
    capacity_rows: int
    before: int
    elements: NDArray[np.int32] | None
    message: bytes

    @staticmethod
    def of(data: bytes) -> _Case:
        choice = data[0] if data else 0
        rows, before = _RINGS[choice % len(_RINGS)]
        elements = _ELEMENTS if choice & _ELEMENTS_BIT else None
        return _Case(oracle.ring_of(rows, before), rows, before, elements, data[1:])

    def unchanged(self, exc: MalformedMessage) -> None:
        """Check that a refusal names a place, and left the ring as it was."""
        assert 0 <= exc.offset <= len(self.message), (
            f"the error is at byte {exc.offset} of {len(self.message)}"
        )
        oracle.taken_in(self.ring, self.before, 0, len(self.message))

    def grown(self, outcome: int, rows: int, most_more_text: int = 0) -> list[Row]:
        """Check what an answer did to the ring; return the rows."""
        new = oracle.taken_in(self.ring, self.before, rows, len(self.message), most_more_text)
        if outcome in (Outcome.RING_FULL, Outcome.FAULT):
            assert new == [], f"{len(new)} rows with {Outcome(outcome)!r}"
        if outcome == Outcome.RING_FULL:
            assert self.before > 0, "an empty ring is full"
        return new


def publish(
    data: bytes, *, text_of: Callable[[bytes], str | None] = variants.text_of, most_more_text: int = 0
) -> None:
    """decode_publish: what goes into the ring is what the slow reference decoder reads, or nothing."""
    case = _Case.of(data)
    ours: list[Row] | None = None
    depth = False
    try:
        said = decode_publish(
            oracle.exact(case.message), case.ring, oracle.slots(), oracle.RECEIVED_US, case.elements, text_of
        )
    except MalformedMessage as exc:
        case.unchanged(exc)
        depth = "cannot be JSON" in str(exc)
    else:
        ours = case.grown(said.outcome, said.rows, most_more_text)
        repr(said)
        assert (said.status_change is not None) == (said.outcome == Outcome.STATUS_CHANGE), repr(said)
        assert sum(map(len, said.event_lists)) <= len(case.message), "events are larger than their message"
        if said.outcome == Outcome.RING_FULL:
            return
    if case.elements is not None:
        # The reference takes whole values. Elements change a row's value and status, not its time, tag or number.
        ours = None if ours is None else [Row(row.ts_us, row.slot, 0, None) for row in ours]
    _agree(case, ours, depth=depth)


def _agree(case: _Case, ours: list[Row] | None, *, depth: bool) -> None:
    """Compare with the reference; it makes no texts and has no ring, and so takes what is too deep or too much."""
    theirs: list[Row] | None = None
    with suppress(reference_decoder.Broken):
        theirs = reference_decoder.decode(case.message, oracle.SLOTS, oracle.RECEIVED_US)
    if ours is None and theirs is not None and (depth or len(theirs) > case.capacity_rows):
        return
    if theirs is not None and case.elements is not None:
        theirs = [Row(row.ts_us, row.slot, 0, None) for row in theirs]
    oracle.agree(ours, theirs)


def variant(data: bytes) -> None:
    """One Variant as the value of one item: whatever the compiled walk lets pass becomes a text, a number or a null."""
    publish(_ROOMY + around_variant(data))


def around_variant(encoded: bytes) -> bytes:
    """Return a publish response with one item whose value is this Variant."""
    body = b"\x01\x00\x00\x00" + b"\x00\x00\x00\x00\x01" + encoded + b"\xff\xff\xff\xff"
    return encode(Message([extension_object(numeric_node_id(811), body)]))


def structure(data: bytes) -> None:
    """One Variant, with structures known by their definitions: as `variant`, and bodies are read field by field."""
    publish(_ROOMY + around_variant(data), text_of=KNOWN.text_of, most_more_text=_MOST_NAMED_TEXT)


def read(data: bytes) -> None:
    """decode_read: the ring grows by what is counted, for as many values as were asked for, or not at all."""
    case, slots = _asked(data)
    try:
        said = decode_read(oracle.exact(case.message), case.ring, slots, oracle.RECEIVED_US, case.elements)
    except MalformedMessage as exc:
        case.unchanged(exc)
        return
    rows = case.grown(said.outcome, said.rows)
    repr(said)
    if said.outcome == Outcome.DATA:
        assert len(rows) == np.count_nonzero(slots != NOT_OURS), "a row for each value that is ours"


def history(data: bytes) -> None:
    """decode_history: rows lie between the times that were asked for, and are counted by result."""
    case, slots = _asked(data)
    after_us = np.full(len(slots), -1_000_000, np.int64)
    before_us = np.full(len(slots), oracle.RECEIVED_US + 1, np.int64)
    try:
        said = decode_history(
            oracle.exact(case.message),
            case.ring,
            slots,
            after_us,
            before_us,
            oracle.RECEIVED_US,
            case.elements,
        )
    except MalformedMessage as exc:
        case.unchanged(exc)
        return
    rows = case.grown(said.outcome, said.rows)
    repr(said)
    if said.outcome == Outcome.DATA:
        assert len(said.results) == len(slots), "a result for each node"
        assert sum(result.rows for result in said.results) == said.rows, repr(said.results)
        assert all(result.rows <= result.seen for result in said.results), repr(said.results)
        assert all(-1_000_000 < row.ts_us < oracle.RECEIVED_US + 1 for row in rows), (
            "a time that nobody asked for"
        )
        points = [result.continuation_point for result in said.results]
        assert sum(len(point) for point in points if point) <= len(case.message), "more than the message has"


def _asked(data: bytes) -> tuple[_Case, NDArray[np.uint32]]:
    """Return the case, and the slots of what was asked for: as many as the second byte says."""
    case = _Case.of(data[:1] + data[2:])
    return case, oracle.slots()[: data[1] % _MOST_RESULTS if len(data) > 1 else 0]


def created(data: bytes) -> None:
    """decode_created_items: all columns are filled, or none is touched."""
    items = data[0] % _MOST_RESULTS if data else 0
    message = data[1:]
    columns = (
        np.full(items, 7, np.uint32),
        np.full(items, 7, np.uint32),
        np.full(items, math.pi),
        np.full(items, 7, np.uint32),
    )
    before = [column.copy() for column in columns]
    try:
        result = decode_created_items(oracle.exact(message), *columns)
    except MalformedMessage as exc:
        oracle.placed(exc, message)
        result = _BAD
    if result & _BAD:
        assert all((was == now).all() for was, now in zip(before, columns, strict=True)), (
            "columns are touched"
        )
    else:
        # One result: two numbers, a double, a number and at least three bytes of an ExtensionObject.
        assert len(message) >= 23 * items, f"{items} results out of {len(message)} bytes"


def copy(data: bytes) -> None:
    """decode_copy: DatabaseError or rows; the rows, encoded again, are read as the same rows."""
    try:
        batch = decode_copy(oracle.exact(data))
    except DatabaseError:
        return
    assert len(batch) * 38 <= len(data), f"{len(batch)} rows out of {len(data)} bytes"
    assert set(np.flatnonzero(batch.kind & 2).tolist()) == set(batch.texts), "texts of other rows"
    if len(batch) and int(batch.ts_us.min()) < _LEAST_TS_US:
        return  # -infinity: PostgreSQL has it, we never write it
    columns = (batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind)
    again = decode_copy(encode_copy(*columns, batch.texts))
    assert again.ts_us.tolist() == batch.ts_us.tolist(), "times"
    assert again.tag_id.tolist() == batch.tag_id.tolist(), "tags"
    assert again.status.tolist() == batch.status.tolist(), "statuses"
    assert again.value.tobytes() == batch.value.tobytes(), "values"
    assert again.kind.tolist() == batch.kind.tolist(), "kinds"
    assert again.texts == batch.texts, "texts"


def frame(data: bytes) -> None:
    """The journal's records: what the reference takes is found, decoded alike and encodes to the same; else nothing.

    The first byte says whether the record gets a right checksum, which no fuzzer guesses, and how far in it begins.
    """
    choice, record = data[:1] or _ROOMY, data[1:]
    if choice[0] & _SEALED_BIT and len(record) >= reference_frames.HEADER_BYTES:
        record = _sealed(record)
    offset = choice[0] & 0x38
    memory = oracle.exact(bytes(offset) + record)
    scanned = scan_record(memory, offset)
    expected = _by_reference(memory.tobytes(), offset)
    if expected is None:
        assert scanned is None, "a record is seen where the reference sees none"
        assert not _decodes(memory, offset), "what is no record is decoded"
        return
    theirs, sequence, journaled_us = expected
    assert scanned is not None, "the reference sees a record, scan_record none"
    assert (scanned.sequence, scanned.journaled_us) == (sequence, journaled_us), "header"
    assert (scanned.rows, scanned.epoch) == (len(theirs.batch), sequence >> 40), "rows or epoch"
    assert find_record(memory, 0, scanned.stream) == offset, "it is not found"
    assert offset + scanned.nbytes <= len(memory), "longer than the data"
    ours = Entry(*decode_frame(memory, offset))
    reference_frames.same(ours, theirs)
    again = encode_frame(ours, scanned.stream, sequence, journaled_us)
    assert len(again) == scanned.nbytes, "encoded again, it has another length"
    reference_frames.same(Entry(*decode_frame(again, 0)), theirs)


def _by_reference(data: bytes, offset: int) -> tuple[Entry, int, int] | None:
    try:
        # Not the reference's own checksum, which is slow: other tests compare the two.
        return reference_frames.decode(data, offset, crc32c)
    except reference_frames.NoRecord:
        return None


def _decodes(data: memoryview, offset: int) -> bool:
    try:
        decode_frame(data, offset)
    except ValueError:
        return False
    return True


def _sealed(record: bytes) -> bytes:
    """Return the record with its own length and the checksum that belongs to it."""
    size = struct.pack("<I", len(record) - reference_frames.HEADER_BYTES)
    checked = size + record[12:]
    return b"SREC" + struct.pack("<I", crc32c(checked)) + checked


def _known() -> StructureTypes:
    """Return definitions of every kind: plain, optional fields, unions, arrays, matrices, names, and one in itself."""
    numbers = tuple(StructureField(f"N{built_in}", built_in) for built_in in range(1, 26))
    lists = (StructureField("Doubles", 11, value_rank=1), StructureField("Matrix", 6, value_rank=2))
    inner = (
        StructureField("Inner", STRUCTURE, "i=902"),
        StructureField("Many", STRUCTURE, "i=901", value_rank=1),
    )
    colour = StructureField("Colour", 6, "i=990")
    optional = tuple(replace(field, is_optional=True) for field in (*numbers[:3], *lists))
    types = StructureTypes()
    types.add_enumeration("i=990", {0: "red", 1: "green"})
    types.add("i=201", StructureDefinition("All", StructureKind.PLAIN, numbers, "i=900"))
    types.add("i=202", StructureDefinition("Nothing", StructureKind.PLAIN, (), "i=901"))
    types.add("i=203", StructureDefinition("Lists", StructureKind.PLAIN, (*lists, colour), "i=902"))
    types.add("i=204", StructureDefinition("Some", StructureKind.OPTIONAL_FIELDS, optional, "i=903"))
    types.add(
        "i=205", StructureDefinition("One", StructureKind.UNION, (numbers[10], colour, *lists), "i=904")
    )
    types.add("i=206", StructureDefinition("Nested", StructureKind.PLAIN, inner, "i=905"))
    itself = (StructureField("Again", STRUCTURE, "i=906", value_rank=1), numbers[11])
    types.add("i=207", StructureDefinition("Tree", StructureKind.PLAIN, itself, "i=906"))
    any_of = (StructureField("Any", 22, is_optional=True), StructureField("Value", 24, is_optional=True))
    types.add("i=208", StructureDefinition("Any", StructureKind.SUBTYPED_VALUES, any_of, "i=907"))
    return types


KNOWN = _known()

TARGETS: dict[str, Callable[[bytes], None]] = {
    "publish": publish,
    "variant": variant,
    "structure": structure,
    "read": read,
    "history": history,
    "created": created,
    "copy": copy,
    "frame": frame,
}
