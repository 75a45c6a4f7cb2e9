"""The ingest worker: one process, one event loop, the tenants of one shard.

Owns which tenants run here (the master database's active tenants whose shard this is) and the process's life: ready
once every tenant of the first list was tried, TERM drains. What one tenant does is in workers.tenant.
"""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import uvloop

from engine import catalog
from engine.database import connect
from engine.errors import ScadaError
from engine.metrics import ProcessState
from workers.child import EXIT_FAILED
from workers.sharding import shard_of
from workers.tenant import TenantRunner

if TYPE_CHECKING:
    from engine.metrics import MetricsPage, ShardSlots
    from engine.settings import Settings

log = structlog.get_logger(__name__)

_APPLICATION = "scada-engine ingest"
_BEAT_S = 0.5
_RETRY_FIRST_S = 0.5
# Kept of the supervisor's deadline for closing and leaving, so that we stop by ourselves before it kills us.
_LEAVE_S = 1.0


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

    def stop(self) -> None:
        """Ask `run` to drain every tenant and return."""
        self._slots.set_state(ProcessState.STOPPING)
        self._stopping.set()

    async def run(self) -> int:
        """Run until `stop`; return the number of tenants that could not be drained in time."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._follow_tenants()
            return await self._stop_tenants(list(self._running), self._settings.stop_deadline_s - _LEAVE_S)
        finally:
            beating.cancel()
            if self._becoming_ready is not None:
                self._becoming_ready.cancel()

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
        """Start the tenants that are new here, stop those that left, and start again those whose DSN changed."""
        async with await connect(self._settings.database_url, application=_APPLICATION) as master:
            tenants = await catalog.list_tenants(master, self._settings)
        wanted = {
            tenant.slug: tenant for tenant in tenants if shard_of(tenant.slug, self._shards) == self._shard
        }
        self._collect_failed()
        leaving = [
            slug for slug, (runner, task) in self._running.items() if wanted.get(slug) != runner.tenant
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
        for slug, (_, task) in list(self._running.items()):
            if task.done():
                del self._running[slug]
                log.error("a tenant stopped in a way nobody foresaw", tenant=slug, exc_info=task.exception())

    def _start(self, tenant: catalog.Tenant) -> TenantRunner | None:
        """Start a tenant; one that cannot be counted for is named, and does not hold up the others."""
        try:
            counters = self._slots.tenant(tenant.slug)
        except ScadaError as exc:
            log.error("a tenant is left out", tenant=tenant.slug, error=str(exc))
            return None
        runner = TenantRunner(tenant, settings=self._settings, counters=counters)
        self._running[tenant.slug] = (runner, asyncio.create_task(runner.run(), name=f"tenant {tenant.slug}"))
        return runner

    async def _stop_tenants(self, slugs: list[str], deadline_s: float) -> int:
        leaving = [self._running.pop(slug) for slug in slugs]
        for runner, _ in leaving:
            runner.stop()
        if not leaving:
            return 0
        tasks = [task for _, task in leaving]
        _, late = await asyncio.wait(tasks, timeout=deadline_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LEAVE_S)
        return len(late)


async def _serve(settings: Settings, page: MetricsPage, shard: int) -> int:
    worker = Worker(settings=settings, slots=page.shard(shard), shard=shard, shards=page.shards)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    late = await worker.run()
    if late:
        log.error("some tenants could not be drained before the deadline", tenants=late)
    return EXIT_FAILED if late else 0


def main(settings: Settings, page: MetricsPage, index: int) -> int:
    """Run the ingest worker of shard `index`; return its exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, page, index))
