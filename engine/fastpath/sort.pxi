# Sort: the batches of some frames -> their rows in the order of the index, tag_id, then ts, as COPY bytes.
#
# A row is copied out of its batch's columns into one of 32 bytes, moved into its tag's run, and written as COPY bytes;
# no Python object is made for it. Rows arrive nearly in order: many tags at each moment, and the moments of a tag one
# after the other. So
#
#     1  a stable radix sort by tag_id makes runs, one for each tag, whose rows are in the order of arrival. A digit
#        that is the same in all rows costs nothing: tags numbered from 1 to 2 000 need one pass, a million two.
#     2  each run is read once; one that is out of order is mended by insertion, which is quick for the few rows that
#        changed places. When that has moved more than a few rows for each that there is, a merge sort takes over.
#
# Both are stable. No input needs more than n log n steps, or more memory than 64 bytes a row.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

import numpy as np

cdef enum:
    DIGIT_BITS = 11              # counters of one digit are 8 KiB: they stay in the first cache beside the rows
    DIGITS = 1 << DIGIT_BITS
    MOVES_PER_ROW = 4            # by insertion; a merge sort of a hundred rows moves each seven times
    SMALL_RUN_ROWS = 16          # below it, insertion is the quicker one however the rows lie
    # psycopg hands on as much at a time. It stays in the second cache, and its memory is that of the piece before.
    PIECE_BYTES = 128 * 1024

cdef class SortedReadings:
    """Rows in the order of the index, and what they are about; made by sort_readings alone."""

    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t late
    cdef readonly object tag_id, start, first_us, last_us
    cdef readonly object refused_early, refused_late, refused_text
    cdef Row* row
    cdef size_t row_bytes   # of the block that `row` is
    cdef Texts texts

    def __cinit__(self):
        self.row = NULL
        self.texts = Texts()

    def __init__(self):
        raise TypeError("SortedReadings are made by sort_readings")

    def __dealloc__(self):
        give_block(self.row, self.row_bytes)

    def __len__(self):
        return self.rows

    @property
    def place(self):
        """Of each row, its place in all rows of the batches; made anew each time."""
        cdef Py_ssize_t row
        places = np.empty(self.rows, np.intp)
        cdef Py_ssize_t[::1] place = places
        for row in range(self.rows):
            place[row] = self.row[row].place
        return places

    @property
    def minutes(self):
        """Minutes since 1970 in which there are rows, ascending; made anew each time."""
        return minutes_of(self)

    def cut(self, newest_us):
        """Return of each run the first row that is later than newest_us[run], or the run's end."""
        cdef const int64_t[::1] newest = newest_us
        cdef const Py_ssize_t[::1] start = self.start
        cdef Py_ssize_t run, low, high, middle
        check_ranges(newest.shape[0], start.shape[0] - 1)
        cuts = np.empty(newest.shape[0], np.intp)
        cdef Py_ssize_t[::1] cut = cuts
        for run in range(newest.shape[0]):
            low, high = start[run], start[run + 1]
            while low < high:
                middle = (low + high) >> 1
                if self.row[middle].ts_us > newest[run]:
                    high = middle
                else:
                    low = middle + 1
            cut[run] = low
        return cuts

    def encode(self, starts, ends):
        """Return the rows starts[i]:ends[i], range after range, as pieces of one binary COPY stream.

        Raises ValueError for a range outside of the rows.
        """
        cdef const Py_ssize_t[::1] start = starts
        cdef const Py_ssize_t[::1] end = ends
        cdef Py_ssize_t place
        cdef Pieces pieces = Pieces.__new__(Pieces)
        check_ranges(start.shape[0], end.shape[0])
        for place in range(start.shape[0]):
            if not 0 <= start[place] <= end[place] <= self.rows:
                raise ValueError(f"there are no rows {start[place]}:{end[place]}, but {self.rows} rows")
        pieces.sorted = self
        pieces.start = np.array(starts)
        pieces.end = np.array(ends)
        return pieces


cdef int check_ranges(Py_ssize_t found, Py_ssize_t wanted) except -1:
    if found != wanted:
        raise ValueError(f"{found} places where {wanted} belong")
    return 0


