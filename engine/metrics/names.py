"""What is counted: every counter, gauge, drop reason and process state, with its name and its words, once.

Owns the vocabulary and the bounds of the histograms. Where the numbers are kept is engine/metrics/page.py, how they are
served is workers/aggregator.py. The value of an integer member is its place in the shared-memory page; all processes
of one supervisor run the same code, so places may change from release to release.

Only a tenant, a process and a drop reason are ever a label. A tag is not: a fleet has millions of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Counter(IntEnum):
    """Totals of one tenant; they only grow, also across restarts of a worker."""

    RECEIVED = 0
    COMMITTED = 1
    MESSAGES = 2
    MALFORMED_MESSAGES = 3
    KEEP_ALIVES = 4
    EVENTS_SKIPPED = 5
    RECONNECTS = 6
    REFUSED_ACKS = 7
    WRITE_FAILURES = 8
    BACKPRESSURE_PAUSES = 9
    MISSED_MESSAGES = 10
    REPUBLISHED_MESSAGES = 11
    RESUMED_SESSIONS = 12
    TRANSFERRED_SUBSCRIPTIONS = 13
    BACKFILLED = 14
    OVERFLOWS = 15
    GAPS = 16
    QUARANTINED = 17
    REPLAYED = 18
    LOST_FRAMES = 19
    JOURNAL_FAILURES = 20
    UPKEEP_FAILURES = 21
    CHUNKS_COMPRESSED = 22
    RETENTION_ROWS = 23


class DropReason(IntEnum):
    """Why a received reading will never be stored."""

    UNKNOWN_HANDLE = 0
    WORKER_KILLED = 1
    STOPPED = (
        2  # a stop's deadline passed: before the journal had them, or with durability memory the database
    )
    REPEATED = 3  # a server told again, after a new subscription or a poll, what is stored already
    JOURNAL_LOST = 4  # the journal lost frames: each place is a gap of all tags

    @property
    def label(self) -> str:
        """The value of the label `reason`."""
        return self.name.lower()


class Gauge(IntEnum):
    """What is true of one tenant now; zero again when its worker is restarted."""

    ACTIVE_CONNECTIONS = 0
    WANTED_CONNECTIONS = 1
    MONITORED_ITEMS = 2
    WANTED_ITEMS = 3
    IN_FLIGHT = 4
    DATABASE_UP = 5
    BACKLOG = 6
    BACKLOG_AGE_S = 7
    JOURNAL_BYTES = 8
    JOURNAL_QUOTA_BYTES = 9
    ACCEPTING = 10
    HELD = 11
    ROLLUP_LAG_S = 12


class MissingReason(IntEnum):
    """Why a tag that is wanted is neither monitored nor polled; a fixed few, so that they can be a label."""

    NOT_CONNECTED = 0
    INVALID_NODE_ID = 1
    UNKNOWN_NAMESPACE = 2
    UNKNOWN_NODE = 3
    NOT_READABLE = 4
    INVALID_ELEMENT = 5  # the node is no array, or has no such element
    REFUSED_SETTINGS = 6  # the server does not do what the tag's settings ask for, such as a deadband
    SERVER_LIMIT = 7  # the server takes no more monitored items or subscriptions
    OTHER = 8

    @property
    def label(self) -> str:
        """The value of the label `reason`."""
        return self.name.lower()


class ProcessKind(StrEnum):
    """The processes that a supervisor starts, in the order of their blocks; the value is the label `process`."""

    INGEST = "ingest"
    AGGREGATOR = "aggregator"
    FRONT = "front"
    REST = "rest"


class ProcessState(IntEnum):
    """Where a process is in its life, as it says itself."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    STOPPING = 3
    STOPPED = 4

    @property
    def label(self) -> str:
        """The word that operators see."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Described:
    """A metric's Prometheus name and the sentence that an operator reads beside it."""

    name: str
    help: str


