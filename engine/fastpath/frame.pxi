# Frame: an entry of the journal <-> the bytes of its record. The format stands in engine/journal/__init__.py.
#
# A record's bytes may be anything: a disk lost some, or somebody wrote them. `is_record` is the only judge: what it has
# accepted can be decoded without another check, because it has seen the CRC, that the parts fill the payload exactly,
# and that rows, texts, gaps and kinds agree. All lengths are summed in 64 bits, where no count of 32 bits overflows.
# `encode_frame` refuses what `is_record` would refuse, so nothing is written that cannot be read.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from uuid import UUID

import numpy as np

from engine.frames import Position
from engine.gaps import Cause, GapChanges, Gaps
from engine.readings import Batch

cdef enum:
    RECORD_HEADER_BYTES = 56
    FRAME_HEADER_BYTES = 24
    MOST_PAYLOAD_BYTES = 256 * 1024 * 1024
    TYPE_FRAME = 1
    SEQUENCE_EPOCH_SHIFT = 40   # engine.frames.EPOCH_SHIFT
    ROW_COLUMNS_BYTES = 25
    TEXT_HEAD_BYTES = 8
    GAP_COLUMNS_BYTES = 21
    POSITION_BYTES = 24
    # From here on the work is worth letting another thread run: for less, getting the GIL back costs more than it.
    LONG_BYTES = 1024 * 1024

cdef uint64_t MOST_SEQUENCE = 0x7FFFFFFFFFFFFFFF   # what a bigint holds
cdef int CAUSES_END = max(Cause) + 1
cdef bytes RECORD_MAGIC = b"SREC"


cdef struct Parts:  # of one payload: counts, and where each part begins in it
    uint64_t rows
    uint64_t texts
    uint64_t text_bytes
    uint64_t recorded
    uint64_t recovered
    uint64_t positions
    uint64_t texts_at
    uint64_t gaps_at
    uint64_t positions_at
    uint64_t nbytes


cdef inline uint64_t padded(uint64_t nbytes) noexcept nogil:
    return (nbytes + 7) & ~<uint64_t>7


cdef void place_parts(Parts* parts) noexcept nogil:
    """Fill in the places from the counts."""
    parts.texts_at = padded(FRAME_HEADER_BYTES + parts.rows * ROW_COLUMNS_BYTES)
    parts.gaps_at = padded(parts.texts_at + parts.texts * TEXT_HEAD_BYTES + parts.text_bytes)
    parts.positions_at = padded(parts.gaps_at + (parts.recorded + parts.recovered) * GAP_COLUMNS_BYTES)
    parts.nbytes = parts.positions_at + parts.positions * POSITION_BYTES


cdef inline void put_le32(uint8_t* at, uint32_t number) noexcept:
    memcpy(at, &number, 4)


cdef inline void put_le64(uint8_t* at, uint64_t number) noexcept:
    memcpy(at, &number, 8)


# --- out

