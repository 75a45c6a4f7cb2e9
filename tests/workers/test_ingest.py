"""An ingest worker and its tenants: very many start at once over a few connections; one goes on with a new login."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from engine.database import connect
from engine.metrics import Gauge, MetricsPage, ProcessState
from engine.settings import JournalSettings, Settings
from tests.servers.databases import MasterAndTenant
from tests.servers.many_tenants import many_tenants
from workers.ingest import Worker

TENANTS = 110
MOST = 8


def settings_of(master_dsn: str, folder: Path) -> Settings:
    return Settings(
        database_url=master_dsn,
        database_connections=MOST,
        catalog_refresh_s=0.5,
        journal=JournalSettings(folder=str(folder / "journal"), segment_mb=1),
    )


async def until(probe: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own timeout ends a wait in vain."""
    async with asyncio.timeout(60):
        while not probe():  # noqa: ASYNC110  (what is probed is in shared memory)
            await asyncio.sleep(0.02)


async def test_very_many_tenants_start_at_once_over_a_few_connections(
    embedded_dsn: str, tmp_path: Path
) -> None:
    page = MetricsPage.create(1)
    with many_tenants(embedded_dsn, TENANTS) as many:
        worker = Worker(
            settings=settings_of(many.master_dsn, tmp_path), slots=page.shard(0), shard=0, shards=1
        )

        def all_up() -> bool:
            snapshot = page.snapshot()
            up = [tenant.gauges[Gauge.DATABASE_UP] for tenant in snapshot.tenants.values()]
            ready = [process for process in snapshot.processes if process.state is ProcessState.READY]
            return len(ready) == 1 and len(up) == TENANTS and all(up)

        seen: list[int] = []
        async with await connect(embedded_dsn, application="test observer", autocommit=True) as observer:

            async def observe() -> None:
                while True:
                    seen.append(await _connections(observer))

            observing = asyncio.create_task(observe())
            running = asyncio.create_task(worker.run())
            await until(all_up)
            # And once more round the catalogs.
            first = len(seen)
            await until(lambda: len(seen) > first + 100)
            worker.stop()
            assert await asyncio.wait_for(running, 60) == 0
            observing.cancel()
            await asyncio.wait([observing])
        assert 1 <= max(seen) <= MOST
        for dsn in many.tenants.values():
            with psycopg.connect(dsn) as connection:
                assert connection.execute("select epoch from ingest_marks").fetchall() == [(1,)]
    page.close()


async def test_a_tenant_goes_on_with_a_new_login_and_starts_again_for_another_database(
    master_and_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    page = MetricsPage.create(1)
    settings = settings_of(master_and_tenant.master_dsn, tmp_path)
    worker = Worker(settings=settings, slots=page.shard(0), shard=0, shards=1)
    running = asyncio.create_task(worker.run())
    await until(lambda: any(tenant.gauges[Gauge.DATABASE_UP] for tenant in page.snapshot().tenants.values()))
    runner, task = worker._running["acme"]
    same, other = (
        runner.tenant.dsn + "?keepalives=1",
        runner.tenant.dsn.replace("/tenant_", "/other_"),
    )
    assert runner.goes_on_as(runner.tenant)
    assert not runner.goes_on_as(replace(runner.tenant, dsn=other))
    assert not runner.goes_on_as(replace(runner.tenant, dsn="nonsense"))
    assert not runner.goes_on_as(replace(runner.tenant, name="Another"))
    assert runner.goes_on_as(replace(runner.tenant, dsn=same))
    assert runner.tenant.dsn == same
    # The next list has the DSN of before, which is a new login again.
    await until(lambda: runner.tenant.dsn != same)
    assert worker._running["acme"] == (runner, task)
    worker.stop()
    assert await asyncio.wait_for(running, 60) == 0
    page.close()


async def _connections(observer: psycopg.AsyncConnection[Any]) -> int:
    cursor = await observer.execute(
        "select count(*) from pg_stat_activity where application_name = 'scada-engine ingest'"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
