"""Upkeep as a worker does it: what is due is done, and what fails is counted and said once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from structlog.testing import capture_logs

from engine.database_pool import DatabasePool
from engine.metrics import Counter, Gauge, MetricsPage
from engine.settings import UpkeepSettings
from tests.servers.databases import MasterAndTenant
from workers.tenant_upkeep import TenantUpkeep

SETTINGS = UpkeepSettings(interval_s=1, rollup_delay_s=60, policies_interval_s=1)


@pytest.fixture
async def pool() -> AsyncIterator[DatabasePool]:
    made = DatabasePool(2, retry_most_s=0.1)
    yield made
    await made.close()


async def test_upkeep_stores_rollups_drops_what_is_too_old_and_says_a_failure_once(
    master_and_tenant: MasterAndTenant, pool: DatabasePool
) -> None:
    page = MetricsPage.create(1)
    counters = page.shard(0).tenant("acme")
    database = pool.database(master_and_tenant.tenant_dsn, "test")
    upkeep = TenantUpkeep(database, counters, SETTINGS, asyncio.Semaphore(1))
    upkeep._policies_due_s = 0.0
    with psycopg.connect(master_and_tenant.tenant_dsn, autocommit=True) as tenant:
        tenant.execute(
            "insert into readings (ts, tag_id, status, value)"
            " select now() - day * interval '1 day', 1, 0, 1 from generate_series(1, 20) day"
        )
        tenant.execute("select note_changed_readings(now() - interval '20 days', now() - interval '1 day')")
        tenant.execute("update storage_policies set keep_readings = '10 days'")
        await upkeep.attempt()
        assert tenant.execute("select count(*) from rollup_changes").fetchone() == (0,)
        assert tenant.execute("select min(ts) > now() - interval '12 days' from readings").fetchone() == (
            True,
        )
        with capture_logs() as logged:
            tenant.execute("alter table storage_policies rename to elsewhere")
            for _ in range(2):
                upkeep._policies_due_s = 0.0
                await upkeep.attempt()
            tenant.execute("alter table elsewhere rename to storage_policies")
            await upkeep.attempt()
    assert [entry["log_level"] for entry in logged if "failed" in entry["event"]] == ["warning"]
    assert [entry["attempts"] for entry in logged if "works again" in entry["event"]] == [3]
    sample = page.snapshot().tenants["acme"]
    assert sample.counters[Counter.UPKEEP_FAILURES] == 2
    assert sample.counters[Counter.RETENTION_ROWS] >= 0
    assert sample.gauges[Gauge.ROLLUP_LAG_S] == 0
    await database.close()


async def test_a_database_that_is_away_is_no_failure_of_upkeep(pool: DatabasePool) -> None:
    page = MetricsPage.create(1)
    counters = page.shard(0).tenant("acme")
    database = pool.database("postgresql://nobody@127.0.0.1:1/nowhere", "test")
    upkeep = TenantUpkeep(database, counters, SETTINGS, asyncio.Semaphore(1))
    with capture_logs() as logged:
        for _ in range(3):
            await upkeep.attempt()
    assert logged == []
    assert page.snapshot().tenants["acme"].counters[Counter.UPKEEP_FAILURES] == 0
    await database.close()