def encode_frame(entry, bytes stream not None, sequence, int64_t journaled_us):
    """Return the record of an Entry, from its magic to its padding.

    `stream` is the UUID's 16 bytes. Raises ValueError for columns that do not belong together, for a number that its
    field cannot hold, and for an entry of more than 256 MiB.
    """
    cdef Parts parts
    cdef uint8_t* record
    cdef uint8_t* payload
    cdef list texts
    cdef uint64_t size
    if PyBytes_GET_SIZE(stream) != 16:
        raise ValueError(f"stream: {PyBytes_GET_SIZE(stream)} bytes where 16 belong")
    if not 0 < sequence <= MOST_SEQUENCE:
        raise ValueError(f"sequence: {sequence} is not within 1 .. 2**63 - 1")
    batch, gaps = entry.batch, entry.gaps
    texts = frame_texts(batch)
    parts.rows = len(batch.ts_us)
    parts.texts = len(texts)
    parts.text_bytes = 0
    for _, text in texts:
        parts.text_bytes += <uint64_t>PyBytes_GET_SIZE(text)
    parts.recorded = len(gaps.recorded)
    parts.recovered = len(gaps.recovered)
    parts.positions = len(entry.positions)
    place_parts(&parts)
    if parts.nbytes > MOST_PAYLOAD_BYTES:
        raise ValueError(f"an entry of {parts.nbytes} bytes is more than a record holds, {MOST_PAYLOAD_BYTES}")
    size = RECORD_HEADER_BYTES + parts.nbytes
    encoded = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>size)
    record = <uint8_t*>PyByteArray_AS_STRING(encoded)
    payload = record + RECORD_HEADER_BYTES
    memcpy(record, PyBytes_AS_STRING(RECORD_MAGIC), 4)
    put_le32(record + 8, <uint32_t>parts.nbytes)
    put_le32(record + 12, TYPE_FRAME)
    memcpy(record + 16, PyBytes_AS_STRING(stream), 16)
    put_le64(record + 32, <uint64_t>sequence >> SEQUENCE_EPOCH_SHIFT)
    put_le64(record + 40, <uint64_t>sequence)
    put_le64(record + 48, <uint64_t>journaled_us)
    put_counts(payload, &parts)
    put_columns(payload, &parts, batch.ts_us, batch.value, batch.tag_id, batch.status, batch.kind)
    put_texts(payload, &parts, texts)
    put_gaps(payload, &parts, 0, gaps.recorded)
    put_gaps(payload, &parts, parts.recorded, gaps.recovered)
    memset_between(payload, parts.gaps_at + (parts.recorded + parts.recovered) * GAP_COLUMNS_BYTES, parts.positions_at)
    put_positions(payload + parts.positions_at, entry.positions)
    if size < LONG_BYTES:
        put_le32(record + 4, crc_of(record + 8, size - 8))
    else:
        with nogil:
            parts.nbytes = crc_of(record + 8, size - 8)
        put_le32(record + 4, <uint32_t>parts.nbytes)
    return encoded


cdef list frame_texts(batch):
    """Return (row, bytes) sorted by row."""
    cdef list ordered = sorted(batch.texts.items())
    check_texts(batch.kind, ordered)
    return [(row, text_bytes(text)) for row, text in ordered]


cdef bytes text_bytes(str text):
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte: it becomes three, which come back as surrogates that do.
        return text.encode("utf-8", "surrogatepass")


cdef void memset_between(uint8_t* payload, uint64_t first, uint64_t end) noexcept:
    memset(payload + first, 0, end - first)


cdef void put_counts(uint8_t* payload, const Parts* parts) noexcept:
    put_le32(payload, <uint32_t>parts.rows)
    put_le32(payload + 4, <uint32_t>parts.texts)
    put_le32(payload + 8, <uint32_t>parts.text_bytes)
    put_le32(payload + 12, <uint32_t>parts.recorded)
    put_le32(payload + 16, <uint32_t>parts.recovered)
    put_le32(payload + 20, <uint32_t>parts.positions)


cdef int put_columns(
    uint8_t* payload,
    const Parts* parts,
    const int64_t[::1] ts_us,
    const double[::1] value,
    const int32_t[::1] tag_id,
    const uint32_t[::1] status,
    const uint8_t[::1] kind,
) except -1:
    cdef Py_ssize_t rows = ts_us.shape[0]
    cdef uint8_t* at = payload + FRAME_HEADER_BYTES
    check_columns(rows, tag_id.shape[0], status.shape[0], value.shape[0], kind.shape[0])
    if rows > 0:
        if not are_kinds(&kind[0], rows):
            raise ValueError("kind: a row has one that there is not")
        memcpy(at, &ts_us[0], 8 * rows)
        memcpy(at + 8 * rows, &value[0], 8 * rows)
        memcpy(at + 16 * rows, &tag_id[0], 4 * rows)
        memcpy(at + 20 * rows, &status[0], 4 * rows)
        memcpy(at + 24 * rows, &kind[0], rows)
    memset_between(payload, FRAME_HEADER_BYTES + <uint64_t>rows * ROW_COLUMNS_BYTES, parts.texts_at)
    return 0


