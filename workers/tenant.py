"""One tenant inside an ingest worker: its pipeline, its OPC UA connections, and the catalog they follow.

A tenant's failure stays here: a database that is down or not migrated, a server that refuses, a broken connection row
are named in the log, in `last_error` and in the metrics, and tried again; no other tenant notices.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import structlog

from engine import catalog
from engine.continuity import NEVER_US
from engine.database import connect
from engine.errors import DatabaseError, ScadaError
from engine.metrics import Gauge, MissingReason, TenantSlots
from engine.pipeline import TenantPipeline
from engine.store import Store
from workers.opcua.monitoring.outcome import NOT_MISSING
from workers.opcua.security.pki import Pki
from workers.opcua.session import Connector
from workers.opcua.sink import ConnectionReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from numpy.typing import NDArray
    from psycopg import AsyncConnection

    from engine.settings import Settings
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.sink import Message

log = structlog.get_logger(__name__)

_APPLICATION = "scada-engine ingest"
_RETRY_FIRST_S = 0.5
# So many tags' states a statement, that the event loop turns in between.
_TAG_STATES = 5_000
# What closing a session politely may take before the socket is simply closed.
_CONNECTION_STOP_S = 5.0


class TenantRunner:
    """Runs one tenant until `stop`; create it and `run` it inside the worker's event loop."""

    def __init__(self, tenant: catalog.Tenant, *, settings: Settings, counters: TenantSlots) -> None:
        self.tenant = tenant
        # Set after the first attempt to load the catalog, whether it worked or not: the worker is then ready.
        self.attempted = asyncio.Event()
        self._settings = settings
        self._counters = counters
        self._store = Store(tenant.dsn, _APPLICATION)
        self._pipeline = TenantPipeline(store=self._store, counters=counters, settings=settings)
        self._running: dict[UUID, tuple[catalog.Connection, asyncio.Task[None]]] = {}
        self._known = catalog.KnownConnections()
        self._reports: dict[UUID, ConnectionReport] = {}
        self._unrecorded: dict[UUID, ConnectionReport] = {}
        self._reported = asyncio.Event()
        self._stopping = asyncio.Event()

    # The Sink that a Connector writes to.

    # Until the pipeline journals: what is in the ring counts as durable.
    accepting = True

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Never change."""
        return lambda: None

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Pass on rows that were decoded into the ring."""
        self._pipeline.stored(rows)
        if message is not None:
            message.durable(message.position)

    async def wait_for_space(self) -> None:
        """Wait until the ring has room again."""
        await self._pipeline.wait_for_space()

    def report(self, report: ConnectionReport) -> None:
        """Take the news of a connection: into the gauges now, into the catalog soon."""
        if report.connection_id not in self._running:
            return
        self._reports[report.connection_id] = report
        self._unrecorded[report.connection_id] = report
        self._reported.set()
        self._set_gauges()

    async def run(self) -> None:
        """Run until `stop`; then close the connections, write what is in flight, and return."""
        structlog.contextvars.bind_contextvars(tenant=self.tenant.slug)
        try:
            async with asyncio.TaskGroup() as tasks:
                flushing = tasks.create_task(self._pipeline.run())
                recording = tasks.create_task(self._record_reports())
                await self._follow_catalog(tasks)
                await self._close_connections(list(self._running))
                recording.cancel()
                self._pipeline.drain()
                await flushing
        finally:
            self.attempted.set()
            if rows := self._pipeline.abandon():
                log.error("readings were not stored: the worker had to stop first", rows=rows)
            self._counters.set_active(False)
            await self._store.close()

    def stop(self) -> None:
        """Ask `run` to finish: stop publishing, drain, flush."""
        self._stopping.set()

    async def _follow_catalog(self, tasks: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._apply_catalog(tasks)
            except ScadaError as exc:
                if failures == 0:
                    log.warning("the tenant is skipped for now: its catalog cannot be read", error=str(exc))
                self._counters.set(Gauge.DATABASE_UP, 0)
                ceiling_s = min(self._settings.database_retry_most_s, _RETRY_FIRST_S * 2 ** min(failures, 16))
                wait_s = ceiling_s * random.uniform(0.5, 1.0)
                failures += 1
            else:
                if failures:
                    log.info("the tenant's catalog can be read again", attempts=failures + 1)
                self._counters.set(Gauge.DATABASE_UP, 1)
                failures = 0
                wait_s = self._settings.catalog_refresh_s
            self.attempted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _apply_catalog(self, tasks: asyncio.TaskGroup) -> None:
        """Start what is new, stop what is gone, and start again only what has changed."""
        await self._store.check()
        async with await connect(self.tenant.dsn, application=_APPLICATION) as database:
            wanted = {
                connection.id: connection
                for connection in await catalog.load_connections(
                    database, self.tenant.id, secrets_key=self._settings.secrets_key, known=self._known
                )
            }
        stale = [key for key, (running, _) in self._running.items() if wanted.get(key) != running]
        await self._close_connections(stale)
        for key, connection in wanted.items():
            if key not in self._running:
                self._running[key] = (connection, tasks.create_task(self._connect(connection)))
        self._set_gauges()

    async def _connect(self, connection: catalog.Connection) -> None:
        structlog.contextvars.bind_contextvars(tenant=self.tenant.slug, connection=connection.name)
        tags = connection.tags
        slots = self._pipeline.tags.slots(tags.tag_id, scaling_factor=tags.scaling_factor, offset=tags.offset)
        await self._recall(slots, tags.tag_id)
        connector = Connector(
            connection,
            slots=slots,
            ring=self._pipeline.ring,
            counters=self._counters,
            settings=self._settings.opcua,
            sink=self,
            pki=Pki.of(self._settings.opcua, self.tenant.slug),
            continuity=self._pipeline.continuity,
            learn=self._pipeline.enumerations.learn,
        )
        while True:
            try:
                await connector.run()
            except Exception as exc:
                log.exception("a connection failed in a way nobody foresaw; it is started again")
                self.report(
                    ConnectionReport(
                        connection.id,
                        connected=False,
                        error=f"internal error: {exc!r}",
                        monitored=0,
                        wanted=len(connection.tags),
                    )
                )
            await asyncio.sleep(self._settings.opcua.backoff_most_s * random.uniform(0.5, 1.0))

    async def _recall(self, slots: NDArray[np.uint32], tag_ids: NDArray[np.int32]) -> None:
        """Learn the newest stored reading of each tag, to tell what is missing since, and what is only repeated.

        A database that is away is waited for, but not for ever: servers keep values for a while only.
        """
        continuity = self._pipeline.continuity
        unknown = continuity.snapshot(slots) == NEVER_US
        if not unknown.any():
            return
        deadline_s = asyncio.get_running_loop().time() + self._settings.database_retry_most_s
        while True:
            try:
                newest = await self._store.newest(tag_ids[unknown])
            except DatabaseError as exc:
                if asyncio.get_running_loop().time() > deadline_s:
                    log.warning(
                        "the newest readings are not known: gaps since then are not recorded", error=str(exc)
                    )
                    return
                await asyncio.sleep(_RETRY_FIRST_S)
            else:
                continuity.know(slots[unknown], newest)
                return

    async def _close_connections(self, keys: list[UUID]) -> None:
        closing = [self._running.pop(key)[1] for key in keys]
        for key in keys:
            self._reports.pop(key, None)
            self._unrecorded.pop(key, None)
        for task in closing:
            task.cancel()
        if closing:
            _, late = await asyncio.wait(closing, timeout=_CONNECTION_STOP_S)
            if late:
                log.warning("connections did not close in time", connections=len(late))
        self._set_gauges()

    def _set_gauges(self) -> None:
        reports = self._reports.values()
        self._counters.set(Gauge.WANTED_CONNECTIONS, len(self._running))
        self._counters.set(Gauge.ACTIVE_CONNECTIONS, sum(report.connected for report in reports))
        self._counters.set(
            Gauge.WANTED_ITEMS, sum(len(running.tags) for running, _ in self._running.values())
        )
        self._counters.set(Gauge.MONITORED_ITEMS, sum(report.monitored for report in reports))
        missing = dict.fromkeys(MissingReason, 0)
        for key, (connection, _) in self._running.items():
            report = self._reports.get(key)
            if report is None or not report.connected:
                missing[MissingReason.NOT_CONNECTED] += len(connection.tags)
                continue
            for reason, tags in report.missing.items():
                missing[reason] += tags
        for reason, tags in missing.items():
            self._counters.set_missing(reason, tags)

    async def _record_reports(self) -> None:
        """Write the newest report of each connection into the catalog: how it is doing, and how its tags are read."""
        while True:
            await self._reported.wait()
            self._reported.clear()
            taken, self._unrecorded = self._unrecorded, {}
            try:
                async with await connect(
                    self.tenant.dsn, application=_APPLICATION, autocommit=True
                ) as database:
                    for report in taken.values():
                        await self._record(database, report)
            except ScadaError as exc:
                log.warning("the state of connections could not be recorded; trying again", error=str(exc))
                self._unrecorded = taken | self._unrecorded
                self._reported.set()
                await asyncio.sleep(self._settings.database_retry_most_s)

    async def _record(self, database: AsyncConnection, report: ConnectionReport) -> None:
        await catalog.record_connection(
            database,
            report.connection_id,
            connected=report.connected,
            error=report.error,
            active=_active(report),
        )
        running = self._running.get(report.connection_id)
        if report.monitoring is not None and running is not None:
            await _record_tags(database, running[0].tags.tag_id, report.monitoring)


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
