# Read: the poller's requests and answers (Part 4, 5.10.2).
#
#     request behind its header   f64 MaxAge, in milliseconds | u32 TimestampsToReturn | ReadValueId[]
#     response behind its header  DataValue[] | DiagnosticInfo[]; value i belongs to node i of the request

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free

cdef enum:
    READ_RESPONSE = 634


@cython.final
cdef class ReadAnswer:
    """What one read response said, beside the readings that went into the ring."""

    cdef readonly int outcome
    cdef readonly uint32_t service_result
    cdef readonly Py_ssize_t rows

    def __repr__(self):
        return (
            f"ReadAnswer(outcome={self.outcome}, service_result={self.service_result:#010x}, rows={self.rows})"
        )


def encode_read(
    node_ids, index_ranges, uint32_t timestamps, double max_age_ms=0.0, uint32_t attribute=ATTRIBUTE_VALUE
):
    """Return the body behind the RequestHeader of a ReadRequest for one attribute of these nodes.

    `node_ids` is a sequence of encoded NodeIds, `index_ranges` one of texts ("" for none) or None. Raises ValueError
    for what does not belong together or is not encoded so.
    """
    cdef list nodes = list(node_ids)
    cdef list ranges = None if index_ranges is None else list(index_ranges)
    cdef Py_ssize_t place
    cdef uint8_t* at
    body = PyBytes_FromStringAndSize(NULL, 16 + measure_nodes(nodes, ranges))
    at = <uint8_t*>PyBytes_AS_STRING(body)
    at = lay32(lay32(lay_double(at, max_age_ms), timestamps), <uint32_t>len(nodes))
    for place in range(len(nodes)):
        at = lay_read_value_id(at, nodes, ranges, place, attribute)
    return body


def decode_read(
    message, Ring ring not None, slots, int64_t received_us, elements=None, text_of=text_of_variant
):
    """Put the values of one ReadResponse or ServiceFault into the ring; return a ReadAnswer.

    Value i belongs to slots[i] and elements[i]; otherwise as decode_publish. Raises MalformedMessage also for another
    number of values than `slots` has places.
    """
    cdef const uint8_t[::1] data = message
    cdef const uint32_t[::1] lookup = slots
    cdef const int32_t[::1] picked = elements
    cdef ReadAnswer answer = ReadAnswer.__new__(ReadAnswer)
    cdef Draft draft
    cdef Cursor cursor
    begin_cursor(&cursor, data)
    answer.service_result = <uint32_t>read_answer(&cursor, READ_RESPONSE, "Read")
    if answer.service_result & BAD:
        answer.outcome = OUTCOME_FAULT
        return answer
    begin_draft(&draft, ring, lookup, picked, received_us)
    try:
        take_results(&cursor, 1, lookup.shape[0], "nodes")
        read_readings(&cursor, &draft, ring, lookup.shape[0], HANDLE_BY_PLACE)
        skip_diagnostic_infos(&cursor)
        check_end(&cursor, "the message")
        if commit_draft(&cursor, &draft, ring, text_of):
            answer.rows = draft.rows
        else:
            answer.outcome = OUTCOME_RING_FULL
    finally:
        free(draft.later)
    return answer
