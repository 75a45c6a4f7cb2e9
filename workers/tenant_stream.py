"""How an ingest worker takes over a tenant's stream: its journal, then its database's word, then the accounting.

Owns where a tenant's journal is, and how long what fails is tried again: for ever. A tenant waits alone; the others of
its worker go on.

    open the journal            locked by another process, or its disk fails: tried again after a back-off
                                a newer engine wrote it: held, a person has to look
    claim, begin, account       the database is away: tried again; the journal stays open meanwhile
                                a newer engine has migrated it, or the journal was written for another one: held
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from engine.cancelling import cancel_all
from engine.catalog import Durability
from engine.errors import DatabaseError, DatabaseNotMigrated, JournalError, ScadaError
from engine.journal.journal import Journal
from engine.journal.memory import MemoryJournal
from engine.metrics import Gauge
from engine.migrations import Which
from engine.migrations_newer import refuse_newer
from engine.pipeline import TenantPipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor
    from typing import Any, TypeVar

    from engine import catalog
    from engine.database_pool import Database
    from engine.metrics import TenantSlots
    from engine.pipeline.journaling import AnyJournal
    from engine.settings import Settings
    from engine.store import Store

    T = TypeVar("T")

log = structlog.get_logger(__name__)

_RETRY_FIRST_S = 0.5


def journal_folder(settings: Settings, slug: str) -> Path:
    """Return the folder of a tenant's journal."""
    configured = settings.journal.folder
    return Path(configured or Path.home() / ".local" / "state" / "scada-engine" / "journal") / slug


def _now_us() -> int:
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that this process owns."""

    journal: AnyJournal
    pipeline: TenantPipeline


class StreamOpener:
    """Takes over one tenant's stream, again for as long as it takes."""

    def __init__(
        self,
        tenant: catalog.Tenant,
        *,
        database: Database,
        store: Store,
        counters: TenantSlots,
        settings: Settings,
        threads: Executor,
        stopping: asyncio.Event,
        tried: Callable[[], object],
    ) -> None:
        """`tried` is called after each attempt that failed."""
        self._tenant = tenant
        self._database = database
        self._store = store
        self._counters = counters
        self._settings = settings
        self._threads = threads
        self._stopping = stopping
        self._tried = tried

    async def open(self) -> Stream | None:
        """Return the stream once it is ours; None when the tenant is to stop before."""
        journal = await self._until_it_works(self._open_journal, "the tenant waits for its journal")
        if journal is None:
            return None
        pipeline: TenantPipeline | None = None
        try:
            pipeline = await self._until_it_works(
                lambda: self._take_over(journal),
                "the tenant waits until its stream can be taken over",
            )
        finally:
            if pipeline is None:
                await journal.close()
        return None if pipeline is None else Stream(journal, pipeline)

    async def _take_over(self, journal: AnyJournal) -> TenantPipeline:
        async with self._database.connection() as connection:
            await refuse_newer(connection, Which.TENANT)
        return await TenantPipeline.take_over(
            store=self._store, journal=journal, counters=self._counters, settings=self._settings
        )

    async def _open_journal(self) -> AnyJournal:
        tenant, settings = self._tenant, self._settings.journal
        if tenant.durability is Durability.MEMORY:
            return MemoryJournal(tenant.id, now_us=_now_us)
        return await Journal.open(
            journal_folder(self._settings, tenant.slug),
            tenant_id=tenant.id,
            settings=settings,
            threads=self._threads,
            now_us=_now_us,
            observe=self._counters.observe_sync,
        )

    async def _until_it_works(self, attempt: Callable[[], Coroutine[Any, Any, T]], waiting: str) -> T | None:
        failures = 0
        while not self._stopping.is_set():
            try:
                done = await self._unless_stopped(attempt())
            except ScadaError as exc:
                self._report(exc, waiting, failures)
            else:
                if failures and done is not None:
                    log.info("the tenant goes on", attempts=failures + 1)
                    self._counters.set(Gauge.HELD, 0)
                return done
            self._tried()
            ceiling_s = min(self._settings.database_retry_most_s, _RETRY_FIRST_S * 2 ** min(failures, 16))
            failures += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(ceiling_s * random.uniform(0.5, 1.0)):
                    await self._stopping.wait()
        return None

    async def _unless_stopped(self, attempt: Coroutine[Any, Any, T]) -> T | None:
        """Return what an attempt returns; None when it was given up, because a database may never answer."""
        trying = asyncio.create_task(attempt)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({trying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await trying if trying.done() else None
        finally:
            await cancel_all(trying, stopping)

    def _report(self, exc: ScadaError, waiting: str, failures: int) -> None:
        """Say the first failure of a streak, and then each time the number of attempts doubles."""
        held = not exc.retry or isinstance(exc, DatabaseNotMigrated)
        self._counters.set(Gauge.HELD, int(held))
        if isinstance(exc, DatabaseError):
            self._counters.set(Gauge.DATABASE_UP, 0)
        if isinstance(exc, JournalError):
            self._counters.set(Gauge.ACCEPTING, 0)
        if failures & (failures + 1):
            return
        say = log.warning if exc.retry else log.error
        say(waiting, error=str(exc), attempts=failures + 1, will_retry=True)