cdef int put_texts(uint8_t* payload, const Parts* parts, list texts) except -1:
    cdef uint8_t* head = payload + parts.texts_at
    cdef uint8_t* at = head + parts.texts * TEXT_HEAD_BYTES
    cdef bytes text
    cdef Py_ssize_t row, size
    for row, text in texts:
        size = PyBytes_GET_SIZE(text)
        put_le32(head, <uint32_t>row)
        put_le32(head + 4, <uint32_t>size)
        memcpy(at, PyBytes_AS_STRING(text), size)
        head += TEXT_HEAD_BYTES
        at += size
    memset_between(payload, <uint64_t>(at - payload), parts.gaps_at)
    return 0


cdef int put_gaps(uint8_t* payload, const Parts* parts, uint64_t first, gaps) except -1:
    """Write some gaps into their places in the columns that recorded and recovered ones share."""
    cdef uint64_t total = parts.recorded + parts.recovered
    cdef uint8_t* at = payload + parts.gaps_at
    cdef Py_ssize_t rows = len(gaps)
    cdef const int64_t[::1] from_us, to_us
    cdef const int32_t[::1] tag_id
    cdef const uint8_t[::1] cause
    if rows == 0:
        return 0
    from_us, to_us, tag_id, cause = gaps.from_us, gaps.to_us, gaps.tag_id, gaps.cause
    check_columns(rows, from_us.shape[0], to_us.shape[0], tag_id.shape[0], cause.shape[0])
    if not are_causes(&cause[0], rows):
        raise ValueError("cause: a gap has one that there is not")
    memcpy(at + 8 * first, &from_us[0], 8 * rows)
    memcpy(at + 8 * total + 8 * first, &to_us[0], 8 * rows)
    memcpy(at + 16 * total + 4 * first, &tag_id[0], 4 * rows)
    memcpy(at + 20 * total + first, &cause[0], rows)
    return 0


cdef int put_positions(uint8_t* at, positions) except -1:
    cdef bytes connection
    for position in positions:
        for number in (position.subscription_id, position.sequence_number):
            if not 0 <= number <= 0xFFFFFFFF:
                raise ValueError(f"positions: {number} is not within 0 .. 2**32 - 1")
        connection = position.connection_id.bytes
        memcpy(at, PyBytes_AS_STRING(connection), 16)
        put_le32(at + 16, <uint32_t>position.subscription_id)
        put_le32(at + 20, <uint32_t>position.sequence_number)
        at += POSITION_BYTES
    return 0


# --- in

cdef class Scanned:
    """What the header of one valid record says."""

    cdef readonly Py_ssize_t offset
    cdef readonly Py_ssize_t nbytes
    cdef readonly uint64_t sequence
    cdef readonly uint64_t epoch
    cdef readonly int64_t journaled_us
    cdef readonly uint32_t rows
    cdef readonly bytes stream


cdef bint is_record(const uint8_t* at, uint64_t left, const uint8_t* stream, Parts* parts) noexcept nogil:
    """Say whether a whole and valid record begins here, of this stream if one is given; fill in its parts."""
    cdef uint64_t sequence, size
    if left < RECORD_HEADER_BYTES + FRAME_HEADER_BYTES or not is_magic(at):
        return False
    size = le32(at + 8)
    if size < FRAME_HEADER_BYTES or size > MOST_PAYLOAD_BYTES or size > left - RECORD_HEADER_BYTES:
        return False
    if stream != NULL and memcmp(at + 16, stream, 16) != 0:
        return False
    sequence = le64(at + 40)
    if le32(at + 12) != TYPE_FRAME or not 0 < sequence <= MOST_SEQUENCE:
        return False
    if le64(at + 32) != sequence >> SEQUENCE_EPOCH_SHIFT:
        return False
    at += RECORD_HEADER_BYTES
    parts.rows = le32(at)
    parts.texts = le32(at + 4)
    parts.text_bytes = le32(at + 8)
    parts.recorded = le32(at + 12)
    parts.recovered = le32(at + 16)
    parts.positions = le32(at + 20)
    place_parts(parts)
    if parts.nbytes != size:
        return False
    at -= RECORD_HEADER_BYTES
    if crc_of(at + 8, RECORD_HEADER_BYTES - 8 + size) != le32(at + 4):
        return False
    return is_frame(at + RECORD_HEADER_BYTES, parts)


