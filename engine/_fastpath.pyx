"""The compiled hot path: OPC UA bytes -> ring -> journal -> PostgreSQL COPY bytes, and COPY bytes -> columns.

Table of contents, in the order of the data. The typed contract is _fastpath.pyi; reading columns are explained in
readings.py. What every part keeps to: a byte from outside is read through a bounds-checked cursor only; a message
counts whole or not at all; no Python object is made per number.
"""

include "fastpath/cursor.pxi"    # bounds-checked reads from bytes that others wrote
include "fastpath/skip.pxi"      # walk over any OPC UA built-in type, checking it
include "fastpath/ring.pxi"      # one tenant's readings between decode and flush
include "fastpath/draft.pxi"     # what one message adds to the ring, until it is committed
include "fastpath/element.pxi"   # one element of an array -> the reading
include "fastpath/value.pxi"     # one DataValue -> one row
include "fastpath/response.pxi"  # how every answer begins
include "fastpath/publish.pxi"   # one publish response -> rows, or nothing
include "fastpath/request.pxi"   # what requests for many nodes share
include "fastpath/items.pxi"     # CreateMonitoredItems, both ways
include "fastpath/read.pxi"      # Read, both ways
include "fastpath/history.pxi"   # one history answer -> rows, or nothing
include "fastpath/crc32c.pxi"    # the checksum of records
include "fastpath/frame.pxi"     # an entry of the journal -> the bytes of its record, and back
include "fastpath/copy_out.pxi"  # columns -> PostgreSQL's binary COPY format
include "fastpath/blocks.pxi"    # memory for rows, kept for the next batch of them
include "fastpath/load.pxi"      # batches -> rows, screened
include "fastpath/sort.pxi"      # rows in the order of the index, and as COPY bytes
include "fastpath/minutes.pxi"   # the minutes in which sorted rows are
include "fastpath/copy_in.pxi"   # and back
