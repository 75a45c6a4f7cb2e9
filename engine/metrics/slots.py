"""The writers of the shared-memory page: a process's block, and one tenant's slots in it.

The rules (one writer, whole words, what belongs together) are in engine/metrics/page.py; take slots from MetricsPage.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, InvalidInput
from engine.metrics.layout import (
    SLUG_MOST_BYTES,
    TENANTS_PER_BLOCK,
    ProcessWord,
    TenantWord,
    read_slug,
    tenant_word,
    write_slug,
)
from engine.metrics.names import (
    BATCH_ROWS_BOUNDS,
    SYNC_SECONDS_BOUNDS,
    WRITE_SECONDS_BOUNDS,
    Counter,
    DropReason,
    Gauge,
    MissingReason,
    ProcessState,
)

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

_WORD_MASK = 2**64 - 1
# What lies in the journal of a tenant that rests is still there.
_OF_THE_JOURNAL = frozenset({Gauge.IN_FLIGHT, Gauge.BACKLOG, Gauge.JOURNAL_BYTES, Gauge.JOURNAL_QUOTA_BYTES})
# Plain integers: these are used for every message, and looking up a member costs more than the store.
_COUNTERS, _DROPPED, _GAUGES = int(TenantWord.COUNTERS), int(TenantWord.DROPPED), int(TenantWord.GAUGES)
_SETTLED = int(TenantWord.SETTLED)
_BATCH_ROWS, _BATCH_ROWS_SUM = int(TenantWord.BATCH_ROWS), int(TenantWord.BATCH_ROWS_SUM)
_MISSING = int(TenantWord.MISSING)
_SYNC_SECONDS, _SYNC_SECONDS_SUM = int(TenantWord.SYNC_SECONDS), int(TenantWord.SYNC_SECONDS_SUM)
_WRITE_SECONDS, _WRITE_SECONDS_SUM = int(TenantWord.WRITE_SECONDS), int(TenantWord.WRITE_SECONDS_SUM)


class ProcessSlots:
    """A process's own block."""

    def __init__(self, u64: memoryview, f64: memoryview[float], base: int) -> None:
        """Claim the block that starts at word `base`; use MetricsPage's methods."""
        self._u64 = u64
        self._f64 = f64
        self._base = base
        self.begin()

    def begin(self) -> None:
        """Make the block this process's own; what a predecessor said about itself is gone."""
        # The state first: the predecessor's READY must not appear beside our process id.
        self._u64[self._base + ProcessWord.STATE] = ProcessState.STARTING
        self._u64[self._base + ProcessWord.STARTED_AT_US] = time.time_ns() // 1_000
        self.beat()
        self._u64[self._base + ProcessWord.PID] = os.getpid()

    def set_state(self, state: ProcessState) -> None:
        """Say where this process is in its life; counts as a heartbeat."""
        self._u64[self._base + ProcessWord.STATE] = state
        self.beat()

    def beat(self) -> None:
        """Say that the event loop still turns. Call it every second; /readyz wants one in five."""
        self._u64[self._base + ProcessWord.HEARTBEAT_US] = time.monotonic_ns() // 1_000


