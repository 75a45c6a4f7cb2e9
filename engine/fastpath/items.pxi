# Items: CreateMonitoredItems, both ways (Part 4, 5.12.2). A server's limit decides how many items a call has.
#
#     request behind its header   u32 SubscriptionId | u32 TimestampsToReturn | MonitoredItemCreateRequest[]
#     MonitoredItemCreateRequest  ReadValueId | u32 MonitoringMode | u32 ClientHandle | the parameters from
#                                 f64 SamplingInterval on: ExtensionObject Filter, u32 QueueSize, u8 DiscardOldest
#     response behind its header  MonitoredItemCreateResult[] | DiagnosticInfo[]
#     MonitoredItemCreateResult   u32 StatusCode | u32 MonitoredItemId | f64 RevisedSamplingInterval |
#                                 u32 RevisedQueueSize | ExtensionObject FilterResult

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

cdef enum:
    CREATE_MONITORED_ITEMS_RESPONSE = 754
    LEAST_RESULT_BYTES = 23
    MODE_REPORTING = 2  # Part 4, 7.23


def encode_string_node_ids(
    bytes texts not None, starts, ends, bytes head not None, bytes prefix not None, Py_ssize_t most_bytes
):
    """Return the encoded NodeIds of texts that all begin with `head`, or None if one is not so simple.

    `texts` holds node ids one after the other, those wanted from starts[i] up to ends[i] (uint32 buffers). A NodeId is
    `prefix`, the length of what follows `head`, and that. One with nothing there, or longer than `most_bytes` as a
    text, is not simple. Raises ValueError for places outside of `texts`.
    """
    cdef const uint32_t[::1] first = starts, end = ends
    cdef Py_ssize_t place, size, cut = PyBytes_GET_SIZE(head), before = PyBytes_GET_SIZE(prefix)
    cdef Py_ssize_t whole = PyBytes_GET_SIZE(texts)
    cdef const char* text = PyBytes_AS_STRING(texts)
    cdef uint8_t* at
    cdef list found = []
    if first.shape[0] != end.shape[0]:
        raise ValueError(f"starts: {first.shape[0]} for {end.shape[0]} ends")
    for place in range(first.shape[0]):
        if first[place] > end[place] or end[place] > whole:
            raise ValueError(f"text {place}: {first[place]} to {end[place]} of {whole} bytes")
        size = <Py_ssize_t>end[place] - first[place]
        if size <= cut or size > most_bytes or memcmp(text + first[place], PyBytes_AS_STRING(head), cut) != 0:
            return None
        node_id = PyBytes_FromStringAndSize(NULL, before + 4 + size - cut)
        at = lay_bytes(<uint8_t*>PyBytes_AS_STRING(node_id), PyBytes_AS_STRING(prefix), before)
        lay_bytes(lay32(at, <uint32_t>(size - cut)), text + first[place] + cut, size - cut)
        found.append(node_id)
    return found


def encode_create_items(
    uint32_t subscription_id, uint32_t timestamps, handles, node_ids, index_ranges, bytes parameters not None
):
    """Return the body behind the RequestHeader of a CreateMonitoredItemsRequest for the Value of these nodes.

    `handles` is a uint32 buffer, `node_ids` a sequence of encoded NodeIds, `index_ranges` one of texts ("" for none)
    or None, `parameters` the encoded MonitoringParameters without their ClientHandle, the same for all items.
    Raises ValueError for what does not belong together or is not encoded so.
    """
    cdef const uint32_t[::1] numbers = handles
    cdef list nodes = list(node_ids)
    cdef list ranges = None if index_ranges is None else list(index_ranges)
    cdef Py_ssize_t place, size, parameters_bytes = PyBytes_GET_SIZE(parameters)
    cdef uint8_t* at
    if numbers.shape[0] != len(nodes):
        raise ValueError(f"handles: {numbers.shape[0]} for {len(nodes)} node ids")
    check_parameters(parameters)
    size = 12 + measure_nodes(nodes, ranges) + (8 + parameters_bytes) * len(nodes)
    body = PyBytes_FromStringAndSize(NULL, size)
    at = <uint8_t*>PyBytes_AS_STRING(body)
    at = lay32(lay32(lay32(at, subscription_id), timestamps), <uint32_t>len(nodes))
    for place in range(len(nodes)):
        at = lay_read_value_id(at, nodes, ranges, place, ATTRIBUTE_VALUE)
        at = lay32(lay32(at, MODE_REPORTING), numbers[place])
        at = lay_bytes(at, PyBytes_AS_STRING(parameters), parameters_bytes)
    return body


cdef int check_parameters(bytes parameters) except -1:
    cdef Cursor cursor
    cursor.start = cursor.at = <const uint8_t*>PyBytes_AS_STRING(parameters)
    cursor.end = cursor.start + PyBytes_GET_SIZE(parameters)
    try:
        take(&cursor, 8)
        skip_extension_object(&cursor)
        take(&cursor, 5)
        check_end(&cursor, "DiscardOldest")
    except MalformedMessage as exc:
        raise ValueError(f"parameters: no encoded MonitoringParameters: {exc}") from exc
    return 0


def decode_created_items(message, status, item_id, sampling_ms, queue_size):
    """Read a CreateMonitoredItemsResponse into the arrays, one place an item; return its ServiceResult.

    `message` starts at the TypeId; the arrays (uint32, uint32, float64, uint32) are as long as the request's items.
    With a Bad result, a ServiceFault, or MalformedMessage (also for another number of results) they are unchanged.
    """
    cdef const uint8_t[::1] data = message
    cdef uint32_t[::1] statuses = status, ids = item_id, queues = queue_size
    cdef double[::1] samplings = sampling_ms
    cdef Py_ssize_t place, items = statuses.shape[0]
    cdef uint32_t service_result
    cdef const uint8_t* at
    cdef Cursor cursor, results
    if not (items == ids.shape[0] == samplings.shape[0] == queues.shape[0]):
        raise ValueError(
            f"arrays of different lengths: {items}, {ids.shape[0]}, {samplings.shape[0]}, {queues.shape[0]}"
        )
    begin_cursor(&cursor, data)
    service_result = <uint32_t>read_answer(&cursor, CREATE_MONITORED_ITEMS_RESPONSE, "CreateMonitoredItems")
    if service_result & BAD:
        return service_result
    take_results(&cursor, LEAST_RESULT_BYTES, items, "items")
    results = cursor
    for place in range(items):
        take(&cursor, 20)
        skip_extension_object(&cursor)
    skip_diagnostic_infos(&cursor)
    check_end(&cursor, "the message")
    # All of it holds: only now does anything change.
    for place in range(items):
        at = take(&results, 20)
        statuses[place] = le32(at)
        ids[place] = le32(at + 4)
        samplings[place] = le_double(at + 8)
        queues[place] = le32(at + 16)
        skip_extension_object(&results)
    return service_result
