"""The typed contract of the compiled hot path. How it works: _fastpath.pyx and its parts in fastpath/."""

from collections.abc import Callable, Iterator, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from engine.frames import Entry, Position
from engine.gaps import GapChanges
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
    publish_time_us: int
    """When the server sent the message (microseconds since 1970), 0 if it does not say."""
    more_notifications: bool
    rows: int
    """Rows put into the ring."""
    unknown_handles: int
    """Values whose client handle has no slot: not stored."""
    overflows: int
    """Rows whose status has InfoType DataValue and Overflow: the server's queue lost values beside them."""
    events: int
    """Events and notifications of unknown types: seen, not read."""
    event_lists: tuple[bytes, ...]
    """The bodies of EventNotificationLists and of unknown notifications, whole and in order, but for empty ones."""
    status_change: int | None
    """StatusCode of a StatusChangeNotification."""
    refused_acks: int
    """Acknowledgements of the request that the server refused."""

def measure(data: Buffer, offset: int, built_in: int, level: int = 1) -> int:
    """Check one value of a built-in type (OPC 10000-6, 5.1.2) at `offset` of `data`; return where it ends.

    `level` is its nesting, 1 for a value in no other. Raises MalformedMessage for bytes that break Part 6,
    ValueError for an offset outside of `data` and for a number that is no built-in type.
    """

def decode_publish(
    message: Buffer,
    ring: Ring,
    slots: NDArray[np.uint32],
    received_us: int,
    elements: NDArray[np.int32] | None = None,
    text_of: Callable[[bytes], str | None] = ...,
) -> Publish:
    """Put the values of one PublishResponse, RepublishResponse or ServiceFault into the ring.

    `message` starts at the TypeId; `slots` maps a client handle to a slot, 0xFFFFFFFF is a handle that is not ours.
    `elements` says by handle which element of the flat array is the reading, -1 or no place there: the whole value.
    An array of one element is that element; one that the value does not have is a Kind.NULL with
    BadIndexRangeNoData, unless its status is Bad already. `text_of` makes the text of an encoded Variant
    (engine.variants.text_of by default); what it raises leaves the ring unchanged.
    Time: source timestamp, else server timestamp, else `received_us` (microseconds since 1970). All or nothing: with
    RING_FULL and on MalformedMessage the ring is unchanged. Raises MalformedMessage for bytes that break
    OPC 10000-6, and for a message with more values than the ring's capacity.
    """

def encode_string_node_ids(
    texts: bytes,
    starts: NDArray[np.uint32],
    ends: NDArray[np.uint32],
    head: bytes,
    prefix: bytes,
    most_bytes: int,
) -> list[bytes] | None:
    """Return the encoded NodeIds of texts that all begin with `head` (`ns=2;s=`), or None if one is not so simple.

    `texts` holds node ids one after the other, those wanted from starts[i] up to ends[i]. A NodeId is `prefix`, the
    length of what follows `head`, and that. One with nothing there, or longer than `most_bytes` as a text, is not
    simple. Raises ValueError for places outside of `texts`.
    """

def encode_create_items(
    subscription_id: int,
    timestamps: int,
    handles: NDArray[np.uint32],
    node_ids: Sequence[bytes],
    index_ranges: Sequence[str] | None,
    parameters: bytes,
) -> bytes:
    """Return the body behind the RequestHeader of a CreateMonitoredItemsRequest (i=751) for these nodes' Values.

    `node_ids` are encoded NodeIds, an index range of "" is none, `timestamps` a TimestampsToReturn (OPC 10000-4,
    7.40); `parameters` are encoded MonitoringParameters without their ClientHandle: from SamplingInterval to
    DiscardOldest, the same for all. Raises ValueError for lengths that differ and bytes that are not encoded so.
    """

