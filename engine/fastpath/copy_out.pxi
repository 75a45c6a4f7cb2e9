# Copy out: columns -> PostgreSQL's binary COPY format (PostgreSQL manual, "COPY", Binary Format). All big-endian:
#
#     header   "PGCOPY\n\377\r\n\0" | u32 flags 0 | u32 extension length 0                           19 bytes
#     row      u16 5 | u32 8, i64 ts | u32 4, i32 tag_id | u32 4, i32 status | u32 8, f64 value | text   up to 46 + text
#     trailer  i16 -1                                                                                  2 bytes
#
# A null field is the length -1 without data. ts is in microseconds since 2000-01-01.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    HEADER_BYTES = 19
    TRAILER_BYTES = 2
    ROW_BYTES = 46   # with a value and a null text; the text's bytes come on top
    FIELDS = 5

cdef int64_t POSTGRES_EPOCH_US = 946684800000000        # 2000-01-01 in microseconds since 1970
# 4714-11-24 BC, the first day of timestamptz; its last one, in 294276, is beyond what int64 counts from 1970.
cdef int64_t LEAST_TS_US = -210866803200000000

cdef bytes COPY_HEADER = b"PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"


cdef inline uint8_t* put16(uint8_t* at, uint16_t number) noexcept nogil:
    at[0] = <uint8_t>(number >> 8)
    at[1] = <uint8_t>number
    return at + 2


cdef inline uint8_t* put32(uint8_t* at, uint32_t number) noexcept nogil:
    at[0] = <uint8_t>(number >> 24)
    at[1] = <uint8_t>(number >> 16)
    at[2] = <uint8_t>(number >> 8)
    at[3] = <uint8_t>number
    return at + 4


cdef inline uint8_t* put64(uint8_t* at, uint64_t number) noexcept nogil:
    return put32(put32(at, <uint32_t>(number >> 32)), <uint32_t>number)


cdef inline uint8_t* put_double(uint8_t* at, double number) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    return put64(at, bits)


cdef inline uint8_t* put_numbers(
    uint8_t* at, int64_t ts_us, int32_t tag_id, uint32_t status, double value, uint32_t kind
) noexcept nogil:
    """Write a row up to its text."""
    at = put32(put16(at, FIELDS), 8)
    at = put64(at, <uint64_t>(ts_us - POSTGRES_EPOCH_US))
    at = put32(put32(at, 4), <uint32_t>tag_id)
    at = put32(put32(at, 4), status)
    if kind & KIND_NUMBER:
        return put_double(put32(at, 8), value)
    return put32(at, 0xFFFFFFFF)


def encode_copy(ts_us, tag_id, status, value, kind, dict texts not None):
    """Return the rows as one binary COPY stream with header and trailer, for READING_COLUMNS.

    Columns as in a Batch: int64, int32, uint32, float64, uint8 of equal length; `texts` maps a row to its text, in
    any order. Raises ValueError for columns that do not belong together, for a time before timestamptz begins and for
    a text with lone surrogates; a NUL is written, for PostgreSQL to refuse.
    """
    cdef const int64_t[::1] ts = ts_us
    cdef const int32_t[::1] tags = tag_id
    cdef const uint32_t[::1] statuses = status
    cdef const double[::1] values = value
    cdef const uint8_t[::1] kinds = kind
    cdef Py_ssize_t row, size, rows = ts.shape[0]
    cdef list encoded
    cdef uint8_t* at
    cdef uint8_t* start
    check_columns(rows, tags.shape[0], statuses.shape[0], values.shape[0], kinds.shape[0])
    for row in range(rows):
        if ts[row] < LEAST_TS_US:
            raise ValueError(f"ts_us: {ts[row]} in row {row} is before the first day of timestamptz")
    encoded = encode_texts(kinds, texts)
    size = HEADER_BYTES + rows * ROW_BYTES + TRAILER_BYTES
    for _, text in encoded:
        size += PyBytes_GET_SIZE(text)
    stream = PyByteArray_FromStringAndSize(NULL, size)
    start = at = <uint8_t*>PyByteArray_AS_STRING(stream)
    memcpy(at, PyBytes_AS_STRING(COPY_HEADER), HEADER_BYTES)
    at = put_rows(at + HEADER_BYTES, ts, tags, statuses, values, kinds, encoded)
    at = put16(at, 0xFFFF)
    PyByteArray_Resize(stream, at - start)
    return stream


cdef list encode_texts(const uint8_t[::1] kinds, dict texts):
    """Return (row, UTF-8) sorted by row."""
    ordered = sorted(texts.items())
    check_texts(kinds, ordered)
    return [(row, text.encode()) for row, text in ordered]


cdef uint8_t* put_rows(
    uint8_t* at,
    const int64_t[::1] ts,
    const int32_t[::1] tags,
    const uint32_t[::1] statuses,
    const double[::1] values,
    const uint8_t[::1] kinds,
    list texts,
) except NULL:
    """Write the rows; `texts` has exactly one entry for each row whose kind has TEXT, in their order."""
    cdef Py_ssize_t row, size, next_text = 0
    cdef bytes text
    for row in range(ts.shape[0]):
        at = put_numbers(at, ts[row], tags[row], statuses[row], values[row], kinds[row])
        if kinds[row] & KIND_TEXT:
            text = texts[next_text][1]
            next_text += 1
            size = PyBytes_GET_SIZE(text)
            at = put32(at, <uint32_t>size)
            memcpy(at, PyBytes_AS_STRING(text), size)
            at += size
        else:
            at = put32(at, 0xFFFFFFFF)
    return at
