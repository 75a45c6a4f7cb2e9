"""The ingest worker: one process, one event loop, the tenants of one shard.

Owns which tenants run here (the master database's active tenants whose shard this is) and the process's life: ready
once every tenant of the first list was tried, TERM drains. What one tenant does is in workers.tenant.
"""

from __future__ import annotations

import asyncio
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import uvloop

from engine.database_activity import DatabaseActivity
from engine.database_pool import DatabasePool
from engine.errors import DatabaseTooNew, ScadaError
from engine.metrics import ProcessState
from workers.child import EXIT_FAILED
from workers.master_database import MasterDatabase
from workers.sharding import shard_of
from workers.tenant import TenantRunner

if TYPE_CHECKING:
    from engine import catalog
    from engine.metrics import MetricsPage, ShardSlots
    from engine.settings import Settings

log = structlog.get_logger(__name__)

_APPLICATION = "scada-engine ingest"
_BEAT_S = 0.5
_RETRY_FIRST_S = 0.5
# Kept of the supervisor's deadline for closing and leaving, so that we stop by ourselves before it kills us.
_LEAVE_S = 1.5
# Of that, for what a tenant may take beyond its deadline: its last readings into the journal, and closing it.
_CLOSE_S = 0.8
_CANCEL_S = 0.4
_JOURNAL_THREADS = 4


class Worker:
    """Runs the tenants of one shard until `stop`."""

    def __init__(self, *, settings: Settings, slots: ShardSlots, shard: int, shards: int) -> None:
        self._settings = settings
        self._slots = slots
        self._shard = shard
        self._shards = shards
        self._running: dict[str, tuple[TenantRunner, asyncio.Task[None]]] = {}
        self._stopping = asyncio.Event()
        self._becoming_ready: asyncio.Task[None] | None = None
        self._databases = DatabasePool(
            settings.database_connections, retry_most_s=settings.database_retry_most_s
        )
        # A change is to be taken up within catalog_refresh_s: tenants ask each half of it, and an answer may be so old.
        self._activity = DatabaseActivity(settings.catalog_refresh_s / 4)
        self._upkeep_turns = asyncio.Semaphore(settings.upkeep.tenants_at_once)
        self._master = MasterDatabase(settings, self._databases, _APPLICATION)
        # Of all tenants: one that waits for its disk must not hold up the others.
        self._threads = ThreadPoolExecutor(_JOURNAL_THREADS, thread_name_prefix="journal")

    def stop(self) -> None:
        """Ask `run` to drain every tenant and return."""
        self._slots.set_state(ProcessState.STOPPING)
        self._stopping.set()

    async def run(self) -> int:
        """Run until `stop`; return the number of tenants that did not stop in time."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._follow_tenants()
            deadline_s = max(0.0, self._settings.stop_deadline_s - _LEAVE_S)
            return await self._stop_tenants(list(self._running), deadline_s)
        finally:
            beating.cancel()
            if self._becoming_ready is not None:
                self._becoming_ready.cancel()
            await self._master.close()
            await self._databases.close()
            # Who waits for a disk that hangs is not waited for.
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _beat(self) -> None:
        while True:
            self._slots.beat()
            await asyncio.sleep(_BEAT_S)

    async def _follow_tenants(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._apply_tenants()
            except ScadaError as exc:
                if isinstance(exc, DatabaseTooNew) and self._becoming_ready is None:
                    raise
                if failures == 0:
                    log.warning("the master database cannot be read; running tenants go on", error=str(exc))
                ceiling_s = min(self._settings.database_retry_most_s, _RETRY_FIRST_S * 2 ** min(failures, 16))
                wait_s = ceiling_s * random.uniform(0.5, 1.0)
                failures += 1
            else:
                if failures:
                    log.info("the master database can be read again", attempts=failures + 1)
                failures = 0
                wait_s = self._settings.catalog_refresh_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _apply_tenants(self) -> None:
        """Start the tenants that are new here, stop those that left, and start again those that changed.

        One whose database has only a new login goes on with it.
        """
        wanted = {
            tenant.slug: tenant
            for tenant in await self._master.tenants()
            if shard_of(tenant.slug, self._shards) == self._shard
        }
        self._collect_failed()
        leaving = [
            slug
            for slug, (runner, _) in self._running.items()
            if slug not in wanted or not runner.goes_on_as(wanted[slug])
        ]
        await self._stop_tenants(leaving, self._settings.stop_deadline_s)
        fresh = [self._start(tenant) for slug, tenant in wanted.items() if slug not in self._running]
        if self._becoming_ready is None:
            self._becoming_ready = asyncio.create_task(
                self._become_ready([runner for runner in fresh if runner is not None])
            )

    async def _become_ready(self, runners: list[TenantRunner]) -> None:
        """Tell that we are ready once every tenant of the first list was tried, without holding up the next list."""
        for runner in runners:
            await runner.attempted.wait()
        if not self._stopping.is_set():
            self._slots.set_state(ProcessState.READY)

    def _collect_failed(self) -> None:
        """Let go of tenants whose runner ended by a defect of ours; the next list starts them again."""
        for slug, (runner, task) in list(self._running.items()):
            # A tenant that was taken over by another process stays down, until its row in the master changes.
            if task.done() and not runner.taken_over:
                del self._running[slug]
                log.error("a tenant stopped in a way nobody foresaw", tenant=slug, exc_info=task.exception())

    def _start(self, tenant: catalog.Tenant) -> TenantRunner | None:
        """Start a tenant; one that cannot be counted for is named, and does not hold up the others."""
        try:
            counters = self._slots.tenant(tenant.slug)
        except ScadaError as exc:
            log.error("a tenant is left out", tenant=tenant.slug, error=str(exc))
            return None
        runner = TenantRunner(
            tenant,
            settings=self._settings,
            counters=counters,
            databases=self._databases,
            activity=self._activity,
            threads=self._threads,
            upkeep_turns=self._upkeep_turns,
        )
        self._running[tenant.slug] = (runner, asyncio.create_task(runner.run(), name=f"tenant {tenant.slug}"))
        return runner

    async def _stop_tenants(self, slugs: list[str], deadline_s: float) -> int:
        leaving = [self._running.pop(slug) for slug in slugs]
        for runner, _ in leaving:
            runner.stop(deadline_s)
        if not leaving:
            return 0
        tasks = [task for _, task in leaving]
        _, late = await asyncio.wait(tasks, timeout=deadline_s + _CLOSE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)
        return len(late)


async def _serve(settings: Settings, page: MetricsPage, shard: int) -> int:
    worker = Worker(settings=settings, slots=page.shard(shard), shard=shard, shards=page.shards)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    late = await worker.run()
    if late:
        log.error("some tenants did not stop before the deadline", tenants=late)
    return EXIT_FAILED if late else 0


def main(settings: Settings, page: MetricsPage, index: int) -> int:
    """Run the ingest worker of shard `index`; return its exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, page, index))
