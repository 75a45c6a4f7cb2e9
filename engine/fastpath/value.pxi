# Value: one MonitoredItemNotification -> one row behind the ring's tail. The lane that every number takes.
#
# What lands in the columns, by the Variant's type:
#     numbers, Boolean, StatusCode     the number
#     DateTime                         seconds since 1970-01-01
#     Int64, UInt64 beyond 2**53       the nearest double, and the exact number as text
#     none, or a null                  nothing (Kind.NULL), with its status
#     everything else                  text: noted here as a place in the message, made by engine.variants afterwards

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

cdef enum:
    NOT_OURS = 0xFFFFFFFF          # in the lookup table: this client handle has no slot
    KNOWN_MASK = 0x3F
    MASK_VALUE = 0x01
    MASK_STATUS = 0x02
    MASK_SOURCE = 0x04
    MASK_SERVER = 0x08
    MASK_SOURCE_PICOSECONDS = 0x10
    MASK_SERVER_PICOSECONDS = 0x20

cdef int64_t UNIX_EPOCH_TICKS = 116444736000000000  # 100 ns from 1601-01-01 to 1970-01-01
cdef uint64_t EXACT_INTEGERS = <uint64_t>1 << 53     # a double holds every integer up to here


cdef struct Later:
    # A value whose text is made once the message is known to be whole.
    Py_ssize_t row     # counted from the ring's tail
    Py_ssize_t offset  # of its Variant in the message
    Py_ssize_t size


cdef struct Draft:
    # What one message adds to the ring, as long as it is not committed.
    Py_ssize_t rows            # also counted on when there is no room left
    Py_ssize_t free_rows
    Py_ssize_t place           # of the next row in the columns
    Py_ssize_t unknown_handles
    Py_ssize_t events
    bint has_status_change
    uint32_t status_change
    int64_t received_us
    const uint32_t* slots
    uint32_t slots_size
    Later* later
    Py_ssize_t later_count
    Py_ssize_t later_room


cdef inline int64_t us_of_ticks(int64_t ticks) noexcept:
    """Return microseconds since 1970 of a time above 0; below microseconds it is cut off."""
    return ticks // 10 - UNIX_EPOCH_TICKS // 10


cdef inline double seconds_of_ticks(int64_t ticks) noexcept:
    if ticks < UNIX_EPOCH_TICKS:
        # The difference is below 2**64, but can be beyond int64.
        return -<double>(<uint64_t>UNIX_EPOCH_TICKS - <uint64_t>ticks) / 1e7
    return <double>(ticks - UNIX_EPOCH_TICKS) / 1e7


cdef int note_text(Draft* draft, Py_ssize_t offset, Py_ssize_t size) except -1:
    cdef Later* grown
    cdef Py_ssize_t room
    if draft.rows >= draft.free_rows:
        return 0
    if draft.later_count == draft.later_room:
        room = 2 * draft.later_room + 16
        grown = <Later*>realloc(draft.later, room * sizeof(Later))
        if not grown:
            raise MemoryError("texts of one message")
        draft.later = grown
        draft.later_room = room
    draft.later[draft.later_count] = Later(draft.rows, offset, size)
    draft.later_count += 1
    return 0


cdef int read_other(Cursor* cursor, Draft* draft, double* value) except -1:
    """Read a Variant that is not one plain number; return its KindBits. The cursor is before its encoding byte."""
    cdef const uint8_t* start = cursor.at
    cdef int encoding = start[0]
    cdef uint64_t bits
    if encoding == NULL_TYPE:
        take(cursor, 1)
        return KIND_NULL
    if encoding == INT64 or encoding == UINT64:
        bits = le64(take(cursor, 9) + 1)
        value[0] = <double><int64_t>bits if encoding == INT64 else <double>bits
        if bits <= EXACT_INTEGERS or (encoding == INT64 and bits >= <uint64_t>0 - EXACT_INTEGERS):
            return KIND_NUMBER
        note_text(draft, start - cursor.start, 9)
        return KIND_NUMBER | KIND_TEXT
    skip_variant(cursor, 1)
    note_text(draft, start - cursor.start, cursor.at - start)
    return KIND_TEXT


cdef inline int read_value(Cursor* cursor, Draft* draft, double* value) except -1:
    """Read a Variant; return its KindBits."""
    cdef const uint8_t* at
    cdef int encoding = take(cursor, 1)[0]
    if encoding == DOUBLE:
        value[0] = le_double(take(cursor, 8))
    elif encoding == FLOAT:
        value[0] = le_float(take(cursor, 4))
    elif encoding == INT32:
        value[0] = <int32_t>le32(take(cursor, 4))
    elif encoding == UINT32 or encoding == STATUS_CODE:
        value[0] = le32(take(cursor, 4))
    elif encoding == INT16:
        value[0] = <int16_t>le16(take(cursor, 2))
    elif encoding == UINT16:
        value[0] = le16(take(cursor, 2))
    elif encoding == BOOLEAN:
        value[0] = take(cursor, 1)[0] != 0
    elif encoding == BYTE:
        value[0] = take(cursor, 1)[0]
    elif encoding == SBYTE:
        value[0] = <int8_t>take(cursor, 1)[0]
    elif encoding == DATE_TIME:
        at = take(cursor, 8)
        value[0] = seconds_of_ticks(<int64_t>le64(at))
    else:
        cursor.at -= 1
        return read_other(cursor, draft, value)
    return KIND_NUMBER


cdef inline int read_item(Cursor* cursor, Draft* draft, Ring ring) except -1:
    """Read one MonitoredItemNotification: u32 ClientHandle, DataValue (Part 6, 5.2.2.17)."""
    cdef const uint8_t* at = take(cursor, 5)
    cdef uint32_t handle = le32(at), slot = NOT_OURS, status = 0
    cdef int mask = at[4], kind = KIND_NULL
    cdef double value = 0.0
    cdef int64_t ticks = 0, server_ticks
    cdef Py_ssize_t place, texts = draft.later_count
    if mask & ~KNOWN_MASK:
        cursor.at -= 1
        malformed(cursor, f"DataValue mask {mask:#04x} has unknown bits")
    if mask & MASK_VALUE:
        kind = read_value(cursor, draft, &value)
    if mask & MASK_STATUS:
        status = le32(take(cursor, 4))
    if mask & MASK_SOURCE:
        ticks = <int64_t>le64(take(cursor, 8))
    if mask & MASK_SOURCE_PICOSECONDS:
        take(cursor, 2)
    if mask & MASK_SERVER:
        server_ticks = <int64_t>le64(take(cursor, 8))
        if ticks <= 0:
            ticks = server_ticks
    if mask & MASK_SERVER_PICOSECONDS:
        take(cursor, 2)
    if handle < draft.slots_size:
        slot = draft.slots[handle]
    if slot == NOT_OURS:
        draft.unknown_handles += 1
        draft.later_count = texts
        return 0
    if draft.rows < draft.free_rows:
        place = draft.place
        ring.ts_us[place] = us_of_ticks(ticks) if ticks > 0 else draft.received_us
        ring.slot[place] = slot
        ring.status[place] = status
        ring.value[place] = value
        ring.kind[place] = <uint8_t>kind
        place += 1
        draft.place = 0 if place == ring.capacity_rows else place
    draft.rows += 1
    return 0