COUNTERS = {
    Counter.RECEIVED: Described(
        "scada_readings_received_total", "Readings that OPC UA servers sent for this tenant."
    ),
    Counter.COMMITTED: Described(
        "scada_readings_ingested_total", "Readings committed to the tenant's database."
    ),
    Counter.MESSAGES: Described(
        "scada_publish_responses_total", "Publish responses with data that were decoded."
    ),
    Counter.MALFORMED_MESSAGES: Described(
        "scada_malformed_messages_total",
        "Publish responses that broke the OPC UA encoding; each restarts its connection.",
    ),
    Counter.KEEP_ALIVES: Described(
        "scada_keep_alives_total", "Publish responses that only said: still here, nothing has changed."
    ),
    Counter.EVENTS_SKIPPED: Described(
        "scada_events_skipped_total", "OPC UA events that a server sent along; only readings are stored."
    ),
    Counter.RECONNECTS: Described("scada_reconnects_total", "Times a connection was lost and tried again."),
    Counter.REFUSED_ACKS: Described(
        "scada_refused_acknowledgements_total", "Acknowledgements that an OPC UA server did not accept."
    ),
    Counter.WRITE_FAILURES: Described(
        "scada_db_write_failures_total",
        "Times the tenant's database did not take a batch; the batch is kept and tried again.",
    ),
    Counter.BACKPRESSURE_PAUSES: Described(
        "scada_backpressure_pauses_total", "Times publishing stopped because the tenant's ring was full."
    ),
    Counter.MISSED_MESSAGES: Described(
        "scada_missed_messages_total",
        "Publish responses that a server sent, by their numbers, and we never received.",
    ),
    Counter.REPUBLISHED_MESSAGES: Described(
        "scada_republished_messages_total", "Missed messages that a server sent again when asked."
    ),
    Counter.RESUMED_SESSIONS: Described(
        "scada_resumed_sessions_total", "Sessions that went on over a new connection after theirs was lost."
    ),
    Counter.TRANSFERRED_SUBSCRIPTIONS: Described(
        "scada_transferred_subscriptions_total", "Subscriptions taken over from a lost session by a new one."
    ),
    Counter.BACKFILLED: Described(
        "scada_readings_backfilled_total",
        "Readings fetched from a server's history; received counts them, too.",
    ),
    Counter.OVERFLOWS: Described(
        "scada_queue_overflows_total",
        "Values before which a server's queue had dropped others; each is a gap.",
    ),
    Counter.GAPS: Described(
        "scada_reading_gaps_total",
        "Intervals of a tag that could not be recovered, recorded in reading_gaps.",
    ),
    Counter.QUARANTINED: Described(
        "scada_readings_quarantined_total",
        "Readings that the tenant's database cannot hold; they are in its quarantine, each with the reason.",
    ),
    Counter.REPLAYED: Described(
        "scada_readings_replayed_total",
        "Readings read from the journal again: after a crash, an outage, or commits that the database lost.",
    ),
    Counter.LOST_FRAMES: Described(
        "scada_journal_holes_total",
        "Places where the journal has lost frames (corrupt, missing, foreign); each is a gap of all tags.",
    ),
    Counter.JOURNAL_FAILURES: Described(
        "scada_journal_failures_total", "Times the journal's disk did not take or sync what was written."
    ),
    Counter.UPKEEP_FAILURES: Described(
        "scada_upkeep_failures_total",
        "Times that upkeep of the tenant's database (rollups, retention, compression) failed; it is tried again.",
    ),
    Counter.CHUNKS_COMPRESSED: Described(
        "scada_chunks_compressed_total", "Chunks that upkeep compressed, or sorted anew."
    ),
    Counter.RETENTION_ROWS: Described(
        "scada_retention_dropped_rows_total",
        "Rows of readings and rollups that were older than the tenant's policies keep; by the server's estimate.",
    ),
}
DROPPED = Described(
    "scada_readings_dropped_total",
    "Readings received but not stored. unknown_handle: sent for a tag that was not asked for; worker_killed: in the"
    " memory of a worker that died, and not acknowledged; stopped: not kept before the deadline of a stop; repeated:"
    " told again by a server, and stored already; journal_lost: in frames that the journal has lost.",
)
GAUGES = {
    Gauge.ACTIVE_CONNECTIONS: Described(
        "scada_active_connections", "Connections to OPC UA servers with a working subscription now."
    ),
    Gauge.WANTED_CONNECTIONS: Described(
        "scada_wanted_connections", "Connections that are enabled for this tenant."
    ),
    Gauge.MONITORED_ITEMS: Described(
        "scada_monitored_items", "Tags that OPC UA servers have agreed to report, or that are polled."
    ),
    Gauge.WANTED_ITEMS: Described(
        "scada_wanted_items", "Tags that are mapped on this tenant's enabled connections."
    ),
    Gauge.IN_FLIGHT: Described(
        "scada_readings_in_flight",
        "Readings in a worker's memory or journal: received, not yet committed, quarantined or dropped.",
    ),
    Gauge.DATABASE_UP: Described(
        "scada_database_up", "1 if the tenant's database answered the last time it was used, 0 if it did not."
    ),
    Gauge.BACKLOG: Described(
        "scada_backlog_readings", "Readings in the journal that wait for the database; part of in flight."
    ),
    Gauge.BACKLOG_AGE_S: Described(
        "scada_backlog_age_seconds", "How long the oldest reading in the journal has waited for the database."
    ),
    Gauge.JOURNAL_BYTES: Described("scada_journal_bytes", "Bytes of the tenant's journal on disk."),
    Gauge.JOURNAL_QUOTA_BYTES: Described(
        "scada_journal_quota_bytes", "Bytes that the tenant's journal may have; full means: publishing stops."
    ),
    Gauge.ACCEPTING: Described(
        "scada_accepting", "1 if the tenant's journal takes readings, 0 while it is full or its disk fails."
    ),
    Gauge.HELD: Described(
        "scada_stream_held",
        "1 if the database refuses the tenant's readings in a way that waiting does not mend: look at the log.",
    ),
    Gauge.ROLLUP_LAG_S: Described(
        "scada_rollup_lag_seconds",
        "How long the oldest minute that is due has waited for its rollup; the views have it all the same.",
    ),
}
UNMONITORED = Described(
    "scada_unmonitored_items",
    "Tags that are wanted but neither monitored nor polled; with scada_monitored_items they make scada_wanted_items."
    " Which tags, and the server's words, are in the connection's last_error.",
)
ACCOUNTING_DIFFERENCE = Described(
    "scada_accounting_difference",
    "received - ingested - quarantined - dropped - in flight. Anything but 0 means that readings were lost or counted"
    " twice.",
)
BATCH_SIZE = Described("scada_batch_size", "Rows in each batch that was committed, all tenants together.")
WRITE_LATENCY = Described(
    "scada_db_write_latency_seconds", "Time from handing over a batch to its commit, all tenants together."
)
SYNC_LATENCY = Described(
    "scada_journal_sync_seconds",
    "Time from handing frames to the journal until they are on disk, all tenants together.",
)
PROCESS_UP = Described(
    "scada_process_up", "1 if the process is ready and its heartbeat is fresh, 0 if it is not."
)
PROCESS_RESTARTS = Described(
    "scada_process_restarts_total", "Times the process died and was started again by the supervisor."
)
PROCESS_RESIDENT_BYTES = Described("scada_process_resident_bytes", "Resident memory of the process.")
BUILD_INFO = Described("scada_build_info", "Always 1; the label says which version of the engine runs.")

# Upper bounds, inclusive; one more bucket takes what is above the last. max_buffer_size is 10 000 unless set; a batch
# that gathered while a database was away can be much larger.
BATCH_ROWS_BOUNDS = (
    1,
    10,
    50,
    100,
    500,
    1_000,
    2_500,
    5_000,
    7_500,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
)
# From a local commit (1 ms) to the timeout of a write (tens of seconds).
WRITE_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# From a fast disk (0.2 ms) to one that hangs.
SYNC_SECONDS_BOUNDS = (
    0.000_5,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