def decode_created_items(
    message: Buffer,
    status: NDArray[np.uint32],
    item_id: NDArray[np.uint32],
    sampling_ms: NDArray[np.float64],
    queue_size: NDArray[np.uint32],
) -> int:
    """Read a CreateMonitoredItemsResponse (i=754) or ServiceFault; return its ServiceResult.

    The arrays have a place for each item of the request, and are filled. With a Bad result they are unchanged, as
    on MalformedMessage: for bytes that break OPC 10000-6, and for another number of results than of items.
    """

def encode_read(
    node_ids: Sequence[bytes],
    index_ranges: Sequence[str] | None,
    timestamps: int,
    max_age_ms: float = 0.0,
    attribute: int = 13,
) -> bytes:
    """Return the body behind the RequestHeader of a ReadRequest (i=631) for one attribute of these nodes.

    `node_ids`, `index_ranges` and `timestamps` as in encode_create_items, and the same errors.
    """

@final
class ReadAnswer:
    """What one read response said, beside the readings that went into the ring."""

    outcome: int
    """DATA, FAULT or RING_FULL of engine.outcomes.Outcome."""
    service_result: int
    """StatusCode of the response; Bad makes the outcome FAULT."""
    rows: int
    """Rows put into the ring; 0 with RING_FULL and FAULT."""

def decode_read(
    message: Buffer,
    ring: Ring,
    slots: NDArray[np.uint32],
    received_us: int,
    elements: NDArray[np.int32] | None = None,
    text_of: Callable[[bytes], str | None] = ...,
) -> ReadAnswer:
    """Put the values of one ReadResponse (i=634) or ServiceFault into the ring, all or nothing.

    Value i belongs to slots[i] and elements[i]; a slot of 0xFFFFFFFF drops it. Otherwise as decode_publish. Raises
    MalformedMessage also for another number of values than `slots` has places.
    """

@final
class HistoryResult:
    """What one node's part of a history answer said."""

    status: int
    """Its StatusCode."""
    continuation_point: bytes | None
    """To ask for more with; None: this was all."""
    rows: int
    """Values put into the ring."""
    seen: int
    """Values that the server sent, within the asked time or not."""
    newest_us: int
    """The newest time of those seen (microseconds since 1970); 0 if `seen` is 0."""

@final
class HistoryAnswer:
    """What one history answer said, beside the readings that went into the ring."""

    outcome: int
    """DATA, FAULT or RING_FULL of engine.outcomes.Outcome."""
    service_result: int
    """StatusCode of the response; Bad makes the outcome FAULT."""
    rows: int
    """Rows put into the ring; 0 with RING_FULL and FAULT."""
    results: list[HistoryResult]
    """One for each node; empty with RING_FULL and FAULT."""

def decode_history(
    message: Buffer,
    ring: Ring,
    slots: NDArray[np.uint32],
    after_us: NDArray[np.int64],
    before_us: NDArray[np.int64],
    received_us: int,
    elements: NDArray[np.int32] | None = None,
    text_of: Callable[[bytes], str | None] = ...,
) -> HistoryAnswer:
    """Put the values of one HistoryReadResponse (i=667) or ServiceFault into the ring, all or nothing.

    Result i belongs to slots[i] and elements[i]. Of its HistoryData (i=658) those values become rows whose time is
    after after_us[i] and before before_us[i] (microseconds since 1970); other kinds of history are passed over.
    Otherwise as decode_publish. Raises MalformedMessage also for another number of results than `slots` has places.
    """

def crc32c(data: Buffer, start: int = 0, *, by_tables: bool = False) -> int:
    """Return the CRC32C of the bytes from `start` on.

    `by_tables` takes the way of processors that have no instruction for it. Raises ValueError for a start outside of
    `data`.
    """

def encode_frame(entry: Entry, stream: bytes, sequence: int, journaled_us: int) -> bytearray:
    """Return the record of an entry, whole and padded: what engine/journal says.

    `stream` is the UUID's 16 bytes. Raises ValueError for columns that do not belong together, for a number that its
    field cannot hold, and for an entry of more than 256 MiB. A text's surrogates are written as the bytes for which
    surrogateescape has put them there; one that stands for no byte comes back as three that do.
    """

