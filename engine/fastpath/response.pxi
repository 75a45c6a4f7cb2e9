# Response: how every answer begins (Part 4, 7.33; bytes in Part 6, 5.2): NodeId TypeId | i64 Timestamp |
# u32 RequestHandle | u32 ServiceResult | DiagnosticInfo | String[] StringTable | ExtensionObject AdditionalHeader.

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum Outcomes:  # engine.outcomes.Outcome
    OUTCOME_DATA = 0
    OUTCOME_KEEP_ALIVE = 1
    OUTCOME_STATUS_CHANGE = 2
    OUTCOME_FAULT = 3
    OUTCOME_RING_FULL = 4

cdef enum:  # binary encoding ids (Part 6, annex A)
    SERVICE_FAULT = 397


cdef int begin_cursor(Cursor* cursor, const uint8_t[::1] message) except -1:
    cursor.start = cursor.at = &message[0]
    cursor.end = cursor.start + message.shape[0]
    return 0


cdef int take_type_id(Cursor* cursor) except -2:
    """Read a NodeId; return its number if it is a numeric one of namespace 0, in any legal encoding, else -1."""
    cdef const uint8_t* at = cursor.at
    skip_node_id(cursor, False)
    if at[0] == 0:
        return at[1]
    if at[0] == 1 and at[1] == 0:
        return le16(at + 2)
    if at[0] == 2 and le16(at + 1) == 0 and le32(at + 3) <= 0x7FFFFFFF:
        return <int>le32(at + 3)
    return -1


cdef int64_t read_header(Cursor* cursor) except -1:
    """Read a ResponseHeader; return its ServiceResult."""
    cdef Py_ssize_t _, count
    cdef uint32_t service_result
    take(cursor, 12)  # i64 Timestamp, u32 RequestHandle
    service_result = le32(take(cursor, 4))
    skip_diagnostic_info(cursor, 1)
    count = take_count(cursor, 4)
    for _ in range(count):
        skip_string(cursor)
    skip_extension_object(cursor)
    return service_result


cdef int64_t read_answer(Cursor* cursor, int wanted, str request) except -1:
    """Read TypeId and header of the answer `wanted`, or of a ServiceFault; return the ServiceResult.

    With a Bad one nothing else is to be read: what a body says beside it means nothing (Part 4, 7.33).
    """
    cdef int64_t service_result
    cdef int type_id = take_type_id(cursor)
    if type_id != wanted and type_id != SERVICE_FAULT:
        malformed(cursor, f"TypeId i={type_id} is not an answer to a {request} request")
    service_result = read_header(cursor)
    if type_id == SERVICE_FAULT and not service_result & BAD:
        malformed(cursor, f"a ServiceFault with the result {service_result:#010x}, which is not Bad")
    return service_result


cdef Py_ssize_t take_results(Cursor* cursor, Py_ssize_t smallest, Py_ssize_t wanted, str what) except -1:
    """Read the count of an answer's results, one for each thing that was asked."""
    cdef Py_ssize_t count = take_count(cursor, smallest)
    if max(count, 0) != wanted:
        cursor.at -= 4
        malformed(cursor, f"{max(count, 0)} results where {wanted} {what} were asked for")
    return wanted


cdef int check_end(const Cursor* cursor, str what) except -1:
    if cursor.at != cursor.end:
        malformed(cursor, f"{cursor.end - cursor.at} bytes behind the end of {what}")
    return 0
