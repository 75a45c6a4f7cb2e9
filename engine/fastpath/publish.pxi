# Publish: one publish response -> rows in the ring, or nothing (OPC 10000-4, 5.13.5; bytes in OPC 10000-6, 5.2).
#
#     NodeId TypeId | ResponseHeader | u32 SubscriptionId | u32[] AvailableSequenceNumbers | u8 MoreNotifications |
#     u32 SequenceNumber | i64 PublishTime | ExtensionObject[] NotificationData | u32[] Results | DiagnosticInfo[]
#
# A RepublishResponse has the NotificationMessage (the third line) alone behind its header, a ServiceFault nothing.
# All rows are written behind the ring's tail; the tail moves when the last byte of the message has been read.

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free

cdef enum:  # binary encoding ids (Part 6, annex A)
    DATA_CHANGE_NOTIFICATION = 811
    STATUS_CHANGE_NOTIFICATION = 820
    PUBLISH_RESPONSE = 829
    REPUBLISH_RESPONSE = 835
    EVENT_NOTIFICATION_LIST = 916


@cython.final
@cython.freelist(8)
cdef class Publish:
    """What one publish response said, beside the readings that went into the ring."""

    cdef readonly int outcome
    cdef readonly uint32_t service_result
    cdef readonly uint32_t subscription_id
    cdef readonly uint32_t sequence_number
    cdef readonly int64_t publish_time_us
    cdef readonly bint more_notifications
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t unknown_handles
    cdef readonly Py_ssize_t overflows
    cdef readonly Py_ssize_t events
    cdef readonly tuple event_lists
    cdef readonly object status_change
    cdef readonly Py_ssize_t refused_acks
    cdef list bodies  # what event_lists will hold

    def __repr__(self):
        return (
            f"Publish(outcome={self.outcome}, service_result={self.service_result:#010x}, "
            f"subscription_id={self.subscription_id}, sequence_number={self.sequence_number}, "
            f"publish_time_us={self.publish_time_us}, more_notifications={self.more_notifications}, "
            f"rows={self.rows}, unknown_handles={self.unknown_handles}, overflows={self.overflows}, "
            f"events={self.events}, status_change={self.status_change}, refused_acks={self.refused_acks})"
        )


def decode_publish(
    message, Ring ring not None, slots, int64_t received_us, elements=None, text_of=text_of_variant
):
    """Put the values of one PublishResponse, RepublishResponse or ServiceFault into the ring; return a Publish.

    `message` is a buffer that starts at the TypeId, `slots` a uint32 buffer: client handle -> slot, 0xFFFFFFFF for a
    handle that is not ours; `elements` an int32 buffer: client handle -> element of the flat array, -1 for all of it.
    A value without a timestamp above 0 gets `received_us` (microseconds since 1970).
    All or nothing: with Outcome.RING_FULL and on MalformedMessage the ring is unchanged. Raises MalformedMessage for
    bytes that break Part 6, and for a message with more values than the ring's capacity.
    """
    cdef const uint8_t[::1] data = message
    cdef const uint32_t[::1] lookup = slots
    cdef const int32_t[::1] picked = elements
    cdef Publish publish = Publish.__new__(Publish)
    cdef Draft draft
    cdef Cursor cursor
    publish.event_lists = ()
    begin_cursor(&cursor, data)
    begin_draft(&draft, ring, lookup, picked, received_us)
    try:
        read_response(&cursor, &draft, ring, publish)
        finish_publish(publish, &draft, commit_draft(&cursor, &draft, ring, text_of))
    finally:
        free(draft.later)
    return publish


cdef int finish_publish(Publish publish, const Draft* draft, bint is_committed) except -1:
    """Fill in what was taken: with a full ring nothing."""
    if not is_committed:
        publish.outcome = OUTCOME_RING_FULL
        publish.refused_acks = 0
        publish.events = 0
        publish.status_change = None
    else:
        publish.rows = draft.rows
        publish.unknown_handles = draft.unknown_handles
        publish.overflows = draft.overflows
        if publish.bodies is not None:
            publish.event_lists = tuple(publish.bodies)
        if publish.status_change is not None:
            publish.outcome = OUTCOME_STATUS_CHANGE
    publish.bodies = None
    return 0


