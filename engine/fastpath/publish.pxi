# Publish: one publish response -> rows in the ring, or nothing (OPC 10000-4, 5.13.5; bytes in OPC 10000-6, 5.2).
#
#     NodeId TypeId | ResponseHeader | u32 SubscriptionId | u32[] AvailableSequenceNumbers | u8 MoreNotifications |
#     u32 SequenceNumber | i64 PublishTime | ExtensionObject[] NotificationData | u32[] Results | DiagnosticInfo[]
#
# A RepublishResponse has the NotificationMessage (the third line) alone behind its header, a ServiceFault nothing.
# All rows are written behind the ring's tail; the tail moves when the last byte of the message has been read.

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from engine.variants import text_of

cdef enum:  # binary encoding ids (Part 6, annex A)
    SERVICE_FAULT = 397
    DATA_CHANGE_NOTIFICATION = 811
    STATUS_CHANGE_NOTIFICATION = 820
    PUBLISH_RESPONSE = 829
    REPUBLISH_RESPONSE = 835
    EVENT_NOTIFICATION_LIST = 916

cdef enum Outcomes:  # engine.outcomes.Outcome
    OUTCOME_DATA = 0
    OUTCOME_KEEP_ALIVE = 1
    OUTCOME_STATUS_CHANGE = 2
    OUTCOME_FAULT = 3
    OUTCOME_RING_FULL = 4

cdef uint32_t BAD = 0x80000000  # the upper of the two severity bits: Bad, or the reserved severity


@cython.final
@cython.freelist(8)
cdef class Publish:
    """What one publish response said, beside the readings that went into the ring."""

    cdef readonly int outcome
    cdef readonly uint32_t service_result
    cdef readonly uint32_t subscription_id
    cdef readonly uint32_t sequence_number
    cdef readonly bint more_notifications
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t unknown_handles
    cdef readonly Py_ssize_t events
    cdef readonly object status_change
    cdef readonly Py_ssize_t refused_acks

    def __repr__(self):
        return (
            f"Publish(outcome={self.outcome}, service_result={self.service_result:#010x}, "
            f"subscription_id={self.subscription_id}, sequence_number={self.sequence_number}, "
            f"more_notifications={self.more_notifications}, rows={self.rows}, "
            f"unknown_handles={self.unknown_handles}, events={self.events}, "
            f"status_change={self.status_change}, refused_acks={self.refused_acks})"
        )


def decode_publish(message, Ring ring not None, slots, int64_t received_us):
    """Put the values of one PublishResponse, RepublishResponse or ServiceFault into the ring; return a Publish.

    `message` is a buffer that starts at the TypeId, `slots` a uint32 buffer: client handle -> slot, 0xFFFFFFFF for a
    handle that is not ours. A value without a timestamp above 0 gets `received_us` (microseconds since 1970).
    All or nothing: with Outcome.RING_FULL and on MalformedMessage the ring is unchanged. Raises MalformedMessage for
    bytes that break Part 6, and for a message with more values than the ring's capacity.
    """
    cdef const uint8_t[::1] data = message
    cdef const uint32_t[::1] lookup = slots
    cdef Publish publish = Publish.__new__(Publish)
    cdef Draft draft
    cdef Cursor cursor
    cursor.start = cursor.at = &data[0]
    cursor.end = cursor.start + data.shape[0]
    memset(&draft, 0, sizeof(draft))
    draft.free_rows = ring.free()
    draft.place = <Py_ssize_t>(ring.tail % <uint64_t>ring.capacity_rows)
    draft.received_us = received_us
    draft.slots = &lookup[0]
    draft.slots_size = <uint32_t>min(lookup.shape[0], <Py_ssize_t>NOT_OURS)
    try:
        read_response(&cursor, &draft, ring, publish)
        commit_draft(&cursor, &draft, ring, publish)
    finally:
        free(draft.later)
    return publish