cdef inline bint is_magic(const uint8_t* at) noexcept nogil:
    return at[0] == 0x53 and at[1] == 0x52 and at[2] == 0x45 and at[3] == 0x43   # RECORD_MAGIC


cdef bint is_frame(const uint8_t* payload, const Parts* parts) noexcept nogil:
    """Say whether the contents of parts that are in their places agree with each other."""
    cdef const uint8_t* kind = payload + FRAME_HEADER_BYTES + parts.rows * 24
    cdef const uint8_t* head = payload + parts.texts_at
    cdef uint64_t gaps = parts.recorded + parts.recovered
    cdef uint64_t row, least_row = 0, text_bytes = 0, announced = 0, place
    if not are_kinds(kind, parts.rows) or not are_causes(payload + parts.gaps_at + gaps * 20, gaps):
        return False
    for place in range(parts.rows):
        announced += (kind[place] & KIND_TEXT) >> 1
    if announced != parts.texts:
        return False
    for place in range(parts.texts):
        row = le32(head)
        if row < least_row or row >= parts.rows or not kind[row] & KIND_TEXT:
            return False
        least_row = row + 1
        text_bytes += le32(head + 4)
        head += TEXT_HEAD_BYTES
    return text_bytes == parts.text_bytes


cdef bint are_kinds(const uint8_t* kind, uint64_t rows) noexcept nogil:
    cdef uint8_t seen = 0
    cdef uint64_t row
    for row in range(rows):
        seen |= kind[row]
    return seen <= (KIND_NUMBER | KIND_TEXT)


cdef bint are_causes(const uint8_t* cause, uint64_t gaps) noexcept nogil:
    cdef uint64_t gap
    for gap in range(gaps):
        if not 0 < cause[gap] < CAUSES_END:
            return False
    return True


cdef const uint8_t* stream_bytes(stream) except? NULL:
    """Return the 16 bytes that records must have; NULL for None."""
    if stream is None:
        return NULL
    if not isinstance(stream, bytes) or PyBytes_GET_SIZE(stream) != 16:
        raise ValueError(f"stream: {stream!r} is not 16 bytes")
    return <const uint8_t*>PyBytes_AS_STRING(stream)


def scan_record(data, Py_ssize_t offset, stream=None):
    """Return what the record at `offset` says, or None where no whole and valid one begins there.

    With `stream`, records of other streams count as none. Raises ValueError for an offset outside of `data`.
    """
    cdef const uint8_t[::1] view = data
    cdef const uint8_t* wanted = stream_bytes(stream)
    cdef const uint8_t* at
    cdef Parts parts
    cdef Scanned scanned
    cdef uint64_t left = left_behind(view.shape[0], offset)
    cdef bint found
    if left == 0:
        return None
    at = &view[offset]
    if left < LONG_BYTES or le32(at + 8) < LONG_BYTES:
        found = is_record(at, left, wanted, &parts)
    else:
        with nogil:
            found = is_record(at, left, wanted, &parts)
    if not found:
        return None
    scanned = Scanned.__new__(Scanned)
    scanned.offset = offset
    scanned.nbytes = <Py_ssize_t>padded(RECORD_HEADER_BYTES + parts.nbytes)
    scanned.sequence = le64(at + 40)
    scanned.epoch = le64(at + 32)
    scanned.journaled_us = <int64_t>le64(at + 48)
    scanned.rows = <uint32_t>parts.rows
    scanned.stream = PyBytes_FromStringAndSize(<const char*>at + 16, 16)
    return scanned


cdef uint64_t left_behind(Py_ssize_t size, Py_ssize_t offset) except? 0:
    if not 0 <= offset <= size:
        raise ValueError(f"offset: {offset} is outside of {size} bytes")
    return <uint64_t>(size - offset)


