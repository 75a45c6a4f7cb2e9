# Value: one DataValue -> one row behind the ring's tail. The lane that every number takes.
#
# What lands in the columns, by the Variant's type:
#     numbers, Boolean, StatusCode     the number
#     DateTime                         seconds since 1970-01-01
#     Int64, UInt64 beyond 2**53       the nearest double, and the exact number as text
#     none, or a null                  nothing (Kind.NULL), with its status
#     everything else                  text: noted here as a place in the message, made by engine.variants afterwards

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:  # the mask of a DataValue (Part 6, 5.2.2.17)
    KNOWN_MASK = 0x3F
    MASK_VALUE = 0x01
    MASK_STATUS = 0x02
    MASK_SOURCE = 0x04
    MASK_SERVER = 0x08
    MASK_SOURCE_PICOSECONDS = 0x10
    MASK_SERVER_PICOSECONDS = 0x20

cdef enum:
    # InfoType DataValue with the Overflow bit (Part 4, 7.39): the server's queue lost values beside this one.
    OVERFLOW_BITS = 0x480

cdef uint32_t BAD = 0x80000000  # the upper of the two severity bits: Bad, or the reserved severity
cdef uint32_t BAD_INDEX_RANGE_NO_DATA = 0x80370000

cdef int64_t UNIX_EPOCH_TICKS = 116444736000000000  # 100 ns from 1601-01-01 to 1970-01-01
cdef uint64_t EXACT_INTEGERS = <uint64_t>1 << 53     # a double holds every integer up to here


cdef enum Handles:  # whose a DataValue is
    HANDLES_ON_WIRE  # each has its handle before it
    HANDLE_BY_PLACE  # the first is of handle 0, the next of 1, ...
    HANDLE_OF_ALL    # all are of draft.handle; and only those in the draft's window become rows


cdef struct Reading:
    int64_t ts_us
    double value
    uint32_t status
    uint8_t kind


cdef inline int64_t us_of_ticks(int64_t ticks) noexcept:
    """Return microseconds since 1970 of a time above 0; below microseconds it is cut off."""
    return ticks // 10 - UNIX_EPOCH_TICKS // 10


cdef inline double seconds_of_ticks(int64_t ticks) noexcept:
    if ticks < UNIX_EPOCH_TICKS:
        # The difference is below 2**64, but can be beyond int64.
        return -<double>(<uint64_t>UNIX_EPOCH_TICKS - <uint64_t>ticks) / 1e7
    return <double>(ticks - UNIX_EPOCH_TICKS) / 1e7


cdef inline int number_of_bits(uint64_t bits, int built_in, double* value) noexcept:
    """Make a number of an Int64 or UInt64; return its KindBits: with TEXT where a double cannot hold it."""
    value[0] = <double><int64_t>bits if built_in == INT64 else <double>bits
    if bits <= EXACT_INTEGERS or (built_in == INT64 and bits >= <uint64_t>0 - EXACT_INTEGERS):
        return KIND_NUMBER
    return KIND_NUMBER | KIND_TEXT


cdef int read_other(Cursor* cursor, int built_in, bint is_element, Draft* draft, double* value) except -1:
    """Read one value that is not a plain number; return its KindBits."""
    cdef const uint8_t* start = cursor.at
    cdef Py_ssize_t size = fixed_size(built_in)
    cdef int kind = KIND_TEXT
    if built_in == NULL_TYPE:
        return KIND_NULL
    if built_in == INT64 or built_in == UINT64:
        kind = number_of_bits(le64(take(cursor, 8)), built_in, value)
    elif not is_element:
        cursor.at -= 1
        skip_variant(cursor, 1)
    elif size:
        take(cursor, size)
    else:
        skip_element(cursor, built_in, 1)
    if kind & KIND_TEXT and is_element:
        note_text(draft, start - cursor.start, cursor.at - start, built_in)
    elif kind & KIND_TEXT:
        note_text(draft, start - 1 - cursor.start, cursor.at - start + 1, -1)
    return kind


cdef inline bint read_number(Cursor* cursor, int built_in, double* value) except -1:
    """Read one value of a type that a double holds; return False, having read nothing, for all other types."""
    if built_in == DOUBLE:
        value[0] = le_double(take(cursor, 8))
    elif built_in == FLOAT:
        value[0] = le_float(take(cursor, 4))
    elif built_in == INT32:
        value[0] = <int32_t>le32(take(cursor, 4))
    elif built_in == UINT32 or built_in == STATUS_CODE:
        value[0] = le32(take(cursor, 4))
    elif built_in == INT16:
        value[0] = <int16_t>le16(take(cursor, 2))
    elif built_in == UINT16:
        value[0] = le16(take(cursor, 2))
    elif built_in == BOOLEAN:
        value[0] = take(cursor, 1)[0] != 0
    elif built_in == BYTE:
        value[0] = take(cursor, 1)[0]
    elif built_in == SBYTE:
        value[0] = <int8_t>take(cursor, 1)[0]
    elif built_in == DATE_TIME:
        value[0] = seconds_of_ticks(<int64_t>le64(take(cursor, 8)))
    else:
        return False
    return True


