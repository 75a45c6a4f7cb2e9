# History: HistoryRead answers -> rows, to fill a gap (Part 4, 5.10.3; Part 11, 6.5).
#
#     response behind its header   HistoryReadResult[] | DiagnosticInfo[]
#     HistoryReadResult            u32 StatusCode | ByteString ContinuationPoint | ExtensionObject HistoryData
#     HistoryData (658)            DataValue[]
#
# A server may send values from outside of the asked time (bounding values, other ideas of the limits), and a gap's
# neighbours are stored already: only what lies between the two times of its node becomes a row.

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free

cdef enum:
    HISTORY_DATA = 658
    HISTORY_READ_RESPONSE = 667
    LEAST_HISTORY_RESULT_BYTES = 11


@cython.final
cdef class HistoryResult:
    """What one node's part of a history answer said."""

    cdef readonly uint32_t status
    cdef readonly object continuation_point
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t seen
    cdef readonly int64_t newest_us

    def __repr__(self):
        return (
            f"HistoryResult(status={self.status:#010x}, continuation_point={self.continuation_point!r}, "
            f"rows={self.rows}, seen={self.seen}, newest_us={self.newest_us})"
        )


@cython.final
cdef class HistoryAnswer:
    """What one history answer said, beside the readings that went into the ring."""

    cdef readonly int outcome
    cdef readonly uint32_t service_result
    cdef readonly Py_ssize_t rows
    cdef readonly list results

    def __repr__(self):
        return (
            f"HistoryAnswer(outcome={self.outcome}, service_result={self.service_result:#010x}, "
            f"rows={self.rows}, results={self.results})"
        )


def decode_history(
    message,
    Ring ring not None,
    slots,
    after_us,
    before_us,
    int64_t received_us,
    elements=None,
    text_of=text_of_variant,
):
    """Put the values of one HistoryReadResponse or ServiceFault into the ring; return a HistoryAnswer.

    Result i belongs to slots[i] and elements[i]; of it those values become rows whose time is after after_us[i] and
    before before_us[i] (int64 buffers, microseconds since 1970). Otherwise as decode_publish. Raises MalformedMessage
    also for another number of results than `slots` has places.
    """
    cdef const uint8_t[::1] data = message
    cdef const uint32_t[::1] lookup = slots
    cdef const int64_t[::1] after = after_us
    cdef const int64_t[::1] before = before_us
    cdef const int32_t[::1] picked = elements
    cdef HistoryAnswer answer = HistoryAnswer.__new__(HistoryAnswer)
    cdef Py_ssize_t place, nodes = lookup.shape[0]
    cdef Draft draft
    cdef Cursor cursor
    if not (nodes == after.shape[0] == before.shape[0]):
        raise ValueError(f"arrays of different lengths: {nodes}, {after.shape[0]}, {before.shape[0]}")
    answer.results = []
    begin_cursor(&cursor, data)
    answer.service_result = <uint32_t>read_answer(&cursor, HISTORY_READ_RESPONSE, "HistoryRead")
    if answer.service_result & BAD:
        answer.outcome = OUTCOME_FAULT
        return answer
    begin_draft(&draft, ring, lookup, picked, received_us)
    try:
        take_results(&cursor, LEAST_HISTORY_RESULT_BYTES, nodes, "nodes")
        for place in range(nodes):
            draft.handle = <uint32_t>place
            draft.after_us = after[place]
            draft.before_us = before[place]
            answer.results.append(read_history_result(&cursor, &draft, ring))
        skip_diagnostic_infos(&cursor)
        check_end(&cursor, "the message")
        if commit_draft(&cursor, &draft, ring, text_of):
            answer.rows = draft.rows
        else:
            answer.outcome = OUTCOME_RING_FULL
            answer.results = []
    finally:
        free(draft.later)
    return answer


cdef HistoryResult read_history_result(Cursor* cursor, Draft* draft, Ring ring):
    cdef HistoryResult result = HistoryResult.__new__(HistoryResult)
    cdef Py_ssize_t size
    cdef const uint8_t* point
    cdef int type_id, encoding
    cdef Cursor body
    result.status = le32(take(cursor, 4))
    size = take_length(cursor)
    if size > 0:  # an empty one is no continuation either
        point = take(cursor, size)
        result.continuation_point = PyBytes_FromStringAndSize(<const char*>point, size)
    type_id = take_type_id(cursor)
    encoding = take(cursor, 1)[0]
    take_body(cursor, encoding, &body)
    if type_id == HISTORY_DATA and encoding == 1:
        read_history_values(&body, draft, ring, result)
    return result


cdef int read_history_values(Cursor* cursor, Draft* draft, Ring ring, HistoryResult result) except -1:
    cdef Py_ssize_t count = take_count(cursor, 1), before = draft.rows
    draft.newest_us = INT64_MIN
    read_readings(cursor, draft, ring, count, HANDLE_OF_ALL)
    result.rows = draft.rows - before
    if count > 0:
        result.seen = count
        result.newest_us = draft.newest_us
    return check_end(cursor, "HistoryData")