cdef int commit_draft(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    """Make the texts and move the tail; the message has been read to its end."""
    cdef list texts = []
    if draft.rows > ring.capacity_rows:
        malformed(cursor, f"{draft.rows} values in one message, the ring holds {ring.capacity_rows}")
    if draft.later_count and draft.rows <= draft.free_rows:
        texts = make_texts(cursor, draft, ring)
    if draft.rows > draft.free_rows or not ring.texts_fit(texts):
        publish.outcome = OUTCOME_RING_FULL
        publish.refused_acks = 0
        return 0
    ring.commit(draft.rows, texts)
    publish.rows = draft.rows
    publish.unknown_handles = draft.unknown_handles
    publish.events = draft.events
    if draft.has_status_change:
        publish.status_change = draft.status_change
        publish.outcome = OUTCOME_STATUS_CHANGE
    return 0


cdef list make_texts(const Cursor* cursor, const Draft* draft, Ring ring):
    """Return (row from the tail, text) of the values that are not plain numbers; a null one becomes Kind.NULL."""
    cdef list texts = []
    cdef const Later* later
    cdef Py_ssize_t index, place, tail = <Py_ssize_t>(ring.tail % <uint64_t>ring.capacity_rows)
    for index in range(draft.later_count):
        later = &draft.later[index]
        text = text_of(PyBytes_FromStringAndSize(<const char*>cursor.start + later.offset, later.size))
        if text is None:
            place = tail + later.row
            if place >= ring.capacity_rows:
                place -= ring.capacity_rows
            ring.kind[place] &= <uint8_t>~KIND_TEXT
        else:
            texts.append((later.row, text))
    return texts


cdef int read_response(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    cdef int type_id = take_type_id(cursor)
    if type_id not in (PUBLISH_RESPONSE, REPUBLISH_RESPONSE, SERVICE_FAULT):
        malformed(cursor, f"TypeId i={type_id} is not an answer to a publish request")
    read_header(cursor, publish)
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
        read_results(cursor, publish)
        skip_diagnostic_infos(cursor)
    if cursor.at != cursor.end:
        malformed(cursor, f"{cursor.end - cursor.at} bytes behind the end of the message")
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


cdef int read_header(Cursor* cursor, Publish publish) except -1:
    """Read a ResponseHeader (Part 4, 7.33) for its ServiceResult."""
    cdef Py_ssize_t _, count
    take(cursor, 12)  # i64 Timestamp, u32 RequestHandle
    publish.service_result = le32(take(cursor, 4))
    skip_diagnostic_info(cursor, 1)
    count = take_count(cursor, 4)
    for _ in range(count):
        skip_string(cursor)
    return skip_extension_object(cursor)


cdef int skip_u32s(Cursor* cursor) except -1:
    cdef Py_ssize_t count = take_count(cursor, 4)
    if count > 0:
        take(cursor, 4 * count)
    return 0


cdef int read_results(Cursor* cursor, Publish publish) except -1:
    """Count the acknowledgements that the server refused."""
    cdef Py_ssize_t _, count = take_count(cursor, 4)
    for _ in range(count):
        if le32(take(cursor, 4)) & BAD:
            publish.refused_acks += 1
    return 0


cdef int read_notification_message(Cursor* cursor, Draft* draft, Ring ring, Publish publish) except -1:
    cdef Py_ssize_t _, count
    publish.sequence_number = le32(take(cursor, 4))
    take(cursor, 8)  # PublishTime
    count = take_count(cursor, 3)
    publish.outcome = OUTCOME_DATA if count > 0 else OUTCOME_KEEP_ALIVE
    for _ in range(count):
        read_notification(cursor, draft, ring)
    return 0


cdef int read_notification(Cursor* cursor, Draft* draft, Ring ring) except -1:
    """Read one ExtensionObject of NotificationData; its body is a bound of its own, and is used up exactly."""
    cdef int type_id = take_type_id(cursor)
    cdef int encoding = take(cursor, 1)[0]
    cdef Py_ssize_t size
    cdef Cursor body
    if encoding > 2:
        malformed(cursor, f"ExtensionObject encoding {encoding} is not defined")
    size = take_length(cursor) if encoding else 0
    body.start = cursor.start
    body.at = take(cursor, size if size > 0 else 0)
    body.end = cursor.at
    if type_id == DATA_CHANGE_NOTIFICATION and encoding == 1:
        read_data_change(&body, draft, ring)
    elif type_id == STATUS_CHANGE_NOTIFICATION and encoding == 1:
        draft.status_change = le32(take(&body, 4))
        draft.has_status_change = True
        skip_diagnostic_info(&body, 1)
    elif type_id == EVENT_NOTIFICATION_LIST and encoding == 1:
        skip_events(&body, draft)
    else:
        # Not known to this decoder (or as XML): seen and counted, not read.
        draft.events += 1
        return 0
    if body.at != body.end:
        malformed(&body, f"{body.end - body.at} bytes behind the end of a notification")
    return 0


cdef int read_data_change(Cursor* cursor, Draft* draft, Ring ring) except -1:
    cdef Py_ssize_t _, count = take_count(cursor, 5)
    for _ in range(count):
        read_item(cursor, draft, ring)
    return skip_diagnostic_infos(cursor)


cdef int skip_events(Cursor* cursor, Draft* draft) except -1:
    """Skip EventFieldLists: u32 ClientHandle, Variant[]. One is at least 8 bytes."""
    cdef Py_ssize_t _, __, fields, count = take_count(cursor, 8)
    for _ in range(count):
        take(cursor, 4)
        fields = take_count(cursor, 1)
        for __ in range(fields):
            skip_variant(cursor, 1)
        draft.events += 1
    return 0
