"""The compiled hot path: OPC UA bytes -> ring -> PostgreSQL COPY bytes, and COPY bytes -> columns.

Table of contents, in the order of the data. The typed contract is _fastpath.pyi; reading columns are explained in
readings.py. What every part keeps to: a byte from outside is read through a bounds-checked cursor only; a message
counts whole or not at all; no Python object is made per number.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from collections import deque

import numpy as np

from engine.errors import DatabaseError, MalformedMessage
from engine.readings import Batch, RawBatch
from engine.variants import storable, text_of

include "fastpath/cursor.pxi"    # bounds-checked reads from bytes that others wrote
include "fastpath/skip.pxi"      # walk over any OPC UA built-in type, checking it
include "fastpath/ring.pxi"      # one tenant's readings between decode and flush
include "fastpath/value.pxi"     # one MonitoredItemNotification -> one row
include "fastpath/publish.pxi"   # one publish response -> rows, or nothing
include "fastpath/copy_out.pxi"  # columns -> PostgreSQL's binary COPY format
include "fastpath/copy_in.pxi"   # and back
