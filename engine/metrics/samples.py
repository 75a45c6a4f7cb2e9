"""What a reader sees of the shared-memory page: copies of its numbers at one moment, tenants summed over shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import add
from struct import Struct
from typing import TYPE_CHECKING

from engine.metrics.layout import WORD, ProcessWord, SupervisorWord, TenantWord
from engine.metrics.names import (
    BATCH_ROWS_BOUNDS,
    SYNC_SECONDS_BOUNDS,
    WRITE_SECONDS_BOUNDS,
    Counter,
    DropReason,
    Gauge,
    MissingReason,
    ProcessKind,
    ProcessState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

# A writer is inside `together` for microseconds. One that was killed there stays: then its numbers are taken as they
# are, after at most a millisecond.
_READ_TRIES = 20
_READ_PAUSE_S = 0.000_05


def _tenant_struct() -> Struct:
    """Describe a tenant's slots for one quick copy. Native format: it copies whole words, the others go by bytes."""
    parts = (
        (TenantWord.SEQUENCE, "QQQ64s", 11),
        (TenantWord.COUNTERS, f"{len(Counter)}Q", len(Counter)),
        (TenantWord.DROPPED, f"{len(DropReason)}Q", len(DropReason)),
        (TenantWord.GAUGES, f"{len(Gauge)}d", len(Gauge)),
        (TenantWord.BATCH_ROWS, f"{len(BATCH_ROWS_BOUNDS) + 1}Q", len(BATCH_ROWS_BOUNDS) + 1),
        (TenantWord.BATCH_ROWS_SUM, "d", 1),
        (TenantWord.WRITE_SECONDS, f"{len(WRITE_SECONDS_BOUNDS) + 1}Q", len(WRITE_SECONDS_BOUNDS) + 1),
        (TenantWord.WRITE_SECONDS_SUM, "d", 1),
        (TenantWord.MISSING, f"{len(MissingReason)}Q", len(MissingReason)),
        (TenantWord.SYNC_SECONDS, f"{len(SYNC_SECONDS_BOUNDS) + 1}Q", len(SYNC_SECONDS_BOUNDS) + 1),
        (TenantWord.SYNC_SECONDS_SUM, "d", 1),
    )
    text, at = "@", 0
    for first, form, words in parts:
        text += f"{(first - at) * WORD}x{form}"
        at = first + words
    return Struct(text)


