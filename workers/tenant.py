"""One tenant inside an ingest worker: its stream, its OPC UA connections, and the catalog they follow.

    journal, claim, accounting (workers.tenant_stream) --> pipeline --> connections, as the catalog says

A tenant's failure stays here: a database that is down or not migrated, a server that refuses, a broken connection row
are named in the log, in `last_error` and in the metrics, and tried again; no other tenant notices. A journal whose disk
fails for good ends this life of the tenant: what was not durable is dropped, nobody has acknowledged it, and the next
life begins as after a crash. Only a stream that another process has taken over ends the tenant in this process.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from engine import catalog
from engine.cancelling import cancel_all
from engine.continuity import NEVER_US
from engine.database import is_same_database
from engine.database_activity import DatabaseActivity, Written
from engine.errors import DatabaseError, JournalUnavailable, ScadaError, StreamTakenOver
from engine.journal.memory import MemoryJournal
from engine.metrics import Gauge, TenantSlots
from engine.store import Store
from workers.opcua.remembered import Remembered
from workers.opcua.security.pki import Pki
from workers.opcua.session import Connector
from workers.opcua.sink import ConnectionReport
from workers.tenant_reports import Reports
from workers.tenant_stream import Stream, StreamOpener, journal_folder
from workers.tenant_upkeep import TenantUpkeep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from typing import Any
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray
    from psycopg import AsyncConnection

    from engine.database_pool import DatabasePool
    from engine.pipeline import TenantPipeline
    from engine.settings import Settings
    from workers.opcua.sink import Message

log = structlog.get_logger(__name__)

_APPLICATION = "scada-engine ingest"
_RETRY_FIRST_S = 0.5
# What closing a session politely may take before the socket is simply closed.
_CONNECTION_STOP_S = 5.0
# What the journal may take beyond the deadline of a stop: milliseconds, unless its disk hangs.
_JOURNAL_STOP_S = 0.4


class TenantRunner:
    """Runs one tenant until `stop`; create it and `run` it inside the worker's event loop."""

    def __init__(
        self,
        tenant: catalog.Tenant,
        *,
        settings: Settings,
        counters: TenantSlots,
        databases: DatabasePool,
        activity: DatabaseActivity,
        threads: Executor,
        upkeep_turns: asyncio.Semaphore,
    ) -> None:
        """`activity` and `upkeep_turns` are the worker's; `threads` are the journals' of all tenants."""
        self.tenant = tenant
        # Set after the first attempt to load the catalog, whether it worked or not: the worker is then ready.
        self.attempted = asyncio.Event()
        # Another process owns the stream: this one must leave it alone from then on.
        self.taken_over = False
        self._settings = settings
        self._counters = counters
        self._database = databases.database(tenant.dsn, _APPLICATION)
        self._activity = activity
        # What was written in the database when the catalog was read last.
        self._read_at: Written | None = None
        self._store = Store(self._database, ahead_most_s=settings.reading_ahead_most_s)
        self._threads = threads
        self._stream: Stream | None = None
        self._running: dict[UUID, tuple[catalog.Connection, asyncio.Task[None]]] = {}
        self._connectors: dict[UUID, Connector] = {}
        self._known = catalog.KnownConnections()
        self._reports = Reports(self._database, counters, settings.database_retry_most_s)
        self._upkeep = TenantUpkeep(self._database, counters, settings.upkeep, upkeep_turns)
        self._stopping = asyncio.Event()
        self._stop_by_s: float | None = None

    # The Sink that a Connector writes to.

    @property
    def accepting(self) -> bool:
        """False while the journal takes nothing."""
        return self._pipeline.accepting

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called each time that `accepting` has changed."""
        return self._pipeline.on_accepting(call)

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Pass on rows that were decoded into the ring."""
        self._pipeline.stored(rows, message)

    async def wait_for_space(self) -> None:
        """Wait until the ring has room again."""
        await self._pipeline.wait_for_space()

    def report(self, report: ConnectionReport) -> None:
        """Take the news of a connection: into the gauges now, into the catalog soon."""
        self._reports.take(report)

    async def run(self) -> None:
        """Run until `stop`; then close the connections, store what is in flight, and return."""
        structlog.contextvars.bind_contextvars(tenant=self.tenant.slug)
        try:
            while not self._stopping.is_set() and not self.taken_over:
                await self._live()
        finally:
            self.attempted.set()
            self._counters.set_active(False)
            await self._database.close()

    def goes_on_as(self, tenant: catalog.Tenant) -> bool:
        """Follow the tenant's row in the master where that needs no restart: a new login to the same database.

        Returns False when the tenant has to be started again.
        """
        if tenant == self.tenant:
            return True
        if tenant != replace(self.tenant, dsn=tenant.dsn) or not is_same_database(
            tenant.dsn, self.tenant.dsn
        ):
            return False
        log.info("the tenant's database has a new login", tenant=tenant.slug)
        self.tenant = tenant
        self._database.renew(tenant.dsn)
        return True

    def stop(self, deadline_s: float | None = None) -> None:
        """Ask `run` to finish: stop publishing, journal everything, and commit for so long at most."""
        if deadline_s is not None:
            self._stop_by_s = asyncio.get_running_loop().time() + deadline_s
        self._stopping.set()

    @property
    def _pipeline(self) -> TenantPipeline:
        assert self._stream is not None, "connections live within a stream"
        return self._stream.pipeline

    async def _live(self) -> None:
        """Take over the stream and run until `stop`, or until the journal fails."""
        self._stream = await StreamOpener(
            self.tenant,
            database=self._database,
            store=self._store,
            counters=self._counters,
            settings=self._settings,
            threads=self._threads,
            stopping=self._stopping,
            tried=self.attempted.set,
        ).open()
        if self._stream is None:
            return
        failed = True
        try:
            await self._work()
            failed = False
        except* StreamTakenOver as exc:
            self.taken_over = True
            log.error("the tenant stops here: another process has its stream", error=said(exc))
        except* JournalUnavailable as exc:
            log.error("the tenant begins again: its journal failed", error=said(exc))
        finally:
            self._running.clear()
            self._connectors.clear()
            self._reports.clear()
            journal, pipeline = self._stream.journal, self._stream.pipeline
            stays = not isinstance(journal, MemoryJournal)
            ends = self._stopping.is_set() or self.taken_over
            if ends and (rows := pipeline.abandon(journal_stays=stays)):
                log.error("readings were not kept: the worker had to stop first", rows=rows)
            await journal.close()
        if failed:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_FIRST_S):
                    await self._stopping.wait()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            flowing = tasks.create_task(self._pipeline.run())
            recording = tasks.create_task(self._reports.record())
            following = tasks.create_task(self._follow_catalog(tasks))
            keeping_up = tasks.create_task(self._upkeep.run())
            await self._stopping.wait()
            await cancel_all(following, keeping_up)
            await self._close_connections(list(self._running), keep=True)
            await cancel_all(recording)
            await self._drain(flowing)

    async def _drain(self, flowing: asyncio.Task[None]) -> None:
        """Let everything become durable, and be committed as far as there is time: the journal has the rest."""
        pipeline = self._pipeline
        pipeline.drain()
        remaining_s = None
        if self._stop_by_s is not None:
            remaining_s = max(0.0, self._stop_by_s - asyncio.get_running_loop().time())
        await asyncio.wait({flowing}, timeout=remaining_s)
        if flowing.done():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_JOURNAL_STOP_S):
                await pipeline.wait_journaled()
        await cancel_all(flowing)
        log.info(
            "readings stay in the journal for the next start: the database did not take them in time",
            rows=pipeline.journaled_rows,
        )

    async def _follow_catalog(self, tasks: asyncio.TaskGroup) -> None:
        failures = 0
        patient = False
        while not self._stopping.is_set():
            try:
                wanted = await self._changed_catalog(patient=patient)
                if wanted is not None:
                    await self._apply_catalog(wanted, tasks)
            except ScadaError as exc:
                if failures == 0:
                    log.warning("the tenant is skipped for now: its catalog cannot be read", error=str(exc))
                self._counters.set(Gauge.DATABASE_UP, 0)
                ceiling_s = min(self._settings.database_retry_most_s, _RETRY_FIRST_S * 2 ** min(failures, 16))
                wait_s = ceiling_s * random.uniform(0.5, 1.0)
                failures += 1
                patient = False
            else:
                if failures:
                    log.info("the tenant's catalog can be read again", attempts=failures + 1)
                self._counters.set(Gauge.DATABASE_UP, 1)
                failures = 0
                # Half of the time nothing is looked at, the other half every commit's connection is an occasion.
                wait_s = 0.0 if wanted is None else self._settings.catalog_refresh_s / 2
                patient = True
            self.attempted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _changed_catalog(self, *, patient: bool) -> list[catalog.Connection] | None:
        """Return the connections that the catalog names now; None where nothing can have changed.

        1. not `patient`, the first time and after a failure: over a connection of its own, at once
        2. over the connection that somebody gives back in the meantime, such as a commit, or that lies idle
        3. not at all where nothing was written in the database since
        4. else over one of its own: with hundreds of tenants and few connections, it is opened for this
        """
        if patient:
            # 2
            patience_s = self._settings.catalog_refresh_s / 2
            async with self._database.returned_connection(patience_s) as returned:
                if returned is not None:
                    return await self._read_catalog(returned)
            # 3
            if await self._activity.is_unchanged(self._database, self._read_at):
                return None
        # 1, 4
        async with self._database.connection() as own:
            return await self._read_catalog(own)

    async def _read_catalog(self, database: AsyncConnection[Any]) -> list[catalog.Connection]:
        read_at = await self._activity.written(database)
        await self._store.check(database)
        wanted = await catalog.load_connections(
            database, self.tenant.id, secrets_key=self._settings.secrets_key, known=self._known
        )
        self._read_at = read_at
        return wanted

    async def _apply_catalog(
        self, connections: Sequence[catalog.Connection], tasks: asyncio.TaskGroup
    ) -> None:
        """Start what is new, stop what is gone, and start again only what has changed."""
        wanted = {connection.id: connection for connection in connections}
        stale = [key for key, (running, _) in self._running.items() if wanted.get(key) != running]
        await self._close_connections(stale)
        for key, connection in wanted.items():
            if key not in self._running:
                self._reports.expect(connection)
                self._running[key] = (connection, tasks.create_task(self._connect(connection)))

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
            remembered=self._remembered(connection),
        )
        self._connectors[connection.id] = connector
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
                newest = await self._pipeline.newest(tag_ids[unknown])
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

    def _remembered(self, connection: catalog.Connection) -> Remembered | None:
        """Return where the session is remembered; nowhere where the journal does not outlive this process, either."""
        assert self._stream is not None
        journal = self._stream.journal
        if isinstance(journal, MemoryJournal):
            return None
        return Remembered(
            journal_folder(self._settings, self.tenant.slug) / "sessions",
            connection,
            {
                (position.connection_id, position.subscription_id): position.sequence_number
                for position in journal.recovered.positions
            },
        )

    async def _close_connections(self, keys: list[UUID], *, keep: bool = False) -> None:
        """Close these connections; with `keep` their sessions stay on the servers, for the next start."""
        closing = []
        for key in keys:
            connection, task = self._running.pop(key)
            connector = self._connectors.pop(key, None)
            if not keep and connector is not None:
                connector.discard()
            elif not keep and (remembered := self._remembered(connection)) is not None:
                remembered.forget()
            closing.append(task)
            self._reports.forget(key)
        for task in closing:
            task.cancel()
        if closing:
            _, late = await asyncio.wait(closing, timeout=_CONNECTION_STOP_S)
            if late:
                log.warning("connections did not close in time", connections=len(late))


def said(group: BaseExceptionGroup[BaseException]) -> str:
    """Return what the errors of a group say."""
    return "; ".join(
        said(each) if isinstance(each, BaseExceptionGroup) else str(each) for each in group.exceptions
    )
