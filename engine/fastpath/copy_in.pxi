# Copy in: what `COPY (SELECT ts, tag_id, status, value, text_value ...) TO STDOUT (FORMAT binary)` sends -> a Batch.
#
# The bytes come from a database, not from us, so they are checked as any others: DatabaseError names the place.
# A time of -infinity, infinity, or too late for int64 microseconds since 1970 becomes the least or most int64.

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import numpy as np

from engine.errors import DatabaseError
from engine.readings import Batch

cdef enum:
    LEAST_ROW_BYTES = 38   # value and text null

cdef int64_t INFINITY_US = 0x7FFFFFFFFFFFFFFF


cdef int bad_copy(const Cursor* cursor, str what) except -1:
    raise DatabaseError(f"{what} at byte {cursor.at - cursor.start} of COPY data from the database")


cdef inline const uint8_t* take_copy(Cursor* cursor, Py_ssize_t size) except NULL:
    cdef const uint8_t* here = cursor.at
    if size > cursor.end - here:
        bad_copy(cursor, f"{size} bytes expected, {cursor.end - here} left")
    cursor.at = here + size
    return here


cdef inline int be16(const uint8_t* at) noexcept:
    return at[0] << 8 | at[1]


cdef inline uint32_t be32(const uint8_t* at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | <uint32_t>at[3]


cdef inline uint64_t be64(const uint8_t* at) noexcept:
    return <uint64_t>be32(at) << 32 | <uint64_t>be32(at + 4)


cdef inline const uint8_t* take_field(Cursor* cursor, int32_t size) except NULL:
    """Return a field that must not be null, of exactly `size` bytes."""
    cdef const uint8_t* at = take_copy(cursor, 4)
    if <int32_t>be32(at) != size:
        cursor.at = at
        bad_copy(cursor, f"a field of {<int32_t>be32(at)} bytes where {size} belong")
    return take_copy(cursor, size)


cdef inline int64_t us_of_postgres(int64_t since_2000_us) noexcept:
    if since_2000_us > INFINITY_US - POSTGRES_EPOCH_US:
        return INFINITY_US
    if since_2000_us == -INFINITY_US - 1:
        return since_2000_us
    return since_2000_us + POSTGRES_EPOCH_US


def decode_copy(data):
    """Return the Batch that a whole binary COPY stream of READING_COLUMNS holds, from its header to its trailer.

    Raises DatabaseError if the bytes are anything else, or end early.
    """
    cdef const uint8_t[::1] stream = data
    cdef Cursor cursor
    cdef Py_ssize_t rows, most_rows = stream.shape[0] // LEAST_ROW_BYTES
    cdef dict texts = {}
    cursor.start = cursor.at = &stream[0]
    cursor.end = cursor.start + stream.shape[0]
    ts_us = np.empty(most_rows, np.int64)
    tag_id = np.empty(most_rows, np.int32)
    status = np.empty(most_rows, np.uint32)
    value = np.empty(most_rows, np.float64)
    kind = np.empty(most_rows, np.uint8)
    read_copy_header(&cursor)
    rows = read_rows(&cursor, ts_us, tag_id, status, value, kind, texts)
    return Batch(ts_us[:rows], tag_id[:rows], status[:rows], value[:rows], kind[:rows], texts)


cdef int read_copy_header(Cursor* cursor) except -1:
    cdef uint32_t flags, extension
    if memcmp(take_copy(cursor, 11), PyBytes_AS_STRING(COPY_HEADER), 11) != 0:
        cursor.at -= 11
        bad_copy(cursor, "no binary COPY header")
    flags = be32(take_copy(cursor, 4))
    if flags & 0xFFFF0000:
        bad_copy(cursor, f"COPY header with the unknown flags {flags:#010x}")
    extension = be32(take_copy(cursor, 4))
    take_copy(cursor, extension)
    return 0


cdef Py_ssize_t read_rows(
    Cursor* cursor,
    int64_t[::1] ts_us,
    int32_t[::1] tag_id,
    uint32_t[::1] status,
    double[::1] value,
    uint8_t[::1] kind,
    dict texts,
) except -1:
    """Read rows up to the trailer; the columns have room for as many as the stream can hold."""
    cdef Py_ssize_t row = 0
    cdef int fields
    cdef int64_t ts
    cdef int32_t tag
    cdef uint32_t code
    while True:
        fields = be16(take_copy(cursor, 2))
        if fields == 0xFFFF:
            break
        if fields != FIELDS:
            bad_copy(cursor, f"a row of {fields} fields where {FIELDS} belong")
        ts = us_of_postgres(<int64_t>be64(take_field(cursor, 8)))
        tag = <int32_t>be32(take_field(cursor, 4))
        code = be32(take_field(cursor, 4))
        read_values(cursor, row, value, kind, texts)
        # A whole row has been read, so its place is within the columns.
        ts_us[row] = ts
        tag_id[row] = tag
        status[row] = code
        row += 1
    if cursor.at != cursor.end:
        bad_copy(cursor, f"{cursor.end - cursor.at} bytes behind the trailer")
    return row


cdef int read_values(
    Cursor* cursor, Py_ssize_t row, double[::1] value, uint8_t[::1] kind, dict texts
) except -1:
    """Read the two columns that may be null, into the place of a row that has been read up to there."""
    cdef const uint8_t* text
    cdef uint64_t bits = 0
    cdef uint8_t found = KIND_NULL
    cdef Py_ssize_t size = <int32_t>be32(take_copy(cursor, 4))
    if size >= 0:
        cursor.at -= 4
        bits = be64(take_field(cursor, 8))
        found |= KIND_NUMBER
    size = <int32_t>be32(take_copy(cursor, 4))
    if size >= 0:
        text = take_copy(cursor, size)
        texts[row] = PyUnicode_DecodeUTF8(<const char*>text, size, "replace")
        found |= KIND_TEXT
    memcpy(&value[row], &bits, 8)
    kind[row] = found
    return 0
