# Draft: what one message adds to a ring, as long as it is not committed.
#
# Rows are written behind the ring's tail, texts are noted as places in the message. When the last byte of the message
# has been read, `commit_draft` makes the texts and moves the tail; until then nothing has happened.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from engine.variants import begin_message, end_message
from engine.variants import text_of as text_of_variant

cdef enum:
    NOT_OURS = 0xFFFFFFFF  # in the lookup table: this handle has no slot
    WHOLE_VALUE = -1       # in the table of elements: no element is picked


cdef struct Later:
    # A value whose text is made once the message is known to be whole.
    Py_ssize_t row     # counted from the ring's tail
    Py_ssize_t offset  # of its Variant in the message, or of an element without its type
    Py_ssize_t size
    int built_in       # of an element; -1: the bytes are a Variant


cdef struct Draft:
    Py_ssize_t rows            # also counted on when there is no room left
    Py_ssize_t free_rows
    Py_ssize_t place           # of the next row in the columns
    Py_ssize_t unknown_handles
    Py_ssize_t overflows
    int64_t received_us
    const uint32_t* slots      # by handle
    uint32_t slots_size
    const int32_t* elements    # by handle; NULL: none is picked
    uint32_t elements_size
    uint32_t handle            # of the values of one node's history, and the window between whose ends they count
    int64_t after_us
    int64_t before_us
    int64_t newest_us          # of those values, whether they count or not
    Later* later
    Py_ssize_t later_count
    Py_ssize_t later_room


cdef int begin_draft(
    Draft* draft, Ring ring, const uint32_t[::1] slots, const int32_t[::1] elements, int64_t received_us
) except -1:
    """Fill in a draft behind the ring's tail; free(draft.later) when done."""
    memset(draft, 0, sizeof(Draft))
    draft.free_rows = ring.free()
    draft.place = <Py_ssize_t>(ring.tail % <uint64_t>ring.capacity_rows)
    draft.received_us = received_us
    draft.slots = &slots[0]
    draft.slots_size = <uint32_t>min(slots.shape[0], <Py_ssize_t>NOT_OURS)
    if elements is not None:
        draft.elements = &elements[0]
        draft.elements_size = <uint32_t>min(elements.shape[0], <Py_ssize_t>NOT_OURS)
    return 0


cdef int note_text(Draft* draft, Py_ssize_t offset, Py_ssize_t size, int built_in) except -1:
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
    draft.later[draft.later_count] = Later(draft.rows, offset, size, built_in)
    draft.later_count += 1
    return 0


cdef bint commit_draft(const Cursor* cursor, const Draft* draft, Ring ring, text_of) except -1:
    """Make the texts and move the tail, the message having been read to its end; return False if it does not fit."""
    cdef list texts = []
    if draft.rows > ring.capacity_rows:
        malformed(cursor, f"{draft.rows} values in one message, the ring holds {ring.capacity_rows}")
    if draft.rows > draft.free_rows:
        return False
    if draft.later_count:
        begin_message()
        try:
            texts = make_texts(cursor, draft, ring, text_of)
        finally:
            end_message()
        if not ring.texts_fit(texts):
            return False
    ring.commit(draft.rows, texts)
    return True


cdef list make_texts(const Cursor* cursor, const Draft* draft, Ring ring, text_of):
    """Return (row from the tail, text) of the values that are not plain numbers; a null one loses its KIND_TEXT."""
    cdef list texts = []
    cdef const Later* later
    cdef Py_ssize_t index, place, tail = <Py_ssize_t>(ring.tail % <uint64_t>ring.capacity_rows)
    for index in range(draft.later_count):
        later = &draft.later[index]
        text = text_of(variant_of(cursor, later))
        if text is None:
            place = tail + later.row
            if place >= ring.capacity_rows:
                place -= ring.capacity_rows
            ring.kind[place] &= <uint8_t>~KIND_TEXT
        else:
            texts.append((later.row, text))
    return texts


cdef bytes variant_of(const Cursor* cursor, const Later* later):
    """Return the bytes of a noted value as a Variant: those of an element with their type before them."""
    cdef const char* found = <const char*>cursor.start + later.offset
    cdef bytes variant
    cdef char* at
    if later.built_in < 0:
        return PyBytes_FromStringAndSize(found, later.size)
    variant = PyBytes_FromStringAndSize(NULL, later.size + 1)
    at = PyBytes_AS_STRING(variant)
    at[0] = <char>later.built_in
    memcpy(at + 1, found, later.size)
    return variant