@final
class Scanned:
    """What the header of one valid record says."""

    offset: int
    """Where it begins."""
    nbytes: int
    """With its padding: the next one begins behind them."""
    sequence: int
    epoch: int
    journaled_us: int
    rows: int
    """Readings in it."""
    stream: bytes
    """The UUID's 16 bytes."""

def scan_record(data: Buffer, offset: int, stream: bytes | None = None) -> Scanned | None:
    """Return what the record at `offset` says, or None where no whole and valid one begins there.

    Valid is one that decode_frame decodes. With `stream`, records of other streams count as none. Raises ValueError
    for an offset outside of `data`, whose end is inside.
    """

def find_record(data: Buffer, offset: int, stream: bytes | None = None) -> int:
    """Return the first multiple of 8, from `offset` on, at which scan_record finds a record; -1 if there is none.

    Give `stream` for bytes that somebody else can have a hand in, as they have in the texts of readings: without it,
    such bytes can look like a record, and like so many that the search is a long one.
    """

def decode_frame(data: Buffer, offset: int) -> tuple[Batch, GapChanges, tuple[Position, ...]]:
    """Return the readings, gaps and positions of the record at `offset`; the columns are views into one copy.

    Gaps.slot is 0. Raises ValueError where scan_record returns None, and for an offset outside of `data`.
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

    Raises ValueError for columns that do not belong together, for a time before timestamptz begins and for a text with
    lone surrogates; a NUL is written, for PostgreSQL to refuse.
    """

@final
class SortedReadings:
    """Rows of some batches in the order of the index, tag_id, then ts, and what they are about.

    A run is the rows of one tag. Rows of the same tag and time are in the order in which they came.
    """

    rows: int
    """Those that fit."""
    late: int
    """Of these, how many were late."""
    tag_id: NDArray[np.int32]
    """Of each run, ascending."""
    start: NDArray[np.intp]
    """Of each run its first row, and the number of rows behind them."""
    first_us: NDArray[np.int64]
    """The earliest time of each run."""
    last_us: NDArray[np.int64]
    """The latest time of each run."""
    refused_early: NDArray[np.intp]
    """Places of those whose time is before `least_us`; as all refused ones, in the order of arrival."""
    refused_late: NDArray[np.intp]
    """Places of those whose time is after `latest_us`."""
    refused_text: NDArray[np.intp]
    """Places of those whose text has a NUL or lone surrogates."""

    def __len__(self) -> int:
        """Return the rows that fit."""

    @property
    def place(self) -> NDArray[np.intp]:
        """Of each row, its place in all rows of the batches; made anew each time."""

    @property
    def minutes(self) -> NDArray[np.int64]:
        """Minutes since 1970 in which there are rows, ascending; made anew each time."""

    def cut(self, newest_us: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return of each run the first row that is later than newest_us[run], or the run's end.

        Raises ValueError for another number of times than of runs.
        """

    def encode(self, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Iterator[bytearray]:
        """Return the rows starts[i]:ends[i], range after range, as one binary COPY stream in pieces.

        The columns are READING_COLUMNS, and header and trailer are there. Each piece is made when it is asked for;
        it has 128 KiB at most, or one row with a large text. Raises ValueError at once for a range outside of the rows.
        """

def sort_readings(
    batches: Sequence[Batch],
    least_us: int,
    latest_us: NDArray[np.int64],
    late_before_us: NDArray[np.int64],
) -> SortedReadings:
    """Copy the rows of some batches that can be stored, and sort them.

    A row is refused when its time is before `least_us` or after its batch's `latest_us`, or its text is none that
    PostgreSQL can hold. One that fits is late when its time is before its batch's `late_before_us`. Raises ValueError,
    naming the column, for one that is not as a Batch has it, and for 2**30 rows or more.
    """

def decode_copy(data: Buffer) -> Batch:
    """Return the rows of one whole binary COPY stream of READING_COLUMNS.

    Raises engine.errors.DatabaseError if the bytes are anything else, or end early.
    """
