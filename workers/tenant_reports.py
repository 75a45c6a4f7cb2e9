"""How a tenant's connections are doing: what each said last, in the gauges at once and in the catalog soon after."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import structlog

from engine import catalog
from engine.errors import ScadaError
from engine.metrics import Gauge, MissingReason
from workers.opcua.monitoring.outcome import NOT_MISSING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from numpy.typing import NDArray
    from psycopg import AsyncConnection

    from engine.database_pool import Database
    from engine.metrics import TenantSlots
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.sink import ConnectionReport

log = structlog.get_logger(__name__)

# So many tags' states a statement, that the event loop turns in between.
_TAG_STATES = 5_000
# Once a connection stands, a commit follows soon: its connection will do.
_PATIENCE_S = 5.0


class Reports:
    """The newest report of each connection that is wanted."""

    def __init__(self, database: Database, counters: TenantSlots, retry_s: float) -> None:
        self._database = database
        self._counters = counters
        self._retry_s = retry_s
        self._wanted: dict[UUID, catalog.Connection] = {}
        self._newest: dict[UUID, ConnectionReport] = {}
        self._unrecorded: dict[UUID, ConnectionReport] = {}
        self._reported = asyncio.Event()

    def expect(self, connection: catalog.Connection) -> None:
        """Begin to count a connection, which is not connected yet."""
        self._wanted[connection.id] = connection
        self._set_gauges()

    def forget(self, connection_id: UUID) -> None:
        """Count a connection no more."""
        for known in (self._wanted, self._newest, self._unrecorded):
            known.pop(connection_id, None)
        self._set_gauges()

    def clear(self) -> None:
        """Count none any more."""
        for connection_id in list(self._wanted):
            self.forget(connection_id)

    def take(self, report: ConnectionReport) -> None:
        """Take the news of a connection; of one that is not counted, they come too late."""
        if report.connection_id not in self._wanted:
            return
        self._newest[report.connection_id] = report
        self._unrecorded[report.connection_id] = report
        self._reported.set()
        self._set_gauges()

    async def record(self) -> None:
        """Write the newest report of each connection into the catalog, until cancelled."""
        while True:
            await self._reported.wait()
            self._reported.clear()
            taken, self._unrecorded = self._unrecorded, {}
            try:
                async with self._connection() as connection:
                    for report in taken.values():
                        await self._record(connection, report)
            except ScadaError as exc:
                log.warning("the state of connections could not be recorded; trying again", error=str(exc))
                self._unrecorded = taken | self._unrecorded
                self._reported.set()
                await self._until_retry()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection: one that is there, where they are short also one that comes back soon, else our own."""
        for patience_s in (0.0, _PATIENCE_S) if self._database.is_short else ():
            async with self._database.returned_connection(patience_s) as returned:
                if returned is not None:
                    yield returned
                    return
        async with self._database.connection() as own:
            yield own

    async def _until_retry(self) -> None:
        """Return when the database is worth a try: when it may be back, or a while after it refused what it got."""
        breaker = self._database.breaker
        if breaker.is_open:
            await breaker.wait()
        else:
            await asyncio.sleep(self._retry_s)

    def _set_gauges(self) -> None:
        reports = self._newest.values()
        self._counters.set(Gauge.WANTED_CONNECTIONS, len(self._wanted))
        self._counters.set(Gauge.ACTIVE_CONNECTIONS, sum(report.connected for report in reports))
        self._counters.set(Gauge.WANTED_ITEMS, sum(len(wanted.tags) for wanted in self._wanted.values()))
        self._counters.set(Gauge.MONITORED_ITEMS, sum(report.monitored for report in reports))
        missing = dict.fromkeys(MissingReason, 0)
        for key, connection in self._wanted.items():
            report = self._newest.get(key)
            if report is None or not report.connected:
                missing[MissingReason.NOT_CONNECTED] += len(connection.tags)
                continue
            for reason, tags in report.missing.items():
                missing[reason] += tags
        for reason, tags in missing.items():
            self._counters.set_missing(reason, tags)

    async def _record(self, database: AsyncConnection, report: ConnectionReport) -> None:
        await catalog.record_connection(
            database,
            report.connection_id,
            connected=report.connected,
            error=report.error,
            active=_active(report),
        )
        wanted = self._wanted.get(report.connection_id)
        if report.monitoring is not None and wanted is not None:
            await _record_tags(database, wanted.tags.tag_id, report.monitoring)


def _active(report: ConnectionReport) -> catalog.ActiveConnection | None:
    if report.active is None:
        return None
    return catalog.ActiveConnection(
        endpoint_url=report.active.url,
        security_mode=report.active.mode,
        security_policy=report.active.policy,
        monitored=report.monitored,
        # Of several subscriptions what is the least: that is what an operator has to know.
        revised_publishing_interval_ms=_least([made.publishing_interval_s for made in report.revised]),
        revised_lifetime_ms=_least([made.lifetime_s for made in report.revised]),
    )


def _least(seconds: Sequence[float]) -> float | None:
    return min(seconds) * 1_000 if seconds else None


async def _record_tags(database: AsyncConnection, tag_ids: NDArray[np.int32], monitoring: Monitoring) -> None:
    reasons = [reason.label for reason in MissingReason]
    for first in range(0, len(tag_ids), _TAG_STATES):
        part = slice(first, first + _TAG_STATES)
        subscribed = monitoring.item_id[part] != 0
        await catalog.record_tag_states(
            database,
            tag_ids[part],
            monitored=monitoring.reason[part] == NOT_MISSING,
            reason=monitoring.reason[part],
            reasons=reasons,
            sampling_ms=np.where(subscribed, monitoring.sampling_ms[part], np.nan),
            queue_size=np.where(subscribed, monitoring.queue_size[part], 0).astype(np.uint32),
        )