def sort_readings(batches, least_us, latest_us, late_before_us):
    """Return the rows of some batches that can be stored, in the order of the index.

    A row is refused when its time is before `least_us` or after its batch's `latest_us`, or its text is none that
    PostgreSQL can hold. It is late when its time is before its batch's `late_before_us`. Raises ValueError naming the
    column for one that is not as a Batch has it.
    """
    cdef const int64_t[::1] latest = latest_us
    cdef const int64_t[::1] late_before = late_before_us
    cdef int64_t least = least_us
    cdef Py_ssize_t place, capacity = 0, runs
    cdef SortedReadings found = SortedReadings.__new__(SortedReadings)
    cdef Row* spare
    cdef size_t spare_bytes
    cdef Loading loading
    if least < LEAST_TS_US:
        raise ValueError(f"least_us: {least} is before the first day of timestamptz")
    if not len(batches) == latest.shape[0] == late_before.shape[0]:
        raise ValueError(
            f"{len(batches)} batches, {latest.shape[0]} of latest_us, {late_before.shape[0]} of late_before_us"
        )
    for batch in batches:
        capacity += len(batch.ts_us)
    if capacity >= MOST_SORTED_ROWS:
        raise ValueError(f"{capacity} rows are too many to sort")
    found.row_bytes = (capacity + 1) * sizeof(Row)
    found.row = <Row*>take_block(&found.row_bytes)
    loading = Loading(found.row, 0, capacity, 0, 0, 0, least, 0, 0)
    for place, batch in enumerate(batches):
        loading.latest_us = latest[place]
        loading.late_before_us = late_before[place]
        load_batch(&loading, batch, found.texts)
    found.rows = loading.fitting
    found.late = loading.late
    say_refused(found, &loading, capacity)
    spare_bytes = found.row_bytes
    spare = <Row*>take_block(&spare_bytes)
    with nogil:
        if sort_by_tag(found.row, spare, found.rows, loading.differing):
            found.row, spare = spare, found.row
            found.row_bytes, spare_bytes = spare_bytes, found.row_bytes
        runs = sort_runs(found.row, found.rows, spare)
    give_block(spare, spare_bytes)
    say_runs(found, runs)
    return found


cdef int say_refused(SortedReadings found, const Loading* loading, Py_ssize_t capacity) except -1:
    cdef Py_ssize_t row
    refused = np.empty(capacity - loading.refused, np.intp)
    why = np.empty(capacity - loading.refused, np.uint8)
    cdef Py_ssize_t[::1] places = refused
    cdef uint8_t[::1] reasons = why
    for row in range(capacity - loading.refused):
        places[row] = loading.row[capacity - 1 - row].place
        reasons[row] = <uint8_t>loading.row[capacity - 1 - row].text
    found.refused_early = refused[why == TOO_EARLY]
    found.refused_late = refused[why == TOO_LATE]
    found.refused_text = refused[why == NO_TEXT_OF_POSTGRES]
    return 0


# --- sort

cdef bint sort_by_tag(Row* rows, Row* spare, Py_ssize_t count, uint32_t differing) noexcept nogil:
    """Sort stably by tag_id; return whether the rows are in `spare` now."""
    cdef uint32_t following[DIGITS]
    cdef Row* swapped
    cdef Py_ssize_t row, each
    cdef uint32_t before, here, digit, shift = 0
    cdef bint are_moved = False
    while shift < 32:
        if differing >> shift & (DIGITS - 1):
            memset(following, 0, sizeof(following))
            for row in range(count):
                following[digit_of(&rows[row], shift)] += 1
            before = 0
            for each in range(DIGITS):
                here = following[each]
                following[each] = before
                before += here
            for row in range(count):
                digit = digit_of(&rows[row], shift)
                spare[following[digit]] = rows[row]
                following[digit] += 1
            swapped = rows
            rows = spare
            spare = swapped
            are_moved = not are_moved
        shift += DIGIT_BITS
    return are_moved


cdef inline uint32_t digit_of(const Row* row, uint32_t shift) noexcept nogil:
    # The other sign, so that negative ones come first.
    return (<uint32_t>row.tag_id ^ 0x80000000u) >> shift & (DIGITS - 1)


cdef Py_ssize_t sort_runs(Row* rows, Py_ssize_t count, Row* spare) noexcept nogil:
    """Sort the rows of each tag stably by ts; return the number of tags."""
    cdef Py_ssize_t row, first = 0, runs = 0
    cdef bint is_sorted = True
    for row in range(1, count + 1):
        if row < count and rows[row].tag_id == rows[first].tag_id:
            is_sorted &= rows[row - 1].ts_us <= rows[row].ts_us
            continue
        if not is_sorted and not insert_rows(rows + first, row - first, MOVES_PER_ROW * (row - first)):
            merge_rows(rows + first, row - first, spare)
        is_sorted = True
        first = row
        runs += 1
    return runs


cdef bint insert_rows(Row* rows, Py_ssize_t count, Py_ssize_t most_moves) noexcept nogil:
    """Sort by insertion; return False, with rows that are partly sorted, when that takes too many moves."""
    cdef Py_ssize_t row, at
    cdef Row moving
    for row in range(1, count):
        if rows[row].ts_us >= rows[row - 1].ts_us:
            continue
        moving = rows[row]
        at = row
        while at > 0 and rows[at - 1].ts_us > moving.ts_us:
            rows[at] = rows[at - 1]
            at -= 1
        rows[at] = moving
        most_moves -= row - at
        if most_moves < 0:
            return False
    return True


