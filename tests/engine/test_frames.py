"""encode_frame, scan_record, find_record and decode_frame: the journal's records, against the format and an oracle."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import decode_frame, encode_frame, find_record, scan_record
from engine.frames import Entry, Position, epoch_of, sequence_of
from engine.gaps import NO_GAPS, Cause, GapChanges
from engine.readings import Batch, Kind
from tests.engine import reference_frames as reference

STREAM = UUID("00112233-4455-6677-8899-aabbccddeeff").bytes
OTHER_STREAM = bytes(range(16))
SEQUENCE = sequence_of(3, 7)
JOURNALED_US = 1_750_000_000_000_000
CONNECTION = UUID("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf")

ReadingRow = tuple[int, int, int, float | None, str | None]


def batch_of(rows: list[ReadingRow]) -> Batch:
    """Return rows of (ts_us, tag_id, status, value, text) as columns."""
    return Batch(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.uint32),
        np.array([0.0 if row[3] is None else row[3] for row in rows], np.float64),
        np.array(
            [(row[3] is not None) * Kind.NUMBER | (row[4] is not None) * Kind.TEXT for row in rows], np.uint8
        ),
        {place: row[4] for place, row in enumerate(rows) if row[4] is not None},
    )


def exact(data: bytes) -> memoryview:
    """Return the bytes in memory of just their size, so that an address sanitizer sees a read behind them."""
    return np.frombuffer(data, np.uint8).copy().data


def encode(entry: Entry) -> bytes:
    """Encode an entry with the stream, sequence and time of this file."""
    return bytes(encode_frame(entry, STREAM, SEQUENCE, JOURNALED_US))


def resealed(record: bytes, *, at: int, bytes_there: bytes) -> bytes:
    """Return the record with other bytes at a place, and the checksum that belongs to them."""
    changed = record[:at] + bytes_there + record[at + len(bytes_there) :]
    return reference.sealed(changed[8 : reference.HEADER_BYTES], changed[reference.HEADER_BYTES :])


SMALL = Entry(
    batch_of([(1, 2, 3, 1.5, None), (4, 5, 6, None, "a\0\udcff"), (7, 8, 9, None, None)]),
    GapChanges(
        reference.gaps_of([(10, 11, 12, Cause.OUTAGE)]), reference.gaps_of([(13, 14, -15, Cause.OVERFLOW)])
    ),
    (Position(CONNECTION, 16, 17),),
)

texts = st.text(max_size=12) | st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
rows = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.none() | st.floats(),
    st.none() | texts,
)
gaps = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.sampled_from(Cause).map(int),
    ),
    max_size=4,
).map(reference.gaps_of)
positions = st.builds(Position, st.uuids(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
entries = st.builds(
    Entry,
    st.lists(rows, max_size=12).map(batch_of),
    st.builds(GapChanges, gaps, gaps),
    st.lists(positions, max_size=3),
)
streams = st.binary(min_size=16, max_size=16)


def test_a_record_is_byte_for_byte_what_the_format_says() -> None:
    payload = bytes.fromhex(
        "03000000 01000000 03000000 01000000 01000000 01000000"  # rows, texts, their bytes, gaps twice, positions
        "0100000000000000 0400000000000000 0700000000000000"  # ts_us
        "000000000000f83f 0000000000000000 0000000000000000"  # value
        "02000000 05000000 08000000"  # tag_id
        "03000000 06000000 09000000"  # status
        "01 02 00 0000000000"  # kind, zeros
        "01000000 03000000 6100ff 0000000000"  # the text of row 1: a, NUL, a byte that is no UTF-8; zeros
        "0a00000000000000 0d00000000000000"  # from_us, the recorded gap first
        "0b00000000000000 0e00000000000000"  # to_us
        "0c000000 f1ffffff"  # tag_id
        "01 04 000000000000"  # cause, zeros
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 10000000 11000000"  # the position
    )
    fields = bytes.fromhex(
        "c0000000 01000000"  # bytes of the payload, type
        "00112233445566778899aabbccddeeff"  # stream
        "0300000000000000 0700000000030000"  # epoch, sequence
        "00605ba09d370600"  # journaled at
    )
    assert struct.unpack("<q", fields[-8:]) == (JOURNALED_US,)
    assert len(payload) == 0xC0
    assert encode(SMALL) == b"SREC" + struct.pack("<I", reference.crc32c(fields + payload)) + fields + payload


@settings(max_examples=150, deadline=None)
@given(
    entry=entries,
    stream=streams,
    sequence=st.builds(sequence_of, st.integers(1, 2**23 - 1), st.integers(0, 2**40 - 1)),
    journaled_us=st.integers(-(2**63), 2**63 - 1),
    before=st.integers(0, 3),
)
def test_an_entry_is_encoded_as_the_oracle_does_and_comes_back_as_it_was(
    entry: Entry, stream: bytes, sequence: int, journaled_us: int, before: int
) -> None:
    record = encode_frame(entry, stream, sequence, journaled_us)
    assert record == reference.encode(entry, stream, sequence, journaled_us)
    data, offset = exact(bytes(8 * before) + record), 8 * before
    scanned = scan_record(data, offset, stream)
    assert scanned is not None
    assert (scanned.offset, scanned.nbytes) == (offset, len(record))
    assert (scanned.sequence, scanned.epoch, scanned.stream) == (sequence, epoch_of(sequence), stream)
    assert (scanned.journaled_us, scanned.rows) == (journaled_us, len(entry.batch))
    assert find_record(data, 0, stream) == offset
    theirs, _, _ = reference.decode(bytes(data), offset)
    reference.same(Entry(*decode_frame(data, offset)), theirs)
    reference.same(
        replace(theirs, batch=replace(theirs.batch, texts={})),
        replace(entry, batch=replace(entry.batch, texts={})),
    )
    for row, text in entry.batch.texts.items():
        assert theirs.batch.texts[row].encode("utf-8", "surrogateescape") == reference.raw_text(text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_a_text_that_was_no_utf8_comes_back_as_the_same_text(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    batch, _, _ = decode_frame(encode(Entry(batch_of([(0, 1, 0, None, text)]), GapChanges())), 0)
    assert batch.texts == {0: text}


@pytest.mark.parametrize(
    "entry",
    [
        Entry(batch_of([]), GapChanges()),
        Entry(batch_of([]), SMALL.gaps),
        Entry(batch_of([]), GapChanges(NO_GAPS, SMALL.gaps.recovered)),
        Entry(batch_of([]), GapChanges(), SMALL.positions),
        Entry(batch_of([(0, 1, 0, None, "")]), GapChanges()),
    ],
    ids=["nothing", "gaps", "recovered gaps", "positions", "an empty text"],
)
def test_an_entry_may_hold_one_thing_or_nothing(entry: Entry) -> None:
    reference.same(Entry(*decode_frame(encode(entry), 0)), entry)


@pytest.mark.parametrize("rows", [1_000, 100_000])
def test_many_rows_come_back_and_the_record_is_not_kept_by_them(rows: int) -> None:
    """100,000 rows are so long that other threads run meanwhile."""
    random = np.random.default_rng(seed=rows)
    batch = Batch(
        random.integers(-(2**63), 2**63 - 1, rows),
        random.integers(-(2**31), 2**31 - 1, rows, dtype=np.int32),
        random.integers(0, 2**32 - 1, rows, dtype=np.uint32),
        random.normal(size=rows),
        np.full(rows, Kind.NUMBER, np.uint8),
    )
    record = encode_frame(Entry(batch, GapChanges()), STREAM, SEQUENCE, JOURNALED_US)
    scanned = scan_record(record, 0)
    assert scanned is not None
    assert scanned.nbytes == len(record)
    back, _, _ = decode_frame(record, 0)
    record[:] = bytes(len(record))
    reference.same(Entry(back, GapChanges()), Entry(batch, GapChanges()))


def test_each_bit_that_flips_is_seen() -> None:
    record = encode(SMALL)
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        assert scan_record(flipped, 0) is None, f"bit {bit}"
        with pytest.raises(ValueError, match="no valid record at byte 0"):
            decode_frame(flipped, 0)


def test_a_record_cut_short_anywhere_is_none() -> None:
    record = encode(SMALL)
    for size in range(len(record)):
        data = exact(record[:size])
        assert scan_record(data, 0) is None
        assert find_record(data, 0) == -1
        with pytest.raises(ValueError, match="no valid record"):
            decode_frame(data, 0)


FIELDS = {"nbytes": 8, "type": 12, "epoch": 32} | {
    name: 56 + 4 * place
    for place, name in enumerate(["rows", "texts", "text bytes", "recorded", "recovered", "positions"])
}
_KINDS_AT = 56 + 24 + 3 * 24
_TEXT_AT = 56 + 104
_CAUSES_AT = 56 + 104 + 16 + 40


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(sorted(FIELDS)),
    number=st.integers(0, 2**32 - 1) | st.sampled_from([2**31, 2**32 - 1]) | st.integers(0, 64),
)
def test_a_count_that_is_wrong_under_a_right_checksum_is_seen(field: str, number: int) -> None:
    record = resealed(encode(SMALL), at=FIELDS[field], bytes_there=struct.pack("<I", number))
    assert (scan_record(exact(record), 0) is None) == (record != encode(SMALL))


@pytest.mark.parametrize(
    ("what", "at", "bytes_there"),
    [
        ("a kind that there is not", _KINDS_AT, b"\x04"),
        ("a kind that announces a text", _KINDS_AT, b"\x02"),
        ("a kind that announces none", _KINDS_AT + 1, b"\x01"),
        ("the text of a row that announces none", _TEXT_AT, struct.pack("<I", 0)),
        ("the text of a row behind the last", _TEXT_AT, struct.pack("<I", 3)),
        ("a text that is longer than all of them", _TEXT_AT + 4, struct.pack("<I", 2**32 - 1)),
        ("a text that is shorter", _TEXT_AT + 4, struct.pack("<I", 2)),
        ("no cause", _CAUSES_AT, b"\x00"),
        ("a cause that there is not", _CAUSES_AT + 1, bytes([max(Cause) + 1])),
        ("a sequence that no bigint holds", 32, struct.pack("<QQ", 2**63 >> 40, 2**63)),
        ("no sequence", 32, bytes(16)),
    ],
)
def test_contents_that_do_not_agree_under_a_right_checksum_are_seen(
    what: str, at: int, bytes_there: bytes
) -> None:
    changed = resealed(encode(SMALL), at=at, bytes_there=bytes_there)
    assert scan_record(exact(changed), 0) is None, what
    with pytest.raises(reference.NoRecord):
        reference.decode(changed, 0)


def test_the_texts_of_two_rows_have_to_be_in_the_order_of_rows() -> None:
    two = Entry(batch_of([(0, 1, 0, None, "ab"), (0, 1, 0, None, "cd")]), GapChanges())
    swapped = struct.pack("<IIII", 1, 2, 0, 2)
    assert scan_record(resealed(encode(two), at=56 + 24 + 56, bytes_there=swapped), 0) is None
    twice = struct.pack("<IIII", 1, 2, 1, 2)
    assert scan_record(resealed(encode(two), at=56 + 24 + 56, bytes_there=twice), 0) is None


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=200), entry=entries)
def test_a_record_behind_garbage_is_found(garbage: bytes, entry: Entry) -> None:
    record = encode(entry)
    start = len(reference.padded(garbage))
    data = exact(reference.padded(garbage) + record + b"SREC")
    assert find_record(data, 0) == start
    assert find_record(data, start) == start
    assert find_record(data, start + 1) == -1


def test_a_record_is_found_at_multiples_of_8_only() -> None:
    record = encode(SMALL)
    assert find_record(bytes(4) + record, 0) == -1
    assert find_record(bytes(4) + record + bytes(4) + record, 4) == len(record) + 8
    assert find_record(record, len(record)) == -1
    assert find_record(b"", 0) == -1


def test_a_record_of_another_stream_is_none_where_a_stream_is_asked_for() -> None:
    mine = encode(SMALL)
    other = bytes(encode_frame(SMALL, OTHER_STREAM, SEQUENCE, 0))
    assert scan_record(other, 0) is not None
    assert scan_record(other, 0, STREAM) is None
    assert find_record(other + mine, 0, STREAM) == len(other)
    with pytest.raises(ValueError, match="is not 16 bytes"):
        scan_record(other, 0, b"short")


def test_a_record_inside_of_a_text_is_not_found_while_the_one_around_it_is_whole() -> None:
    fake = encode_frame(SMALL, OTHER_STREAM, SEQUENCE, 0).decode("utf-8", "surrogateescape")
    text = "".join(["x" * pad + fake for pad in range(8)])
    around = encode(Entry(batch_of([(0, 1, 0, None, text)]), GapChanges()))
    assert find_record(around, 0) == 0
    assert find_record(around, 8) > 0, "without a stream it cannot be told from a real one"
    assert find_record(around, 8, STREAM) == -1


@pytest.mark.parametrize("offset", [-1, 9])
def test_an_offset_outside_of_the_data_is_refused(offset: int) -> None:
    for read in (scan_record, find_record, decode_frame):
        with pytest.raises(ValueError, match=f"offset: {offset} is outside of 8 bytes"):
            read(bytes(8), offset)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (replace(SMALL, batch=replace(SMALL.batch, kind=SMALL.batch.kind[:2])), "different lengths"),
        (replace(SMALL, batch=replace(SMALL.batch, value=SMALL.batch.value[:2])), "different lengths"),
        (replace(SMALL, batch=replace(SMALL.batch, texts={})), "1 rows announce a text, 0 have one"),
        (replace(SMALL, batch=replace(SMALL.batch, texts={0: "text"})), "row 0 has a text"),
        (replace(SMALL, batch=replace(SMALL.batch, ts_us=np.zeros(3, np.int32))), "dtype"),
        (
            Entry(replace(batch_of([(0, 1, 0, 1.0, None)]), kind=np.array([5], np.uint8)), GapChanges()),
            "kind",
        ),
        (Entry(SMALL.batch, GapChanges(reference.gaps_of([(0, 1, 2, 0)]))), "cause"),
        (
            Entry(SMALL.batch, GapChanges(replace(SMALL.gaps.recorded, to_us=np.zeros(0, np.int64)))),
            "different lengths",
        ),
        (replace(SMALL, positions=[Position(CONNECTION, 2**32, 0)]), "positions: 4294967296 is not within"),
        (replace(SMALL, positions=[Position(CONNECTION, 0, -1)]), "positions: -1 is not within"),
    ],
)
def test_an_entry_that_could_not_be_read_again_is_refused(entry: Entry, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        encode(entry)


def test_a_record_never_has_a_number_that_its_header_cannot_hold() -> None:
    for sequence in (0, -1, 2**63):
        with pytest.raises(ValueError, match=f"sequence: {sequence} is not within"):
            encode_frame(SMALL, STREAM, sequence, 0)
    with pytest.raises(ValueError, match="stream: 15 bytes where 16 belong"):
        encode_frame(SMALL, STREAM[1:], 1, 0)


def test_an_entry_that_is_too_long_for_a_record_is_refused() -> None:
    """All columns are views into one: as long as this, they take memory."""
    rows = 256 * 1024 * 1024 // 25
    zeros = np.zeros(rows, np.int64)
    halves, bytes_ = (
        zeros[: rows // 2 + 1].view(np.int32)[:rows],
        zeros[: rows // 8 + 1].view(np.uint8)[:rows],
    )
    batch = Batch(zeros, halves, halves.view(np.uint32), zeros.view(np.float64), bytes_)
    with pytest.raises(ValueError, match="more than a record holds"):
        encode(Entry(batch, GapChanges()))
