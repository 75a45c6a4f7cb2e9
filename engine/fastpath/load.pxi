# Load: the columns of a batch -> rows of 32 bytes, screened, for sort.pxi.
#
# Rows that fit follow on each other from the front of one block of memory; those that are refused, from its end.

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr

cdef enum:
    MOST_SORTED_ROWS = 1 << 30   # Row.text has 30 bits beside the kind
    REFUSED_TEXT = 0xFFFFFFFF    # no number of a text
    KIND_BITS = 2

cdef enum Refusal:  # stands in Row.text of a row that is refused
    TOO_EARLY
    TOO_LATE
    NO_TEXT_OF_POSTGRES


cdef struct Row:
    int64_t ts_us
    double value
    int32_t tag_id
    uint32_t status
    uint32_t place   # in all rows of the batches
    uint32_t text    # number of its text, if it has one, and its kind in the lowest two bits


cdef struct Text:
    const char* utf8
    Py_ssize_t nbytes


cdef class Texts:
    """The texts of rows by their number, as UTF-8; keeps what they point to."""

    cdef Text* text
    cdef list kept

    def __cinit__(self):
        self.text = NULL
        self.kept = []

    def __dealloc__(self):
        free(self.text)

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room for more texts."""
        cdef Text* grown = <Text*>realloc(self.text, (len(self.kept) + more + 1) * sizeof(Text))
        if grown == NULL:
            raise MemoryError
        self.text = grown
        return 0

    cdef uint32_t add(self, str text) except? 0:
        """Return the new text's number, or REFUSED_TEXT for one that PostgreSQL cannot hold."""
        cdef Text* new = &self.text[len(self.kept)]
        try:
            new.utf8 = PyUnicode_AsUTF8AndSize(text, &new.nbytes)
        except UnicodeEncodeError:
            return REFUSED_TEXT
        if new.nbytes > INT32_MAX or memchr(new.utf8, 0, new.nbytes) != NULL:
            return REFUSED_TEXT
        self.kept.append(text)
        return <uint32_t>(len(self.kept) - 1)


cdef struct Columns:  # of one batch
    const int64_t* ts_us
    const double* value
    const int32_t* tag_id
    const uint32_t* status
    const uint8_t* kind
    const uint32_t* text   # NULL: no row has one


cdef struct Loading:
    Row* row
    Py_ssize_t fitting       # rows from the front: those that fit
    Py_ssize_t refused       # rows from here on: refused ones, the latest first
    Py_ssize_t place         # the next row's in all rows
    Py_ssize_t late
    uint32_t differing       # bits in which not all tag_ids are alike
    int64_t least_us
    int64_t latest_us
    int64_t late_before_us


cdef int load_batch(Loading* loading, batch, Texts texts) except -1:
    """Copy the rows of a batch behind those that are there."""
    cdef Py_buffer buffers[5]
    cdef Columns columns
    cdef uint32_t* text = NULL
    cdef dict text_of = batch.texts
    cdef Py_ssize_t rows, held = 0
    try:
        take_column(&buffers[0], batch.ts_us, "ts_us", b"l", b"q", 8, -1)
        held = 1
        rows = buffers[0].shape[0]
        if rows > loading.refused - loading.fitting:
            raise ValueError(f"ts_us: has grown to {rows} rows")
        take_column(&buffers[1], batch.tag_id, "tag_id", b"i", b"i", 4, rows)
        held = 2
        take_column(&buffers[2], batch.status, "status", b"I", b"I", 4, rows)
        held = 3
        take_column(&buffers[3], batch.value, "value", b"d", b"d", 8, rows)
        held = 4
        take_column(&buffers[4], batch.kind, "kind", b"B", b"B", 1, rows)
        held = 5
        columns.ts_us = <const int64_t*>buffers[0].buf
        columns.tag_id = <const int32_t*>buffers[1].buf
        columns.status = <const uint32_t*>buffers[2].buf
        columns.value = <const double*>buffers[3].buf
        columns.kind = <const uint8_t*>buffers[4].buf
        if not are_kinds(columns.kind, rows):
            raise ValueError("kind: a row has one that there is not")
        if text_of or has_texts(columns.kind, rows):
            text = take_texts(text_of, columns.kind, rows, texts)
        columns.text = text
        load_rows(loading, &columns, rows)
    finally:
        free(text)
        while held > 0:
            held -= 1
            PyBuffer_Release(&buffers[held])
    return 0


