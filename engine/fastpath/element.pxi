# Element: one element of an array -> the reading, for tags that name one (`node[3]`, `node[1,2]`).
#
# A matrix is its flat array, the last dimension varying fastest (Part 6, 5.2.2.16). An array of exactly one element is
# what a server returns that applied an IndexRange itself. A ByteString counts as an array of Byte (Part 4, 7.27).

from libc.stdint cimport int32_t, uint8_t


cdef int find_element(Cursor* cursor, int32_t element, Cursor* inner, bint* is_element) except -2:
    """Move over a Variant and set `inner` to one element of its array; return the element's type, -1: there is none.

    An element that is a Variant itself is a value of its own, as is the null Variant: then `is_element` is False, and
    what is returned is its encoding byte.
    """
    cdef const uint8_t* start = cursor.at
    cdef Py_ssize_t _, size, count
    cdef int encoding, built_in
    skip_variant(cursor, 1)  # checks all of it, so that the array may be walked again
    encoding = start[0]
    inner.start = cursor.start
    inner.at = start + 1
    inner.end = cursor.at
    is_element[0] = False
    if encoding == NULL_TYPE:
        return NULL_TYPE
    built_in = encoding & TYPE_BITS
    if encoding & ARRAY_BIT:
        size = fixed_size(built_in)
        count = take_count(inner, size if size else smallest_size(built_in))
    elif built_in == BYTE_STRING:
        built_in = BYTE
        size = 1
        count = take_length(inner)
    else:
        count = size = 0
    if count == 1:
        element = 0
    if element >= count:
        return -1
    if size:
        take(inner, size * element)
    else:
        for _ in range(element):
            skip_element(inner, built_in, 1)
    if built_in == VARIANT:
        return take(inner, 1)[0]
    is_element[0] = True
    return built_in
