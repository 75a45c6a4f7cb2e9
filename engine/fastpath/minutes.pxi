# Minutes: in which of them there are readings, for whoever has to compute something of these minutes anew.

from libc.stdint cimport int64_t, uint64_t

import numpy as np

cdef enum:
    MINUTE_US = 60000000


cdef inline int64_t minute_of(int64_t ts_us) noexcept nogil:
    return ts_us // MINUTE_US if ts_us >= 0 else -((MINUTE_US - 1 - ts_us) // MINUTE_US)


cdef minutes_of(SortedReadings found):
    cdef const int64_t[::1] first_us = found.first_us
    cdef const int64_t[::1] last_us = found.last_us
    cdef int64_t least, most
    cdef uint64_t words
    cdef Py_ssize_t run, seen
    if found.rows == 0:
        return np.empty(0, np.int64)
    least, most = first_us[0], last_us[0]
    for run in range(first_us.shape[0]):
        least = min(least, first_us[run])
        most = max(most, last_us[run])
    least = minute_of(least)
    words = <uint64_t>(minute_of(most) - least) // 64 + 1
    # A bit for each minute, unless that needs more memory than the rows do: they can be of a century.
    if words > <uint64_t>found.rows + 1024:
        seen = list_minutes(found.row, found.rows, None)
        listed = np.empty(seen, np.int64)
        list_minutes(found.row, found.rows, listed)
        return np.unique(listed)
    marked = np.zeros(words, np.uint64)
    mark_minutes(found.row, found.rows, least, marked)
    return np.flatnonzero(np.unpackbits(marked.view(np.uint8), bitorder="little")) + least


cdef int mark_minutes(const Row* rows, Py_ssize_t count, int64_t least, uint64_t[::1] marked) except -1:
    cdef Py_ssize_t row
    cdef int64_t minute = least
    with nogil:
        for row in range(count):
            # Most rows are of the minute of the row before them.
            if row == 0 or not is_in_minute(rows[row].ts_us, minute):
                minute = minute_of(rows[row].ts_us)
                marked[(minute - least) >> 6] |= <uint64_t>1 << ((minute - least) & 63)
    return 0


cdef Py_ssize_t list_minutes(const Row* rows, Py_ssize_t count, int64_t[::1] minutes) except -1:
    """Fill in the minutes of the rows, without a repetition next to it; return their number. None: only count."""
    cdef Py_ssize_t row, seen = 0
    cdef int64_t minute = 0
    for row in range(count):
        if row == 0 or not is_in_minute(rows[row].ts_us, minute):
            minute = minute_of(rows[row].ts_us)
            if minutes is not None:
                minutes[seen] = minute
            seen += 1
    return seen


cdef inline bint is_in_minute(int64_t ts_us, int64_t minute) noexcept nogil:
    return <uint64_t>ts_us - <uint64_t>(minute * MINUTE_US) < MINUTE_US