class ShardSlots(ProcessSlots):
    """An ingest worker's block: its process and its tenants."""

    def __init__(self, u64: memoryview, f64: memoryview[float], base: int) -> None:
        """Claim the block that starts at word `base`; use MetricsPage.shard."""
        self._tenants: dict[str, TenantSlots] = {}
        super().__init__(u64, f64, base)

    def begin(self) -> None:
        """Take over from a predecessor: find its tenants again, reset their gauges, say what it held as in flight."""
        for place in range(self._u64[self._base + ProcessWord.TENANTS]):
            at = tenant_word(self._base, place)
            slots = TenantSlots(self._u64, self._f64, at)
            slots.take_over()
            self._tenants[read_slug(self._u64, at)] = slots
        super().begin()

    def tenant(self, slug: str) -> TenantSlots:
        """Return the slots of a tenant and mark it active; a tenant seen before gets the slots it had.

        Raises InvalidInput for a slug that is empty, has more than 64 bytes or cannot be printed, ConfigurationError
        when 1 024 other tenants have had slots in this shard since the supervisor started.
        """
        if (slots := self._tenants.get(slug)) is None:
            slots = self._tenants[slug] = self._add(slug)
        slots.set_active(True)
        return slots

    def _add(self, slug: str) -> TenantSlots:
        encoded = slug.encode()
        if not 0 < len(encoded) <= SLUG_MOST_BYTES:
            raise InvalidInput("slug", f"{slug!r} is not 1 to {SLUG_MOST_BYTES} bytes long")
        # It goes into the text of /metrics as it is.
        if not slug.isprintable() or '"' in slug or "\\" in slug:
            raise InvalidInput(
                "slug", f"{slug!r} holds a quote, a backslash or a character that cannot be printed"
            )
        place = self._u64[self._base + ProcessWord.TENANTS]
        if place >= TENANTS_PER_BLOCK:
            raise ConfigurationError(
                f"tenant {slug}: this worker has had {TENANTS_PER_BLOCK} tenants since the supervisor started, and the"
                " metrics page has no room for one more; run more workers, or restart the engine"
            )
        at = tenant_word(self._base, place)
        write_slug(self._u64, at, encoded)
        # Last: a reader looks at so many tenants and no further.
        self._u64[self._base + ProcessWord.TENANTS] = place + 1
        return TenantSlots(self._u64, self._f64, at)