cdef inline int read_value(
    Cursor* cursor, int built_in, bint is_element, Draft* draft, double* value
) except -1:
    """Read the Variant whose encoding byte is `built_in`, or an array's element of this type; return its KindBits."""
    if read_number(cursor, built_in, value):
        return KIND_NUMBER
    return read_other(cursor, built_in, is_element, draft, value)


cdef inline int read_data_value(
    Cursor* cursor, Draft* draft, int mask, int32_t element, Reading* found
) except -1:
    """Read a DataValue behind its mask (Part 6, 5.2.2.17); `element` is a place in its array, or WHOLE_VALUE."""
    cdef const uint8_t* at
    cdef Cursor inner
    cdef Cursor* value_at = cursor
    cdef int built_in
    cdef bint is_element = False, is_missing = False
    cdef int64_t ticks = 0
    found.value = 0.0
    found.status = 0
    found.kind = KIND_NULL
    if mask & ~KNOWN_MASK:
        cursor.at -= 1
        malformed(cursor, f"DataValue mask {mask:#04x} has unknown bits")
    if mask & MASK_VALUE:
        if element < 0:
            built_in = take(cursor, 1)[0]
        else:
            built_in = find_element(cursor, element, &inner, &is_element)
            value_at = &inner
        if built_in < 0:
            is_missing = True
        else:
            found.kind = <uint8_t>read_value(value_at, built_in, is_element, draft, &found.value)
    # What follows has a size that the mask tells: one check for all of it.
    at = take(cursor, bytes_behind_value(mask))
    if mask & MASK_STATUS:
        found.status = le32(at)
        at += 4
    if mask & MASK_SOURCE:
        ticks = <int64_t>le64(at)
        at += 8
    if mask & MASK_SOURCE_PICOSECONDS:
        at += 2
    if mask & MASK_SERVER and ticks <= 0:
        ticks = <int64_t>le64(at)
    if is_missing and not found.status & BAD:
        found.status = BAD_INDEX_RANGE_NO_DATA
    found.ts_us = us_of_ticks(ticks) if ticks > 0 else draft.received_us
    return 0


cdef inline void put_row(Draft* draft, Ring ring, uint32_t slot, const Reading* found) noexcept:
    cdef Py_ssize_t place = draft.place
    if draft.rows < draft.free_rows:
        ring.ts_us[place] = found.ts_us
        ring.slot[place] = slot
        ring.status[place] = found.status
        ring.value[place] = found.value
        ring.kind[place] = found.kind
        place += 1
        draft.place = 0 if place == ring.capacity_rows else place
    draft.rows += 1
    if found.status & OVERFLOW_BITS == OVERFLOW_BITS:
        draft.overflows += 1


cdef int read_readings(Cursor* cursor, Draft* draft, Ring ring, Py_ssize_t count, Handles handles) except -1:
    """Read `count` DataValues into the next rows; one that is not ours, or out of the window, is read and dropped."""
    cdef const uint8_t* at
    cdef Reading found
    cdef Py_ssize_t index, texts
    cdef uint32_t handle, slot
    cdef int mask
    cdef int32_t element = WHOLE_VALUE
    # The columns' bytes may be anything to a compiler: what is in locals need not be read again after each row.
    cdef const uint32_t* slots = draft.slots
    cdef const int32_t* elements = draft.elements
    cdef uint32_t slots_size = draft.slots_size, elements_size = draft.elements_size
    for index in range(count):
        if handles == HANDLES_ON_WIRE:
            at = take(cursor, 5)
            handle = le32(at)
            mask = at[4]
        else:
            mask = take(cursor, 1)[0]
            handle = draft.handle if handles == HANDLE_OF_ALL else <uint32_t>index
        slot = slots[handle] if handle < slots_size else NOT_OURS
        if elements != NULL:
            element = elements[handle] if handle < elements_size else WHOLE_VALUE
        texts = draft.later_count
        read_data_value(cursor, draft, mask, element, &found)
        if handles == HANDLE_OF_ALL and not is_in_window(draft, found.ts_us):
            draft.later_count = texts
        elif slot == NOT_OURS:
            draft.unknown_handles += 1
            draft.later_count = texts
        else:
            put_row(draft, ring, slot, &found)
    return 0


cdef bint is_in_window(Draft* draft, int64_t ts_us) noexcept:
    if ts_us > draft.newest_us:
        draft.newest_us = ts_us
    return draft.after_us < ts_us < draft.before_us
