# The cursor: every byte of a message is read through `take`, which is the only place that checks bounds.
#
# An ExtensionObject's body is read with a second cursor whose `end` is the body's: nothing inside it can reach past it.
# OPC UA is little-endian, PostgreSQL big-endian; the compilers turn the shifts below into one load.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from engine.errors import MalformedMessage


cdef struct Cursor:
    const uint8_t* start  # of the whole message: offsets in errors count from here
    const uint8_t* at
    const uint8_t* end


cdef int malformed(const Cursor* cursor, str what) except -1:
    raise MalformedMessage(what, cursor.at - cursor.start)


cdef int too_short(const Cursor* cursor, Py_ssize_t size) except -1:
    return malformed(cursor, f"{size} bytes expected, {cursor.end - cursor.at} left")


cdef inline const uint8_t* take(Cursor* cursor, Py_ssize_t size) except NULL:
    """Return the next `size` bytes (0 or more) and move past them."""
    cdef const uint8_t* here = cursor.at
    if size > cursor.end - here:
        too_short(cursor, size)
    cursor.at = here + size
    return here


cdef inline uint16_t le16(const uint8_t* at) noexcept nogil:
    return <uint16_t>(at[0] | at[1] << 8)


cdef inline uint32_t le32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef inline uint64_t le64(const uint8_t* at) noexcept nogil:
    return <uint64_t>le32(at) | <uint64_t>le32(at + 4) << 32


cdef inline double le_double(const uint8_t* at) noexcept:
    cdef uint64_t bits = le64(at)
    cdef double number
    memcpy(&number, &bits, 8)
    return number


cdef inline float le_float(const uint8_t* at) noexcept:
    cdef uint32_t bits = le32(at)
    cdef float number
    memcpy(&number, &bits, 4)
    return number


cdef inline Py_ssize_t take_length(Cursor* cursor) except -2:
    """Return the length of a String or ByteString, checked against what remains; -1 is null."""
    cdef Py_ssize_t length = <int32_t>le32(take(cursor, 4))
    if length < -1 or length > cursor.end - cursor.at:
        cursor.at -= 4
        malformed(cursor, f"length {length} with {cursor.end - cursor.at - 4} bytes left")
    return length


cdef inline Py_ssize_t take_count(Cursor* cursor, Py_ssize_t smallest) except -2:
    """Return an array's count, checked against what remains at `smallest` bytes an element; -1 is null."""
    cdef Py_ssize_t count = <int32_t>le32(take(cursor, 4))
    if count < -1 or count > (cursor.end - cursor.at) // smallest:
        cursor.at -= 4
        malformed(cursor, f"array of {count} elements with {cursor.end - cursor.at - 4} bytes left")
    return count