def find_record(data, Py_ssize_t offset, stream=None):
    """Return the first multiple of 8, from `offset` on, at which scan_record finds a record; -1 if there is none.

    `stream` as there. Give it for bytes that somebody else can have a hand in, as they have in the texts of readings:
    without it, such bytes can look like a record, and like so many that the search is a long one.
    """
    cdef const uint8_t[::1] view = data
    cdef const uint8_t* wanted = stream_bytes(stream)
    cdef const uint8_t* start
    cdef Parts parts
    cdef uint64_t size = <uint64_t>view.shape[0]
    cdef uint64_t place = padded(size - left_behind(view.shape[0], offset))
    cdef Py_ssize_t found = -1
    if place >= size:
        return -1
    start = &view[0]
    with nogil:
        while place < size:
            if is_record(start + place, size - place, wanted, &parts):
                found = <Py_ssize_t>place
                break
            place += 8
    return found


def decode_frame(data, Py_ssize_t offset):
    """Return (Batch, GapChanges, positions) of the record at `offset`; the columns are views into one copy of them.

    Raises ValueError where scan_record returns None, and for an offset outside of `data`.
    """
    cdef const uint8_t[::1] view = data
    cdef const uint8_t* at
    cdef Parts parts
    cdef uint64_t left = left_behind(view.shape[0], offset)
    cdef bint found = False
    if left > 0:
        at = &view[offset]
        if left < LONG_BYTES or le32(at + 8) < LONG_BYTES:
            found = is_record(at, left, NULL, &parts)
        else:
            with nogil:
                found = is_record(at, left, NULL, &parts)
    if not found:
        raise ValueError(f"there is no valid record at byte {offset} of {view.shape[0]}")
    at += RECORD_HEADER_BYTES
    return batch_of(at, &parts), gap_changes_of(at, &parts), positions_of(at, &parts)


cdef copied(const uint8_t* at, uint64_t size):
    """Return the bytes as a fresh array."""
    fresh = np.empty(size, np.uint8)
    cdef uint8_t[::1] target = fresh
    cdef uint8_t* to
    if size > 0:
        to = &target[0]
        if size < LONG_BYTES:
            memcpy(to, at, size)
        else:
            with nogil:
                memcpy(to, at, size)
    return fresh


cdef batch_of(const uint8_t* payload, const Parts* parts):
    cdef uint64_t n = parts.rows
    columns = copied(payload + FRAME_HEADER_BYTES, n * ROW_COLUMNS_BYTES)
    return Batch(
        columns[:8 * n].view(np.int64),
        columns[16 * n:20 * n].view(np.int32),
        columns[20 * n:24 * n].view(np.uint32),
        columns[8 * n:16 * n].view(np.float64),
        columns[24 * n:],
        texts_of(payload, parts),
    )


cdef dict texts_of(const uint8_t* payload, const Parts* parts):
    cdef dict texts = {}
    cdef const uint8_t* head = payload + parts.texts_at
    cdef const uint8_t* at = head + parts.texts * TEXT_HEAD_BYTES
    cdef Py_ssize_t size
    cdef uint64_t place
    for place in range(parts.texts):
        size = <Py_ssize_t>le32(head + 4)
        texts[le32(head)] = PyUnicode_DecodeUTF8(<const char*>at, size, "surrogateescape")
        head += TEXT_HEAD_BYTES
        at += size
    return texts


cdef gap_changes_of(const uint8_t* payload, const Parts* parts):
    cdef uint64_t g = parts.recorded + parts.recovered
    if g == 0:
        return GapChanges()
    columns = copied(payload + parts.gaps_at, g * GAP_COLUMNS_BYTES)
    both = Gaps(
        np.zeros(g, np.uint32),
        columns[16 * g:20 * g].view(np.int32),
        columns[:8 * g].view(np.int64),
        columns[8 * g:16 * g].view(np.int64),
        columns[20 * g:],
    )
    return GapChanges(both.where(slice(0, parts.recorded)), both.where(slice(parts.recorded, g)))


cdef tuple positions_of(const uint8_t* payload, const Parts* parts):
    cdef const uint8_t* at = payload + parts.positions_at
    cdef list positions = []
    cdef uint64_t place
    for place in range(parts.positions):
        connection = UUID(bytes=PyBytes_FromStringAndSize(<const char*>at, 16))
        positions.append(Position(connection, le32(at + 16), le32(at + 20)))
        at += POSITION_BYTES
    return tuple(positions)