_TENANT = _tenant_struct()
# Where each part is in what _TENANT unpacks; a sum follows its buckets.
_COUNTERS = slice(4, 4 + len(Counter))
_DROPPED = slice(_COUNTERS.stop, _COUNTERS.stop + len(DropReason))
_GAUGES = slice(_DROPPED.stop, _DROPPED.stop + len(Gauge))
_BATCH_ROWS = slice(_GAUGES.stop, _GAUGES.stop + len(BATCH_ROWS_BOUNDS) + 1)
_WRITE_SECONDS = slice(_BATCH_ROWS.stop + 1, _BATCH_ROWS.stop + 1 + len(WRITE_SECONDS_BOUNDS) + 1)
_MISSING = slice(_WRITE_SECONDS.stop + 1, _WRITE_SECONDS.stop + 1 + len(MissingReason))
_SYNC_SECONDS = slice(_MISSING.stop, _MISSING.stop + len(SYNC_SECONDS_BOUNDS) + 1)
_OF_A_LIVING_WORKER = frozenset({Gauge.ACTIVE_CONNECTIONS, Gauge.MONITORED_ITEMS})


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """Observations by bucket (not cumulative; the last bucket is above every bound) and their sum."""

    buckets: tuple[int, ...]
    sum: float

    def __add__(self, other: HistogramSample) -> HistogramSample:
        """Return both together; the bounds are the same."""
        return HistogramSample(tuple(map(add, self.buckets, other.buckets)), self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class TenantSample:
    """One tenant's numbers at one moment. Tuples are indexed by Counter, DropReason, Gauge and MissingReason.

    `active` is False for a tenant that no worker works for: disabled, or its worker is just starting.
    """

    slug: str
    active: bool
    counters: tuple[int, ...]
    dropped: tuple[int, ...]
    gauges: tuple[float, ...]
    missing: tuple[int, ...]
    batch_rows: HistogramSample
    write_seconds: HistogramSample
    sync_seconds: HistogramSample

    @property
    def accounting_difference(self) -> int:
        """Readings that are neither committed, quarantined, dropped nor in flight; 0: each is accounted for."""
        settled = self.counters[Counter.COMMITTED] + self.counters[Counter.QUARANTINED] + sum(self.dropped)
        return self.counters[Counter.RECEIVED] - settled - int(self.gauges[Gauge.IN_FLIGHT])


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process as it describes itself, and as its supervisor sees it.

    `pid` is 0 before the first start. `heartbeat_age_s` is None before the first heartbeat. `exited` is True from the
    death of the process until its successor has claimed the block; `exit_status` is the last death's exit code, or
    minus the signal.
    """

    kind: ProcessKind
    index: int
    state: ProcessState
    pid: int
    heartbeat_age_s: float | None
    started_at_s: float
    restarts: int
    exited: bool
    exit_status: int


@dataclass(frozen=True, slots=True)
class PageSample:
    """Everything on the page at one moment: tenants by slug, processes in the order of their blocks."""

    tenants: dict[str, TenantSample]
    processes: tuple[ProcessSample, ...]


def read_process(u64: memoryview, *, kind: ProcessKind, index: int, block: int, entry: int) -> ProcessSample:
    """Copy a process's words: its own from word `block`, the supervisor's from word `entry`."""
    pid, beat_us = u64[block + ProcessWord.PID], u64[block + ProcessWord.HEARTBEAT_US]
    exited = pid != 0 and pid == u64[entry + SupervisorWord.DEAD_PID]
    status = u64[entry + SupervisorWord.EXIT_STATUS]
    return ProcessSample(
        kind=kind,
        index=index,
        state=ProcessState.ABSENT if exited else ProcessState(u64[block + ProcessWord.STATE]),
        pid=pid,
        # Never below zero: a heartbeat may be stored between the two looks.
        heartbeat_age_s=max(time.monotonic_ns() // 1_000 - beat_us, 0) / 1e6 if beat_us else None,
        started_at_s=u64[block + ProcessWord.STARTED_AT_US] / 1e6,
        restarts=u64[entry + SupervisorWord.DEATHS],
        exited=exited,
        exit_status=status - 2**64 if status >= 2**63 else status,
    )


def read_tenant(u64: memoryview, base: int, *, exited: bool) -> TenantSample:
    """Copy a tenant's slots from word `base`; for a process that has exited, nothing is connected any more."""
    for _ in range(_READ_TRIES):
        before = u64[base]
        words = _TENANT.unpack_from(u64, base * WORD)
        if before % 2 == 0 and u64[base] == before:
            break
        time.sleep(_READ_PAUSE_S)
    _, active, slug_bytes, slug = words[:4]
    gauges, missing = words[_GAUGES], words[_MISSING]
    if exited:
        # Every tag that was wanted: for each of them there is a reason, so that the sums stay whole.
        missing = (int(gauges[Gauge.WANTED_ITEMS]), *[0] * (len(MissingReason) - 1))
        gauges = tuple(0.0 if gauge in _OF_A_LIVING_WORKER else value for gauge, value in enumerate(gauges))
    return TenantSample(
        slug=slug[:slug_bytes].decode(),
        active=bool(active),
        counters=words[_COUNTERS],
        dropped=words[_DROPPED],
        gauges=gauges,
        missing=missing,
        batch_rows=HistogramSample(words[_BATCH_ROWS], words[_BATCH_ROWS.stop]),
        write_seconds=HistogramSample(words[_WRITE_SECONDS], words[_WRITE_SECONDS.stop]),
        sync_seconds=HistogramSample(words[_SYNC_SECONDS], words[_SYNC_SECONDS.stop]),
    )


def sum_by_slug(samples: Iterable[TenantSample]) -> dict[str, TenantSample]:
    """Return one sample a tenant, sorted by slug: several shards have slots for a tenant that moved."""
    tenants: dict[str, TenantSample] = {}
    for sample in samples:
        known = tenants.get(sample.slug)
        tenants[sample.slug] = sample if known is None else _sum(known, sample)
    return dict(sorted(tenants.items()))


def _sum(one: TenantSample, other: TenantSample) -> TenantSample:
    gauges = list(map(add, one.gauges, other.gauges))
    # Its database is up if one of them reaches it.
    gauges[Gauge.DATABASE_UP] = max(one.gauges[Gauge.DATABASE_UP], other.gauges[Gauge.DATABASE_UP])
    return TenantSample(
        slug=one.slug,
        active=one.active or other.active,
        counters=tuple(map(add, one.counters, other.counters)),
        dropped=tuple(map(add, one.dropped, other.dropped)),
        gauges=tuple(gauges),
        missing=tuple(map(add, one.missing, other.missing)),
        batch_rows=one.batch_rows + other.batch_rows,
        write_seconds=one.write_seconds + other.write_seconds,
        sync_seconds=one.sync_seconds + other.sync_seconds,
    )
