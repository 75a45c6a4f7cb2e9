# Element: one element of an array -> the reading, for tags that name one (`node[3]`, `node[1,2]`).
#
# A matrix is its flat array, the last dimension varying fastest (Part 6, 5.2.2.16). An array of exactly one element is
# what a server returns that applied an IndexRange itself. A ByteString counts as an array of Byte (Part 4, 7.27).

from libc.stdint cimport int32_t, uint8_t


cdef int read_element(
    Cursor* cursor, Draft* draft, int32_t element, double* value, bint* is_missing
) except -1:
    """Read a Variant for one element of its array; return the element's KindBits. No such element: `is_missing`."""
    cdef const uint8_t* start = cursor.at
    cdef Py_ssize_t _, size, count
    cdef int encoding, built_in
    cdef Cursor inner
    skip_variant(cursor, 1)  # checks all of it, so that the array may be walked again
    encoding = start[0]
    inner.start = cursor.start
    inner.at = start + 1
    inner.end = cursor.at
    if encoding == NULL_TYPE:
        return KIND_NULL
    built_in = encoding & TYPE_BITS
    if encoding & ARRAY_BIT:
        size = fixed_size(built_in)
        count = take_count(&inner, size if size else smallest_size(built_in))
    elif built_in == BYTE_STRING:
        built_in = BYTE
        size = 1
        count = take_length(&inner)
    else:
        count = size = 0
    if count == 1:
        element = 0
    if element >= count:
        is_missing[0] = True
        return KIND_NULL
    if size:
        take(&inner, size * element)
    else:
        for _ in range(element):
            skip_element(&inner, built_in, 1)
    return read_picked(&inner, built_in, draft, value)


cdef int read_picked(Cursor* cursor, int built_in, Draft* draft, double* value) except -1:
    """Read one element at the cursor, which has no encoding byte of its own unless it is a Variant."""
    cdef const uint8_t* start = cursor.at
    cdef Py_ssize_t size = fixed_size(built_in)
    cdef int kind = KIND_TEXT
    if built_in == VARIANT:
        return read_value(cursor, draft, value)
    if read_number(cursor, built_in, value):
        return KIND_NUMBER
    if built_in == INT64 or built_in == UINT64:
        kind = number_of_bits(le64(take(cursor, 8)), built_in, value)
    elif size:
        take(cursor, size)
    else:
        skip_element(cursor, built_in, 1)
    if kind & KIND_TEXT:
        note_text(draft, start - cursor.start, cursor.at - start, built_in)
    return kind