cdef int take_column(
    Py_buffer* buffer, column, str name, const char* form, const char* other, Py_ssize_t size, Py_ssize_t rows
) except -1:
    """Take hold of a column with one of two struct formats; `rows` of -1 is any number of them."""
    cdef str wrong
    PyObject_GetBuffer(column, buffer, PyBUF_FORMAT | PyBUF_STRIDES)
    if buffer.itemsize != size or buffer.format[1] != 0 or buffer.format[0] not in (form[0], other[0]):
        wrong = f"dtype {column.dtype if hasattr(column, 'dtype') else buffer.format}"
    elif buffer.ndim != 1:
        wrong = f"{buffer.ndim} dimensions"
    elif rows >= 0 and buffer.shape[0] != rows:
        wrong = f"{buffer.shape[0]} rows where ts_us has {rows}"
    elif buffer.shape[0] > 1 and buffer.strides[0] != size:
        wrong = "its rows do not follow on each other"
    else:
        return 0
    PyBuffer_Release(buffer)
    raise ValueError(f"{name}: {wrong}")


cdef bint has_texts(const uint8_t* kind, Py_ssize_t rows) noexcept nogil:
    cdef uint8_t seen = 0
    cdef Py_ssize_t row
    for row in range(rows):
        seen |= kind[row]
    return seen & KIND_TEXT


cdef uint32_t* take_texts(dict texts, const uint8_t* kind, Py_ssize_t rows, Texts kept) except NULL:
    """Keep the texts of a batch; return the number of each row's, or REFUSED_TEXT. The caller frees it."""
    cdef Py_ssize_t row, announced = 0
    cdef uint32_t* number
    for row in range(rows):
        announced += kind[row] & KIND_TEXT != 0
    if announced != len(texts):
        raise ValueError(f"texts: {announced} rows announce a text, {len(texts)} have one")
    kept.reserve(announced)
    number = <uint32_t*>malloc((rows + 1) * sizeof(uint32_t))
    if number == NULL:
        raise MemoryError
    try:
        for row, text in texts.items():
            if not 0 <= row < rows or not kind[row] & KIND_TEXT or not isinstance(text, str):
                raise ValueError(f"texts: row {row} has one that its kind does not announce")
            number[row] = kept.add(text)
    except BaseException:
        free(number)
        raise
    return number


cdef void load_rows(Loading* loading, const Columns* columns, Py_ssize_t rows) noexcept nogil:
    cdef Row* all_rows = loading.row
    cdef Row* new
    cdef Py_ssize_t row, fitting = loading.fitting, refused = loading.refused, late = 0
    cdef int64_t ts_us, least_us = loading.least_us, latest_us = loading.latest_us
    cdef int64_t late_before_us = loading.late_before_us
    cdef uint32_t text, differing = loading.differing
    for row in range(rows):
        ts_us = columns.ts_us[row]
        new = &all_rows[fitting]
        new.ts_us = ts_us
        new.value = columns.value[row]
        new.tag_id = columns.tag_id[row]
        new.status = columns.status[row]
        new.place = <uint32_t>(loading.place + row)
        text = columns.kind[row]
        if columns.text != NULL and text & KIND_TEXT:
            text |= columns.text[row] << KIND_BITS
        new.text = text
        if ts_us < least_us or ts_us > latest_us:
            refused -= 1
            all_rows[refused] = new[0]
            all_rows[refused].text = TOO_EARLY if ts_us < least_us else TOO_LATE
        elif columns.text != NULL and text & KIND_TEXT and columns.text[row] == REFUSED_TEXT:
            refused -= 1
            all_rows[refused] = new[0]
            all_rows[refused].text = NO_TEXT_OF_POSTGRES
        else:
            late += ts_us < late_before_us
            differing |= <uint32_t>(new.tag_id ^ all_rows[0].tag_id)
            fitting += 1
    loading.fitting = fitting
    loading.refused = refused
    loading.place += rows
    loading.late += late
    loading.differing = differing