class TenantSlots:
    """One tenant's numbers in one shard; a call stores a few words and takes about a microsecond."""

    __slots__ = ("_base", "_depth", "_f64", "_u64")

    def __init__(self, u64: memoryview, f64: memoryview[float], base: int) -> None:
        """Write to the slots that start at word `base`; use ShardSlots.tenant."""
        self._u64 = u64
        self._f64 = f64
        self._base = base
        self._depth = 0

    def count(self, counter: Counter, n: int = 1) -> None:
        """Add to a counter."""
        self._u64[self._base + _COUNTERS + counter] += n

    def drop(self, reason: DropReason, n: int = 1) -> None:
        """Count readings that will never be stored; they must be counted as received, too."""
        self._u64[self._base + _DROPPED + reason] += n

    def set(self, gauge: Gauge, value: float) -> None:
        """Set a gauge."""
        self._f64[self._base + _GAUGES + gauge] = value

    def set_missing(self, reason: MissingReason, tags: int) -> None:
        """Set how many tags are neither monitored nor polled, and for which reason."""
        self._u64[self._base + _MISSING + reason] = tags

    def observe_write(self, rows: int, seconds: float) -> None:
        """Put a committed batch into the histograms; Counter.COMMITTED counts its rows."""
        u64, f64, base = self._u64, self._f64, self._base
        u64[base + _BATCH_ROWS + bisect_left(BATCH_ROWS_BOUNDS, rows)] += 1
        f64[base + _BATCH_ROWS_SUM] += rows
        u64[base + _WRITE_SECONDS + bisect_left(WRITE_SECONDS_BOUNDS, seconds)] += 1
        f64[base + _WRITE_SECONDS_SUM] += seconds

    def observe_sync(self, seconds: float) -> None:
        """Put the time that the journal's disk took into the histogram."""
        self._u64[self._base + _SYNC_SECONDS + bisect_left(SYNC_SECONDS_BOUNDS, seconds)] += 1
        self._f64[self._base + _SYNC_SECONDS_SUM] += seconds

    def together(self) -> TenantSlots:
        """Change several numbers as one: `with slots.together(): ...`. No await inside; may be nested."""
        return self

    def __enter__(self) -> TenantSlots:
        """Begin the change: the sequence is odd until its end."""
        if self._depth == 0:
            self._u64[self._base] += 1
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the change; after an error, what was stored stays stored."""
        self._depth -= 1
        if self._depth == 0:
            self._u64[self._base] += 1

    def set_active(self, active: bool) -> None:
        """Say whether this shard works for the tenant; False (disabled, or moved away) sets its gauges to zero.

        Those of what lies in its journal stay.
        """
        with self:
            self._u64[self._base + TenantWord.ACTIVE] = int(active)
            if not active:
                for gauge in Gauge:
                    if gauge not in _OF_THE_JOURNAL:
                        self.set(gauge, 0.0)
                for reason in MissingReason:
                    self.set_missing(reason, 0)

    @property
    def unsettled(self) -> int:
        """Readings received and, by these counters, neither committed, quarantined nor dropped."""
        u64, base = self._u64, self._base
        settled = u64[base + _COUNTERS + Counter.COMMITTED] + u64[base + _COUNTERS + Counter.QUARANTINED]
        settled += sum(u64[base + _DROPPED : base + _DROPPED + len(DropReason)])
        return int(u64[base + _COUNTERS + Counter.RECEIVED] - settled)

    def take_over(self) -> None:
        """Begin where a dead predecessor ended: what it had in memory or journal is in flight until `settle`."""
        u64, base = self._u64, self._base
        # The predecessor may have died inside `together`, with an odd sequence.
        u64[base] += u64[base] % 2
        with self:
            self.set_active(False)
            for gauge in Gauge:
                self.set(gauge, 0.0)
            self.set(Gauge.IN_FLIGHT, self.unsettled)

    def settle(self, stream: UUID, *, readings: int, quarantined: int, waiting: int) -> int:
        """Account for what predecessors did with a stream, of which now `waiting` readings are in the journal.

        `readings` and `quarantined` are the stream's totals in the database. What it took since they were last
        counted is committed. Of all that had been received, what is neither there nor in the journal was in the
        memory of a worker that died: dropped, and that many are returned. More than had been received were so by
        another engine, or were committed and lost again by the database: they are received once more.
        """
        with self:
            if self._u64[self._base + _SETTLED] == _low_half(stream):
                self.committed_up_to(readings, quarantined)
            self.count_from(stream, readings=readings, quarantined=quarantined)
            lost = self.unsettled - waiting
            if lost > 0:
                self.drop(DropReason.WORKER_KILLED, lost)
            else:
                self.count(Counter.RECEIVED, -lost)
            self.set(Gauge.IN_FLIGHT, waiting)
        return max(lost, 0)

    def count_from(self, stream: UUID, *, readings: int, quarantined: int) -> None:
        """Count COMMITTED and QUARANTINED from these totals of the stream on, which are counted already or never."""
        u64, base = self._u64, self._base
        # Unknown while the two words change: whoever takes over between them counts from the totals of that moment.
        u64[base + _SETTLED] = 0
        u64[base + _SETTLED + 1] = u64[base + _COUNTERS + Counter.COMMITTED] - readings & _WORD_MASK
        u64[base + _SETTLED + 2] = u64[base + _COUNTERS + Counter.QUARANTINED] - quarantined & _WORD_MASK
        u64[base + _SETTLED] = _low_half(stream)

    def committed_up_to(self, readings: int, quarantined: int) -> None:
        """Bring COMMITTED and QUARANTINED up to the stream's totals; totals that went back change nothing.

        Each counter is one store, so that a worker killed between two has counted nothing twice.
        """
        u64, base = self._u64, self._base
        for counter, total, settled in (
            (Counter.COMMITTED, readings, u64[base + _SETTLED + 1]),
            (Counter.QUARANTINED, quarantined, u64[base + _SETTLED + 2]),
        ):
            now = total + settled & _WORD_MASK
            # A difference of more than half of the numbers is one below zero.
            if now - u64[base + _COUNTERS + counter] & _WORD_MASK < 1 << 63:
                u64[base + _COUNTERS + counter] = now


def _low_half(stream: UUID) -> int:
    return stream.int & _WORD_MASK
