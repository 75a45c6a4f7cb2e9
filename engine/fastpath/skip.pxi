# Skip: walk over a value of any built-in type (OPC 10000-6, 5.2.2) without keeping it. To skip is to check: lengths,
# counts, masks, dimensions and nesting depth. Whatever passes here, engine.variants can turn into text.

from libc.stdint cimport int32_t, uint8_t, uint64_t

cdef enum:
    # Part 6, 5.2.2.16 asks decoders for at least 100 levels; engine.variants recurses as deep in Python.
    MOST_LEVELS = 100
    # A matrix needs at most two lists an element. An array with a million dimensions of 1 would fill any memory.
    LISTS_PER_ELEMENT = 4
    LISTS_AT_LEAST = 200

cdef enum BuiltInType:  # numbers on the wire: Part 6, table 1
    NULL_TYPE = 0
    BOOLEAN = 1
    SBYTE = 2
    BYTE = 3
    INT16 = 4
    UINT16 = 5
    INT32 = 6
    UINT32 = 7
    INT64 = 8
    UINT64 = 9
    FLOAT = 10
    DOUBLE = 11
    STRING = 12
    DATE_TIME = 13
    GUID = 14
    BYTE_STRING = 15
    XML_ELEMENT = 16
    NODE_ID = 17
    EXPANDED_NODE_ID = 18
    STATUS_CODE = 19
    QUALIFIED_NAME = 20
    LOCALIZED_TEXT = 21
    EXTENSION_OBJECT = 22
    DATA_VALUE = 23
    VARIANT = 24
    DIAGNOSTIC_INFO = 25

cdef enum:  # the encoding byte of a Variant
    TYPE_BITS = 0x3F
    DIMENSIONS_BIT = 0x40
    ARRAY_BIT = 0x80


cdef Py_ssize_t fixed_size(int built_in) noexcept:
    """Return the bytes of a type that always has the same size, 0 for the others."""
    if built_in in (BOOLEAN, SBYTE, BYTE):
        return 1
    if built_in in (INT16, UINT16):
        return 2
    if built_in in (INT32, UINT32, FLOAT, STATUS_CODE):
        return 4
    if built_in in (INT64, UINT64, DOUBLE, DATE_TIME):
        return 8
    if built_in == GUID:
        return 16
    return 0


cdef Py_ssize_t smallest_size(int built_in) noexcept:
    """Return the fewest bytes that one element of a type of varying size takes."""
    if built_in in (LOCALIZED_TEXT, DATA_VALUE, VARIANT, DIAGNOSTIC_INFO):
        return 1
    if built_in in (NODE_ID, EXPANDED_NODE_ID):
        return 2
    if built_in == EXTENSION_OBJECT:
        return 3
    if built_in == QUALIFIED_NAME:
        return 6
    return 4


cdef int check_level(const Cursor* cursor, int level) except -1:
    if level > MOST_LEVELS:
        malformed(cursor, f"values are nested more than {MOST_LEVELS} levels deep")
    return 0


cdef int skip_string(Cursor* cursor) except -1:
    cdef Py_ssize_t length = take_length(cursor)
    if length > 0:
        take(cursor, length)
    return 0


cdef int skip_node_id(Cursor* cursor, bint expanded) except -1:
    cdef int encoding = take(cursor, 1)[0]
    cdef int form = encoding & 0x3F if expanded else encoding
    if form == 0:
        take(cursor, 1)
    elif form == 1:
        take(cursor, 3)
    elif form == 2:
        take(cursor, 6)
    elif form == 3 or form == 5:
        take(cursor, 2)
        skip_string(cursor)
    elif form == 4:
        take(cursor, 18)
    else:
        malformed(cursor, f"NodeId encoding {encoding:#04x} is not defined")
    if expanded and encoding & 0x80:
        skip_string(cursor)
    if expanded and encoding & 0x40:
        take(cursor, 4)
    return 0


cdef int skip_localized_text(Cursor* cursor) except -1:
    cdef int mask = take(cursor, 1)[0]
    if mask & ~0x03:
        malformed(cursor, f"LocalizedText mask {mask:#04x} has unknown bits")
    if mask & 0x01:
        skip_string(cursor)
    if mask & 0x02:
        skip_string(cursor)
    return 0


cdef int skip_extension_object(Cursor* cursor) except -1:
    skip_node_id(cursor, False)
    cdef int encoding = take(cursor, 1)[0]
    if encoding > 2:
        malformed(cursor, f"ExtensionObject encoding {encoding} is not defined")
    if encoding:
        skip_string(cursor)
    return 0


cdef int skip_diagnostic_info(Cursor* cursor, int level) except -1:
    cdef int mask
    while True:
        check_level(cursor, level)
        mask = take(cursor, 1)[0]
        if mask & 0x80:
            malformed(cursor, f"DiagnosticInfo mask {mask:#04x} has unknown bits")
        # SymbolicId, NamespaceUri, Locale and LocalizedText are indexes into the string table.
        take(cursor, 4 * ((mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)))
        if mask & 0x10:
            skip_string(cursor)
        if mask & 0x20:
            take(cursor, 4)
        if not mask & 0x40:
            return 0
        level += 1


cdef int skip_diagnostic_infos(Cursor* cursor) except -1:
    cdef Py_ssize_t _, count = take_count(cursor, 1)
    for _ in range(count):
        skip_diagnostic_info(cursor, 1)
    return 0


