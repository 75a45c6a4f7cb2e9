# Request: what CreateMonitoredItems and Read requests share, the ReadValueId (Part 4, 7.29; bytes in Part 6, 5.2):
# NodeId | u32 AttributeId | String IndexRange | u16 and String DataEncoding. Little-endian.
#
# Sizes are summed and checked first, then written into one bytes object of just that size.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    READ_VALUE_ID_BYTES = 14  # beside the NodeId and the text of the IndexRange
    ATTRIBUTE_VALUE = 13      # Part 6, annex A.1


cdef inline uint8_t* lay32(uint8_t* at, uint32_t number) noexcept:
    at[0] = <uint8_t>number
    at[1] = <uint8_t>(number >> 8)
    at[2] = <uint8_t>(number >> 16)
    at[3] = <uint8_t>(number >> 24)
    return at + 4


cdef inline uint8_t* lay_double(uint8_t* at, double number) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    return lay32(lay32(at, <uint32_t>bits), <uint32_t>(bits >> 32))


cdef inline uint8_t* lay_bytes(uint8_t* at, const void* data, Py_ssize_t size) noexcept:
    memcpy(at, data, size)
    return at + size


cdef Py_ssize_t measure_nodes(list node_ids, list index_ranges) except -1:
    """Return the bytes of the ReadValueIds; raise ValueError for what is not one encoded NodeId, or not a text."""
    cdef Py_ssize_t place, range_bytes, size = READ_VALUE_ID_BYTES * len(node_ids)
    cdef Cursor cursor
    if index_ranges is not None and len(index_ranges) != len(node_ids):
        raise ValueError(f"index_ranges: {len(index_ranges)} for {len(node_ids)} node ids")
    for place in range(len(node_ids)):
        node_id = node_ids[place]
        if type(node_id) is not bytes:
            raise ValueError(f"node_ids: {type(node_id).__name__} at {place} where bytes belong")
        cursor.start = cursor.at = <const uint8_t*>PyBytes_AS_STRING(node_id)
        cursor.end = cursor.start + PyBytes_GET_SIZE(node_id)
        size += cursor.end - cursor.start
        try:
            skip_node_id(&cursor, False)
            check_end(&cursor, "the NodeId")
        except MalformedMessage as exc:
            raise ValueError(f"node_ids: no encoded NodeId at {place}: {exc}") from exc
    if index_ranges is not None:
        for place in range(len(index_ranges)):
            text = index_ranges[place]
            if not isinstance(text, str):
                raise ValueError(f"index_ranges: {type(text).__name__} at {place} where a str belongs")
            PyUnicode_AsUTF8AndSize(text, &range_bytes)
            size += range_bytes
    return size


cdef inline uint8_t* lay_read_value_id(
    uint8_t* at, list node_ids, list index_ranges, Py_ssize_t place, uint32_t attribute
) except NULL:
    """Write one ReadValueId that has been measured; an empty IndexRange is the null string."""
    cdef Py_ssize_t range_bytes = 0
    cdef const char* text = NULL
    node_id = node_ids[place]
    at = lay_bytes(at, PyBytes_AS_STRING(node_id), PyBytes_GET_SIZE(node_id))
    at = lay32(at, attribute)
    if index_ranges is not None:
        text = PyUnicode_AsUTF8AndSize(index_ranges[place], &range_bytes)
    if range_bytes:
        at = lay_bytes(lay32(at, <uint32_t>range_bytes), text, range_bytes)
    else:
        at = lay32(at, 0xFFFFFFFF)
    at[0] = at[1] = 0
    return lay32(at + 2, 0xFFFFFFFF)
