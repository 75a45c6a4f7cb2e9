"""A tenant as an ingest worker runs it, stopped and started again: nothing twice, and what was missed is told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from engine import catalog
from engine.database import connect
from engine.database_activity import DatabaseActivity
from engine.database_pool import DatabasePool
from engine.journal.disk import DISK
from engine.metrics import Counter, DropReason, Gauge, MetricsPage, MissingReason, TenantSample
from engine.settings import JournalSettings, OpcuaSettings, Settings
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import hold_counters, open62541_server, release_counters
from tests.servers.server_options import ServerOptions
from workers.tenant import TenantRunner

NODES = ("ns=1;s=tag.0", "ns=1;s=tag.1", "ns=1;s=tag.9")
SETTINGS = Settings(
    buffer_duration_ms=100,
    catalog_refresh_s=0.2,
    database_retry_most_s=0.5,
    opcua=OpcuaSettings(publishing_interval_ms=50, sampling_interval_ms=10, queue_size=100),
)


MISSING_OR_TWICE = """
    select tag_id, value from (
        select tag_id, value, value - lag(value) over (partition by tag_id order by ts) as step from readings
    ) s where step <> 1
"""


class Site:
    """A tenant's database, its runner, and what can be seen of both."""

    def __init__(self, databases: MasterAndTenant, tenant: catalog.Tenant, folder: Path) -> None:
        self.tenant = tenant
        self.settings = replace(SETTINGS, journal=JournalSettings(folder=str(folder)))
        self._pool = DatabasePool(4, retry_most_s=0.5)
        self._activity = DatabaseActivity(0.05)
        self._threads = ThreadPoolExecutor(2)
        self.page = MetricsPage.create(1)
        self._dsn = databases.tenant_dsn
        self._counters = self.page.shard(0).tenant("acme")
        self._runner: TenantRunner | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._runner = TenantRunner(
            self.tenant,
            settings=self.settings,
            counters=self._counters,
            databases=self._pool,
            activity=self._activity,
            threads=self._threads,
            upkeep_turns=asyncio.Semaphore(2),
        )
        self._task = asyncio.create_task(self._runner.run())

    @property
    def runner(self) -> TenantRunner:
        assert self._runner is not None
        return self._runner

    async def ended(self) -> None:
        """Wait until the tenant has ended by itself."""
        assert self._task is not None
        await asyncio.wait_for(self._task, 30)

    async def stop(self, deadline_s: float | None = None) -> None:
        if self._runner is not None and self._task is not None:
            self._runner.stop(deadline_s)
            await asyncio.wait_for(self._task, 20)
            self._runner = None

    @contextmanager
    def readings_locked(self) -> Iterator[None]:
        """Be a database in which somebody holds the readings."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute("lock table readings in access exclusive mode")
            yield

    def forget_sessions(self) -> None:
        """Let the next start find no session that goes on."""
        shutil.rmtree(Path(self.settings.journal.folder) / "acme" / "sessions")

    async def close(self) -> None:
        await self.stop()
        await self._pool.close()
        self._threads.shutdown()
        self.page.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def readings(self) -> int:
        return int(self.rows("select count(*) from readings")[0][0])

    def gaps(self) -> list[str]:
        return [cause for (cause,) in self.rows("select cause from reading_gaps order by tag_id")]

    def counts(self) -> TenantSample:
        return self.page.snapshot().tenants["acme"]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                assert self.counts().accounting_difference == 0
                await asyncio.sleep(0.02)


@pytest.fixture
def server() -> Iterator[OpcuaServer]:
    with open62541_server(interval_ms=20.0) as running:
        yield running


@pytest.fixture
def historian() -> Iterator[OpcuaServer]:
    with open62541_server(interval_ms=20.0, options=ServerOptions(history_page=20)) as running:
        yield running


@pytest.fixture
async def site(master_and_tenant: MasterAndTenant, tmp_path: Path) -> AsyncIterator[Site]:
    settings = Settings(database_url=master_and_tenant.master_dsn)
    async with await connect(master_and_tenant.master_dsn, application="test", autocommit=True) as master:
        (tenant,) = await catalog.list_tenants(master, settings)
    site = Site(master_and_tenant, tenant, tmp_path)
    yield site
    await site.close()


async def read_counters(site: Site, server: OpcuaServer, *, start: bool = True) -> None:
    """Let the tenant read three counters, and wait until some steps of each are stored."""
    async with await connect(site.tenant.dsn, application="test", autocommit=True) as database:
        tenant_id = site.tenant.id
        well = await catalog.add_well(database, tenant_id, "W")
        new = catalog.NewConnection(well_id=well.id, name="RTU", endpoint_url=server.endpoint)
        added = await catalog.add_connection(database, tenant_id, new, secrets_key="")
        tags = [catalog.NewTag(tag_name=node_id, opc_node_id=node_id) for node_id in NODES]
        await catalog.add_tags(database, tenant_id, added.id, tags)
    if start:
        site.start()
    await site.until(lambda: site.readings() >= 30)


async def settled_counters(site: Site, server: OpcuaServer) -> None:
    """Hold the counters, and wait until every step of them is stored."""
    hold_counters(server)
    await settled(site)
    release_counters(server)


async def settled(site: Site) -> None:
    """Wait until the tenant is connected and everything that came is stored."""
    await site.until(lambda: site.counts().gauges[Gauge.ACTIVE_CONNECTIONS] == 1)
    received = -1
    while received != site.counts().counters[Counter.RECEIVED]:
        received = site.counts().counters[Counter.RECEIVED]
        await asyncio.sleep(0.4)
    await site.until(lambda: site.counts().gauges[Gauge.IN_FLIGHT] == 0)


async def test_first_values_that_are_stored_already_are_not_stored_again_after_a_restart(
    site: Site, server: OpcuaServer
) -> None:
    await read_counters(site, server)
    hold_counters(server)
    await settled(site)
    stored = site.readings()
    await site.stop()
    site.forget_sessions()
    site.start()
    await site.until(lambda: site.counts().dropped[DropReason.REPEATED] == 3)
    await settled(site)
    assert site.readings() == stored
    assert site.gaps() == []
    release_counters(server)
    await site.until(lambda: site.readings() > stored + 30)
    assert site.gaps() == []
    assert site.rows("select tag_id, ts from readings group by 1, 2 having count(*) > 1") == []


async def test_a_restart_goes_on_with_the_session_and_nothing_is_missing(
    site: Site, server: OpcuaServer
) -> None:
    await read_counters(site, server)
    await site.stop()
    assert site.counts().gauges[Gauge.IN_FLIGHT] == 0
    stored = site.readings()
    site.start()
    await site.until(lambda: site.readings() > stored + 30)
    await site.stop()
    assert site.rows(MISSING_OR_TWICE) == []
    assert site.gaps() == []
    assert site.counts().accounting_difference == 0


async def test_what_the_database_does_not_take_before_the_deadline_of_a_stop_is_stored_after_the_next_start(
    site: Site, server: OpcuaServer
) -> None:
    await read_counters(site, server)
    received = site.counts().counters[Counter.RECEIVED]
    with site.readings_locked():
        await site.until(lambda: site.counts().counters[Counter.RECEIVED] > received + 30)
        await site.stop(deadline_s=0.1)
        assert site.counts().gauges[Gauge.IN_FLIGHT] >= 30
        assert site.counts().dropped[DropReason.STOPPED] == 0
        assert site.counts().accounting_difference == 0
    site.start()
    await site.until(lambda: site.counts().counters[Counter.REPLAYED] >= 30)
    await settled_counters(site, server)
    assert site.rows(MISSING_OR_TWICE) == []
    assert site.gaps() == []
    assert site.readings() == site.counts().counters[Counter.COMMITTED]


async def test_a_database_that_has_stopped_answering_does_not_hold_up_a_stop(
    site: Site, server: OpcuaServer
) -> None:
    parts = urlsplit(site.tenant.dsn)
    assert parts.hostname
    proxy = await CuttingProxy.start(parts.hostname, parts.port or 5432)
    login = parts.netloc.rpartition("@")[0]
    try:
        site.tenant = replace(
            site.tenant, dsn=parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl()
        )
        await read_counters(site, server)
        received = site.counts().counters[Counter.RECEIVED]
        proxy.pause()
        await site.until(lambda: site.counts().counters[Counter.RECEIVED] > received + 30)
        # Less than a cancellation waits for a server: the test's own limit is the deadline.
        await asyncio.wait_for(site.stop(deadline_s=0.5), 4)
        assert site.counts().gauges[Gauge.IN_FLIGHT] >= 30
        assert site.counts().dropped == (0, 0, 0, 0, 0)
        assert site.counts().accounting_difference == 0
        site.start()
        await asyncio.wait_for(site.stop(deadline_s=0.5), 4)
        proxy.resume()
        site.start()
        await settled_counters(site, server)
        assert site.rows(MISSING_OR_TWICE) == []
        assert site.gaps() == []
        assert site.readings() == site.counts().counters[Counter.COMMITTED]
        assert site.counts().accounting_difference == 0
    finally:
        await site.stop()
        await proxy.stop()


async def test_with_durability_memory_what_the_deadline_of_a_stop_leaves_is_dropped_and_said(
    site: Site, server: OpcuaServer
) -> None:
    site.tenant = replace(site.tenant, durability=catalog.Durability.MEMORY)
    await read_counters(site, server)
    assert site.rows("select count(*) from ingest_marks") == [(1,)]
    received = site.counts().counters[Counter.RECEIVED]
    with site.readings_locked():
        await site.until(lambda: site.counts().counters[Counter.RECEIVED] > received + 30)
        await site.stop(deadline_s=0.1)
    assert site.counts().gauges[Gauge.IN_FLIGHT] == 0
    assert site.counts().dropped[DropReason.STOPPED] >= 30
    assert site.counts().accounting_difference == 0


async def test_a_tenant_whose_stream_was_taken_over_stops_for_good(site: Site, server: OpcuaServer) -> None:
    await read_counters(site, server)
    site.rows("update ingest_marks set epoch = epoch + 1 returning 1")
    runner = site.runner
    await site.ended()
    assert runner.taken_over
    stored = site.readings()
    assert site.counts().gauges[Gauge.WANTED_CONNECTIONS] == 0
    assert site.counts().accounting_difference == 0
    assert site.readings() == stored


async def test_a_tenant_waits_for_a_journal_that_another_process_has_and_then_begins(
    site: Site, server: OpcuaServer
) -> None:
    folder = Path(site.settings.journal.folder) / "acme"
    folder.mkdir(parents=True)
    lock = DISK.lock(folder / "lock")
    site.start()
    await asyncio.wait_for(site.runner.attempted.wait(), 20)
    assert site.counts().gauges[Gauge.ACCEPTING] == 0
    lock.close()
    await read_counters(site, server, start=False)


async def test_what_a_restart_missed_is_a_gap_where_the_server_has_no_history(
    site: Site, server: OpcuaServer
) -> None:
    await read_counters(site, server)
    await site.stop()
    stored = site.readings()
    site.forget_sessions()
    await asyncio.sleep(0.3)
    site.start()
    await site.until(lambda: site.readings() > stored + 30)
    await site.until(lambda: site.counts().counters[Counter.GAPS] == 3)
    assert site.gaps() == ["restart"] * 3
    gap_without_readings_inside = """
        select g.tag_id from reading_gaps g
        where not exists (select from readings r where r.tag_id = g.tag_id and r.ts > g."from" and r.ts < g."to")
            and exists (select from readings r where r.tag_id = g.tag_id and r.ts = g."from")
            and exists (select from readings r where r.tag_id = g.tag_id and r.ts = g."to")
    """
    assert len(site.rows(gap_without_readings_inside)) == 3


async def test_what_a_restart_missed_comes_from_the_history_where_the_server_has_one(
    site: Site, historian: OpcuaServer
) -> None:
    await read_counters(site, historian)
    await site.stop()
    site.forget_sessions()
    ((last,),) = site.rows("select max(value) from readings")
    await asyncio.sleep(1.0)
    site.start()
    await site.until(lambda: site.counts().counters[Counter.BACKFILLED] >= 3 * 40)
    await site.until(lambda: site.gaps() == [])
    await site.stop()
    # Up to the first value of the new subscription; a server that is busy may be late in sampling the second.
    backfilled = site.counts().counters[Counter.BACKFILLED] // 3
    missed = f"select tag_id, count(*), count(distinct value) from readings where value > {last}"
    assert site.rows(f"{missed} and value <= {last + backfilled} group by 1 order by 1") == [
        (tag_id, backfilled, backfilled) for tag_id in (1, 2, 3)
    ]
    assert site.counts().accounting_difference == 0
    assert site.counts().counters[Counter.GAPS] == 0


async def test_what_is_in_use_and_how_each_tag_is_read_is_in_the_catalog(
    site: Site, server: OpcuaServer
) -> None:
    await read_counters(site, server)
    in_use = """
        select active_endpoint_url, active_security_mode, active_security_policy, monitored_tags from scada_connections
    """
    await site.until(lambda: site.rows(in_use) == [(server.endpoint, "None", "None", 3)])
    await site.until(lambda: site.rows("select monitored from tag_states") == [(True,)] * 3)
    assert site.counts().missing[MissingReason.NOT_CONNECTED] == 0
    server.process.kill()
    await site.until(lambda: site.counts().missing[MissingReason.NOT_CONNECTED] == 3)
    await site.until(lambda: site.rows(in_use) == [(None, None, None, None)])