cdef inline Py_ssize_t bytes_behind_value(int mask) noexcept:
    """Return the bytes of a DataValue behind its Value: Status, source and server timestamp, their picoseconds."""
    # Bits 1 and 2 are 4 and 8 bytes, bit 3 is 8, bits 4 and 5 are 2 each.
    return ((mask & 0x06) << 1) + (mask & 0x08) + ((mask & 0x10) >> 3) + ((mask & 0x20) >> 4)


cdef int skip_data_value(Cursor* cursor, int level) except -1:
    check_level(cursor, level)
    cdef int mask = take(cursor, 1)[0]
    if mask & 0xC0:
        malformed(cursor, f"DataValue mask {mask:#04x} has unknown bits")
    if mask & 0x01:
        skip_variant(cursor, level + 1)
    take(cursor, bytes_behind_value(mask))
    return 0


cdef int skip_element(Cursor* cursor, int built_in, int level) except -1:
    """Skip one value of a type of varying size."""
    if built_in in (NODE_ID, EXPANDED_NODE_ID):
        return skip_node_id(cursor, built_in == EXPANDED_NODE_ID)
    if built_in == QUALIFIED_NAME:
        take(cursor, 2)
        return skip_string(cursor)
    if built_in == LOCALIZED_TEXT:
        return skip_localized_text(cursor)
    if built_in == EXTENSION_OBJECT:
        return skip_extension_object(cursor)
    if built_in == DATA_VALUE:
        return skip_data_value(cursor, level + 1)
    if built_in == VARIANT:
        return skip_variant(cursor, level + 1)
    if built_in == DIAGNOSTIC_INFO:
        return skip_diagnostic_info(cursor, level + 1)
    # Strings of three sorts, and the types 26 to 31, which Part 6 asks decoders to read as a ByteString.
    return skip_string(cursor)


cdef int skip_dimensions(Cursor* cursor, Py_ssize_t length) except -1:
    """Skip ArrayDimensions: each above 0, and their product the array's length.

    As nested arrays, a dimension is as many lists as the product of those up to it; those of 1 make lists of nothing.
    """
    cdef Py_ssize_t _, count = take_count(cursor, 4)
    cdef uint64_t product = 1, lists = 0
    cdef int32_t dimension
    if count <= 0:
        return 0
    for _ in range(count):
        dimension = <int32_t>le32(take(cursor, 4))
        if dimension <= 0:
            malformed(cursor, f"array dimension {dimension}")
        # Both factors are below 2**31 here, so the product cannot wrap before it is compared.
        product *= <uint64_t>dimension
        if product > <uint64_t>(length if length > 0 else 0):
            break
        lists += product
        if lists > <uint64_t>(LISTS_PER_ELEMENT * length + LISTS_AT_LEAST):
            malformed(cursor, f"{count} array dimensions for {length} elements")
    if product != <uint64_t>length:
        malformed(cursor, f"array dimensions do not multiply to the array's length {length}")
    return 0


cdef int skip_variant(Cursor* cursor, int level) except -1:
    check_level(cursor, level)
    cdef int encoding = take(cursor, 1)[0]
    cdef int built_in = encoding & TYPE_BITS
    cdef Py_ssize_t _, count, size = fixed_size(built_in)
    if built_in > 31:
        malformed(cursor, f"Variant type {built_in} is not defined")
    if not encoding & ARRAY_BIT:
        if encoding & DIMENSIONS_BIT:
            malformed(cursor, "Variant has dimensions but is no array")
        if built_in == VARIANT:
            malformed(cursor, "Variant holds a single Variant")
        if size:
            take(cursor, size)
        elif built_in != NULL_TYPE:
            skip_element(cursor, built_in, level)
        return 0
    if built_in == NULL_TYPE:
        malformed(cursor, "Variant is an array without a type")
    count = take_count(cursor, size if size else smallest_size(built_in))
    if size:
        take(cursor, size * (count if count > 0 else 0))
    else:
        for _ in range(count):
            skip_element(cursor, built_in, level)
    if encoding & DIMENSIONS_BIT:
        skip_dimensions(cursor, count)
    return 0


def measure(data, Py_ssize_t offset, int built_in, int level=1):
    """Check one value of a built-in type at `offset` of the buffer `data`; return where it ends.

    `level` is how deep it is nested already. Raises MalformedMessage for bytes that break Part 6, ValueError for an
    offset outside of the buffer and for what is not a built-in type (1 to 25).
    """
    cdef const uint8_t[::1] view = data
    cdef Py_ssize_t size
    cdef Cursor cursor
    if not 0 <= offset <= view.shape[0]:
        raise ValueError(f"offset: {offset} is outside of {view.shape[0]} bytes")
    if built_in <= 0 or built_in > DIAGNOSTIC_INFO:
        raise ValueError(f"built_in: {built_in} is not the number of a built-in type")
    cursor.start = &view[0]
    cursor.at = cursor.start + offset
    cursor.end = cursor.start + view.shape[0]
    size = fixed_size(built_in)
    if size:
        take(&cursor, size)
    else:
        # skip_element counts its own level for what nests.
        skip_element(&cursor, built_in, level - 1)
    return cursor.at - cursor.start