cdef int read_response(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    cdef int type_id = take_type_id(cursor)
    if type_id not in (PUBLISH_RESPONSE, REPUBLISH_RESPONSE, SERVICE_FAULT):
        malformed(cursor, f"TypeId i={type_id} is not an answer to a publish request")
    publish.service_result = <uint32_t>read_header(cursor)
    if type_id == SERVICE_FAULT or publish.service_result & BAD:
        # What a body says beside a bad result means nothing (Part 4, 7.33).
        publish.outcome = OUTCOME_FAULT
        return 0
    if type_id == REPUBLISH_RESPONSE:
        read_notification_message(cursor, draft, ring, publish)
    else:
        publish.subscription_id = le32(take(cursor, 4))
        skip_u32s(cursor)
        publish.more_notifications = take(cursor, 1)[0] != 0
        read_notification_message(cursor, draft, ring, publish)
        read_acknowledged(cursor, publish)
        skip_diagnostic_infos(cursor)
    return check_end(cursor, "the message")


cdef int skip_u32s(Cursor* cursor) except -1:
    cdef Py_ssize_t count = take_count(cursor, 4)
    if count > 0:
        take(cursor, 4 * count)
    return 0


cdef int read_acknowledged(Cursor* cursor, Publish publish) except -1:
    """Count the acknowledgements that the server refused."""
    cdef Py_ssize_t _, count = take_count(cursor, 4)
    for _ in range(count):
        if le32(take(cursor, 4)) & BAD:
            publish.refused_acks += 1
    return 0


cdef int read_notification_message(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    cdef Py_ssize_t _, count
    cdef int64_t ticks
    publish.sequence_number = le32(take(cursor, 4))
    ticks = <int64_t>le64(take(cursor, 8))
    publish.publish_time_us = us_of_ticks(ticks) if ticks > 0 else 0
    count = take_count(cursor, 3)
    publish.outcome = OUTCOME_DATA if count > 0 else OUTCOME_KEEP_ALIVE
    for _ in range(count):
        read_notification(cursor, draft, ring, publish)
    return 0


cdef int read_notification(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    """Read one ExtensionObject of NotificationData; its body is a bound of its own, and is used up exactly."""
    cdef int type_id = take_type_id(cursor)
    cdef int encoding = take(cursor, 1)[0]
    cdef Cursor body
    take_body(cursor, encoding, &body)
    if type_id == DATA_CHANGE_NOTIFICATION and encoding == 1:
        read_data_change(&body, draft, ring)
    elif type_id == STATUS_CHANGE_NOTIFICATION and encoding == 1:
        publish.status_change = le32(take(&body, 4))
        skip_diagnostic_info(&body, 1)
    elif type_id == EVENT_NOTIFICATION_LIST and encoding == 1:
        keep_body(publish, &body)
        skip_events(&body, publish)
    else:
        # Not known to this decoder (or as XML): seen, counted and kept, not read.
        publish.events += 1
        return keep_body(publish, &body)
    return check_end(&body, "a notification")


cdef int take_body(Cursor* cursor, int encoding, Cursor* body) except -1:
    """Set `body` to the bytes of an ExtensionObject's body and move behind it."""
    cdef Py_ssize_t size
    if encoding > 2:
        malformed(cursor, f"ExtensionObject encoding {encoding} is not defined")
    size = take_length(cursor) if encoding else 0
    body.start = cursor.start
    body.at = take(cursor, size if size > 0 else 0)
    body.end = cursor.at
    return 0


cdef int keep_body(Publish publish, const Cursor* body) except -1:
    """Keep a copy of the body, unless it is empty: so no more objects are made than the message has bytes for."""
    if body.at == body.end:
        return 0
    if publish.bodies is None:
        publish.bodies = []
    publish.bodies.append(PyBytes_FromStringAndSize(<const char*>body.at, body.end - body.at))
    return 0


cdef int read_data_change(Cursor* cursor, Draft* draft, Ring ring) except -1:
    """Read a DataChangeNotification: MonitoredItemNotification[] {u32 ClientHandle, DataValue}, DiagnosticInfo[]."""
    read_readings(cursor, draft, ring, take_count(cursor, 5), HANDLES_ON_WIRE)
    return skip_diagnostic_infos(cursor)


cdef int skip_events(Cursor* cursor, Publish publish) except -1:
    """Skip EventFieldLists: u32 ClientHandle, Variant[]. One is at least 8 bytes."""
    cdef Py_ssize_t _, __, fields, count = take_count(cursor, 8)
    for _ in range(count):
        take(cursor, 4)
        fields = take_count(cursor, 1)
        for __ in range(fields):
            skip_variant(cursor, 1)
        publish.events += 1
    return 0
