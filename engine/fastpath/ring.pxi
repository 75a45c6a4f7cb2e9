# Ring: one tenant's readings between decode and flush, as columns of one fixed capacity, allocated once.
#
# Rows are counted from the first one ever put in; row r lives at r % capacity. Rows from `head` up to `tail` are in the
# ring. A writer fills places from `tail` on and moves `tail` once, at its end: until then nothing has happened.
# One event loop owns a ring; nothing here locks.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from collections import deque

import numpy as np

from engine.readings import RawBatch

cdef enum KindBits:  # engine.readings.Kind
    KIND_NULL = 0
    KIND_NUMBER = 1
    KIND_TEXT = 2

cdef enum:
    # Texts that wait for a flush, beside the columns: four times the largest message that the settings allow.
    MOST_TEXT_BYTES = 64 * 1024 * 1024


cdef class Ring:
    """Hold a tenant's readings until they are flushed. Preallocated: 25 bytes a row."""

    cdef readonly Py_ssize_t capacity_rows
    cdef int64_t* ts_us
    cdef uint32_t* slot
    cdef uint32_t* status
    cdef double* value
    cdef uint8_t* kind
    cdef uint64_t head
    cdef uint64_t tail
    cdef object texts          # deque of (row, text, bytes), oldest first
    cdef Py_ssize_t text_bytes

    def __cinit__(self, Py_ssize_t capacity_rows):
        if capacity_rows < 1:
            raise ValueError(f"capacity_rows: {capacity_rows} is less than 1")
        self.capacity_rows = capacity_rows
        self.texts = deque()
        self.ts_us = <int64_t*>calloc(capacity_rows, sizeof(int64_t))
        self.slot = <uint32_t*>calloc(capacity_rows, sizeof(uint32_t))
        self.status = <uint32_t*>calloc(capacity_rows, sizeof(uint32_t))
        self.value = <double*>calloc(capacity_rows, sizeof(double))
        self.kind = <uint8_t*>calloc(capacity_rows, sizeof(uint8_t))
        if not (self.ts_us and self.slot and self.status and self.value and self.kind):
            raise MemoryError(f"a ring of {capacity_rows} rows")

    def __dealloc__(self):
        free(self.ts_us)
        free(self.slot)
        free(self.status)
        free(self.value)
        free(self.kind)

    def __len__(self):
        return <Py_ssize_t>(self.tail - self.head)

    @property
    def free_rows(self):
        """Rows that still fit."""
        return self.free()

    cdef Py_ssize_t free(self) noexcept:
        return self.capacity_rows - <Py_ssize_t>(self.tail - self.head)

    cdef bint texts_fit(self, list texts) except -1:
        """Say whether these texts may come in; a ring without any takes all of a message, or it would never fit."""
        cdef Py_ssize_t more_bytes = 0
        if self.text_bytes == 0:
            return True
        for _, text in texts:
            more_bytes += text.__sizeof__()
        return self.text_bytes + more_bytes <= MOST_TEXT_BYTES

    cdef int commit(self, Py_ssize_t rows, list texts) except -1:
        """Make the rows written after `tail` part of the ring. `texts` holds (row from `tail`, text), sorted."""
        cdef Py_ssize_t row, size
        for row, text in texts:
            size = text.__sizeof__()
            self.texts.append((self.tail + <uint64_t>row, text, size))
            self.text_bytes += size
        self.tail += <uint64_t>rows
        return 0

    def drain(self, Py_ssize_t most_rows):
        """Take out up to `most_rows` of the oldest readings as a RawBatch of fresh arrays."""
        if most_rows < 0:
            raise ValueError(f"most_rows: {most_rows} is less than 0")
        cdef Py_ssize_t rows = min(most_rows, <Py_ssize_t>(self.tail - self.head))
        ts_us = np.empty(rows, np.int64)
        slot = np.empty(rows, np.uint32)
        status = np.empty(rows, np.uint32)
        value = np.empty(rows, np.float64)
        kind = np.empty(rows, np.uint8)
        self.copy_column(ts_us, <char*>self.ts_us, 8, rows)
        self.copy_column(slot, <char*>self.slot, 4, rows)
        self.copy_column(status, <char*>self.status, 4, rows)
        self.copy_column(value, <char*>self.value, 8, rows)
        self.copy_column(kind, <char*>self.kind, 1, rows)
        batch = RawBatch(ts_us, slot, status, value, kind, self.take_texts(rows))
        self.head += <uint64_t>rows
        return batch

    cdef int copy_column(self, column, const char* source, Py_ssize_t item_bytes, Py_ssize_t rows) except -1:
        """Copy `rows` items from the oldest on into a numpy array of the same item size."""
        if rows == 0:
            return 0
        cdef char[::1] target = column.view(np.int8)
        cdef Py_ssize_t first = <Py_ssize_t>(self.head % <uint64_t>self.capacity_rows)
        cdef Py_ssize_t straight = min(rows, self.capacity_rows - first)
        memcpy(&target[0], source + first * item_bytes, straight * item_bytes)
        if rows > straight:
            memcpy(&target[straight * item_bytes], source, (rows - straight) * item_bytes)
        return 0

    cdef dict take_texts(self, Py_ssize_t rows):
        """Take out the texts of the oldest `rows` rows, keyed by their place in that batch."""
        cdef dict taken = {}
        cdef uint64_t row, end = self.head + <uint64_t>rows
        while self.texts:
            row = self.texts[0][0]
            if row >= end:
                break
            _, text, size = self.texts.popleft()
            self.text_bytes -= <Py_ssize_t>size
            taken[<Py_ssize_t>(row - self.head)] = text
        return taken

    def append(self, raw):
        """Put a RawBatch in, all of it or nothing; return False if it does not fit now.

        Raises ValueError for columns that do not belong together, or for more rows than the ring's capacity.
        """
        cdef const int64_t[::1] ts_us = raw.ts_us
        cdef const uint32_t[::1] slot = raw.slot
        cdef const uint32_t[::1] status = raw.status
        cdef const double[::1] value = raw.value
        cdef const uint8_t[::1] kind = raw.kind
        cdef Py_ssize_t row, at, rows = ts_us.shape[0]
        check_columns(rows, slot.shape[0], status.shape[0], value.shape[0], kind.shape[0])
        if rows > self.capacity_rows:
            raise ValueError(f"a batch of {rows} rows never fits into a ring of {self.capacity_rows}")
        texts = sorted(raw.texts.items())
        check_texts(kind, texts)
        if rows > self.free() or not self.texts_fit(texts):
            return False
        at = <Py_ssize_t>(self.tail % <uint64_t>self.capacity_rows)
        for row in range(rows):
            self.ts_us[at] = ts_us[row]
            self.slot[at] = slot[row]
            self.status[at] = status[row]
            self.value[at] = value[row]
            self.kind[at] = kind[row]
            at += 1
            if at == self.capacity_rows:
                at = 0
        self.commit(rows, texts)
        return True


cdef int check_columns(Py_ssize_t rows, Py_ssize_t a, Py_ssize_t b, Py_ssize_t c, Py_ssize_t d) except -1:
    if not (rows == a == b == c == d):
        raise ValueError(f"columns of different lengths: {rows}, {a}, {b}, {c}, {d}")
    return 0


cdef int check_texts(const uint8_t[::1] kind, list texts) except -1:
    """Check that exactly the rows whose kind has TEXT have one; `texts` is sorted by row."""
    cdef Py_ssize_t row, with_text = 0, rows = kind.shape[0]
    for row in range(rows):
        if kind[row] & KIND_TEXT:
            with_text += 1
    for row, text in texts:
        if not 0 <= row < rows or not kind[row] & KIND_TEXT or not isinstance(text, str):
            raise ValueError(f"row {row} has a text that its kind does not announce")
    if with_text != len(texts):
        raise ValueError(f"{with_text} rows announce a text, {len(texts)} have one")
    return 0
