"""The typed contract of the compiled hot path. How it works: _fastpath.pyx and its parts in fastpath/."""

from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from engine.readings import Batch, RawBatch

class Ring:
    """One tenant's readings between decode and flush: columns of one fixed capacity. For one event loop; no locks."""

    capacity_rows: int
    def __init__(self, capacity_rows: int) -> None:
        """Allocate for `capacity_rows` (1 or more), 25 bytes each. Raises ValueError below 1."""

    def __len__(self) -> int:
        """Return the rows in the ring."""

    @property
    def free_rows(self) -> int:
        """Rows that still fit."""

    def drain(self, most_rows: int) -> RawBatch:
        """Take out up to `most_rows` of the oldest readings, as fresh arrays."""

    def append(self, raw: RawBatch) -> bool:
        """Put a batch in, all of it or nothing; return False if it does not fit now.

        Raises ValueError for columns that do not belong together, and for more rows than the ring's capacity.
        """

@final
class Publish:
    """What one publish response said, beside the readings that went into the ring.

    With RING_FULL nothing has been taken, so all counts are 0 and status_change is None.
    """

    outcome: int
    """An engine.outcomes.Outcome."""
    service_result: int
    """StatusCode of the response; Bad makes the outcome FAULT."""
    subscription_id: int
    """0 in a RepublishResponse, which does not name it."""
    sequence_number: int
    """Of this message; in a KEEP_ALIVE that of the next one."""
    more_notifications: bool
    rows: int
    """Rows put into the ring."""
    unknown_handles: int
    """Values whose client handle has no slot: not stored."""
    events: int
    """Events and notifications of unknown types: seen, not read."""
    status_change: int | None
    """StatusCode of a StatusChangeNotification."""
    refused_acks: int
    """Acknowledgements of the request that the server refused."""

def decode_publish(message: Buffer, ring: Ring, slots: NDArray[np.uint32], received_us: int) -> Publish:
    """Put the values of one PublishResponse, RepublishResponse or ServiceFault into the ring.

    `message` starts at the TypeId; `slots` maps a client handle to a slot, 0xFFFFFFFF is a handle that is not ours.
    Time: source timestamp, else server timestamp, else `received_us` (microseconds since 1970). All or nothing: with
    RING_FULL and on MalformedMessage the ring is unchanged. Raises MalformedMessage for bytes that break
    OPC 10000-6, and for a message with more values than the ring's capacity.
    """

def encode_copy(
    ts_us: NDArray[np.int64],
    tag_id: NDArray[np.int32],
    status: NDArray[np.uint32],
    value: NDArray[np.float64],
    kind: NDArray[np.uint8],
    texts: dict[int, str],
) -> bytearray:
    """Return the rows as one binary COPY stream, header and trailer included, for READING_COLUMNS.

    Raises ValueError for columns that do not belong together, and for a time before timestamptz begins.
    """

def decode_copy(data: Buffer) -> Batch:
    """Return the rows of one whole binary COPY stream of READING_COLUMNS.

    Raises engine.errors.DatabaseError if the bytes are anything else, or end early.
    """