cdef void merge_rows(Row* rows, Py_ssize_t count, Row* spare) noexcept nogil:
    """Sort by merging; `spare` has room for as many."""
    cdef Py_ssize_t half = count >> 1, left = 0, right = half, at = 0
    if count <= SMALL_RUN_ROWS:
        insert_rows(rows, count, SMALL_RUN_ROWS * SMALL_RUN_ROWS)
        return
    merge_rows(rows, half, spare)
    merge_rows(rows + half, count - half, spare)
    if rows[half - 1].ts_us <= rows[half].ts_us:
        return
    memcpy(spare, rows, half * sizeof(Row))
    while left < half and right < count:
        if spare[left].ts_us <= rows[right].ts_us:
            rows[at] = spare[left]
            left += 1
        else:
            rows[at] = rows[right]
            right += 1
        at += 1
    memcpy(rows + at, spare + left, (half - left) * sizeof(Row))


cdef int say_runs(SortedReadings found, Py_ssize_t runs) except -1:
    cdef Py_ssize_t row, run = 0
    cdef const Row* rows = found.row
    found.tag_id = np.empty(runs, np.int32)
    found.start = np.empty(runs + 1, np.intp)
    found.first_us = np.empty(runs, np.int64)
    found.last_us = np.empty(runs, np.int64)
    cdef int32_t[::1] tag_id = found.tag_id
    cdef Py_ssize_t[::1] start = found.start
    cdef int64_t[::1] first_us = found.first_us
    cdef int64_t[::1] last_us = found.last_us
    start[0] = 0
    for row in range(1, found.rows + 1):
        if row == found.rows or rows[row].tag_id != rows[row - 1].tag_id:
            tag_id[run] = rows[row - 1].tag_id
            first_us[run] = rows[start[run]].ts_us
            last_us[run] = rows[row - 1].ts_us
            run += 1
            start[run] = row
    return 0


# --- encode

cdef class Pieces:
    """An iterator: ranges of sorted rows as one binary COPY stream, in pieces of at most PIECE_BYTES.

    A row whose text is too large for that is a larger piece.
    """

    cdef SortedReadings sorted
    cdef const Py_ssize_t[::1] start, end
    cdef Py_ssize_t place   # ranges before it are encoded
    cdef Py_ssize_t done    # and so many rows of it
    cdef bint is_begun, is_ended

    def __init__(self):
        raise TypeError("Pieces are made by SortedReadings.encode")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t size = PIECE_BYTES, put = 0
        cdef uint8_t* first
        cdef uint8_t* at
        if self.is_ended:
            raise StopIteration
        while True:
            piece = PyByteArray_FromStringAndSize(NULL, size)
            first = at = <uint8_t*>PyByteArray_AS_STRING(piece)
            if not self.is_begun:
                memcpy(at, PyBytes_AS_STRING(COPY_HEADER), HEADER_BYTES)
                at += HEADER_BYTES
            with nogil:
                put = self.fill(&at, first + size - TRAILER_BYTES)
            if put or self.is_ended:
                break
            size = HEADER_BYTES + self.next_bytes() + TRAILER_BYTES
        self.is_begun = True
        if self.is_ended:
            at = put16(at, 0xFFFF)
        PyByteArray_Resize(piece, at - first)
        return piece

    cdef Py_ssize_t fill(self, uint8_t** at, uint8_t* limit) noexcept nogil:
        """Write rows while they fit; return their number."""
        cdef Py_ssize_t put, all_put = 0, left
        while self.place < self.start.shape[0]:
            left = self.end[self.place] - self.start[self.place] - self.done
            put = put_sorted(
                at, limit, self.sorted.row + self.start[self.place] + self.done, left, self.sorted.texts.text
            )
            all_put += put
            if put < left:
                self.done += put
                return all_put
            self.place += 1
            self.done = 0
        self.is_ended = True
        return all_put

    cdef Py_ssize_t next_bytes(self) noexcept nogil:
        """Return how many bytes the next row needs; it has a text."""
        cdef uint32_t text = self.sorted.row[self.start[self.place] + self.done].text
        return ROW_BYTES + self.sorted.texts.text[text >> KIND_BITS].nbytes


cdef Py_ssize_t put_sorted(
    uint8_t** written, uint8_t* limit, const Row* rows, Py_ssize_t count, const Text* texts
) noexcept nogil:
    """Write rows from written[0] up to `limit`, and move that on; return how many of them fitted."""
    cdef Py_ssize_t row
    cdef uint32_t kind
    cdef const Text* text
    cdef uint8_t* at = written[0]
    for row in range(count):
        if limit - at < ROW_BYTES:
            break
        kind = rows[row].text
        if kind & KIND_TEXT:
            text = &texts[kind >> KIND_BITS]
            if limit - at - ROW_BYTES < text.nbytes:
                break
            at = put_numbers(at, rows[row].ts_us, rows[row].tag_id, rows[row].status, rows[row].value, kind)
            at = put32(at, <uint32_t>text.nbytes)
            memcpy(at, text.utf8, text.nbytes)
            at += text.nbytes
        else:
            at = put_numbers(at, rows[row].ts_us, rows[row].tag_id, rows[row].status, rows[row].value, kind)
            at = put32(at, 0xFFFFFFFF)
    else:
        row = count
    written[0] = at
    return row
