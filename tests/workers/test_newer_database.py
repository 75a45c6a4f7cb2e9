"""A database that a newer engine has migrated is refused and named; every other tenant goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from engine.database import connect
from engine.metrics import Gauge, MetricsPage
from engine.migrations import Which
from engine.migrations_newer import refuse_newer
from engine.settings import JournalSettings, Settings
from tests.end_to_end.engine_process import free_port
from tests.servers.databases import MasterAndTenant, Server
from tests.servers.many_tenants import ManyTenants, many_tenants
from tests.workers.cli.conftest import Cli, cli
from workers.cli import Exit
from workers.ingest import Worker

__all__ = ["cli"]

FUTURE = """
insert into schema_migrations (version, name, checksum, engine_version) values (9999, 'of_the_future', '', '9.9')
"""


@pytest.fixture(scope="session")
def any_server(embedded_dsn: str) -> Server:
    """One kind of database is enough here."""
    return Server("embedded", embedded_dsn)


@pytest.fixture
def two(embedded_dsn: str) -> Iterator[ManyTenants]:
    with many_tenants(embedded_dsn, 2) as many:
        yield many


def make_newer(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(FUTURE)


async def test_a_tenant_of_a_newer_engine_is_held_and_named_and_the_others_go_on(
    two: ManyTenants, tmp_path: Path, cli: Cli
) -> None:
    newer, other = two.tenants
    make_newer(two.tenants[newer])
    page = MetricsPage.create(1)
    settings = Settings(
        database_url=two.master_dsn,
        catalog_refresh_s=0.2,
        journal=JournalSettings(folder=str(tmp_path / "journal"), segment_mb=1),
    )
    worker = Worker(settings=settings, slots=page.shard(0), shard=0, shards=1)
    with capture_logs() as logged:
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while True:
                tenants = page.snapshot().tenants
                if (
                    {newer, other} <= set(tenants)
                    and tenants[newer].gauges[Gauge.HELD]
                    and tenants[other].gauges[Gauge.DATABASE_UP]
                ):
                    break
                await asyncio.sleep(0.02)
        worker.stop()
        assert await running == 0
    assert page.snapshot().tenants[other].gauges[Gauge.HELD] == 0
    said = [entry for entry in logged if "9999_of_the_future of engine 9.9" in str(entry.get("error"))]
    assert said
    assert {entry["log_level"] for entry in said} == {"error"}
    with psycopg.connect(two.tenants[newer]) as connection:
        assert connection.execute("select count(*) from ingest_marks").fetchone() == (0,)

    listed = cli("tenant", "list", "--check", "--json", DATABASE_URL=two.master_dsn)
    assert listed.returncode == Exit.DATABASE
    assert "9999_of_the_future of engine 9.9" in listed.stdout
    assert [json.loads(line)["database"] == "ok" for line in listed.stdout.splitlines()] == [False, True]
    assert newer in listed.stderr
    assert other not in listed.stderr
    refused = cli("tags", "list", "--tenant", newer, DATABASE_URL=two.master_dsn)
    assert (refused.returncode, "9999_of_the_future" in refused.stderr) == (Exit.DATABASE, True)


def test_an_engine_does_not_start_with_a_master_of_a_newer_engine(
    master_and_tenant: MasterAndTenant, cli: Cli
) -> None:
    make_newer(master_and_tenant.master_dsn)
    ports = {name: str(free_port()) for name in ("METRICS_PORT", "GRPC_PORT", "SCADA_REST_PORT")}
    ended = cli("run", "--workers", "1", DATABASE_URL=master_and_tenant.master_dsn, **ports)
    assert ended.returncode == Exit.USAGE
    assert "9999_of_the_future of engine 9.9" in ended.stderr
    refused = cli("tenant", "list", DATABASE_URL=master_and_tenant.master_dsn)
    assert refused.returncode == Exit.DATABASE
    assert "9999_of_the_future of engine 9.9" in refused.stderr


async def test_a_ledger_that_the_role_may_not_read_refuses_nothing(
    master_and_tenant: MasterAndTenant,
) -> None:
    make_newer(master_and_tenant.tenant_dsn)
    async with await connect(master_and_tenant.tenant_dsn, application="test", autocommit=True) as connection:
        await connection.execute("create role blind; set role blind")
        try:
            await refuse_newer(connection, Which.TENANT)
        finally:
            await connection.execute("reset role; drop role blind")
