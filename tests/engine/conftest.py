"""A master and a tenant that are made once for each kind of server and emptied before each test: migrating takes a
second, emptying takes milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from engine import catalog
from engine.database import connect
from engine.database_pool import DatabasePool
from engine.settings import Settings
from engine.store import Store
from tests.engine.commits import Stream
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant


@pytest.fixture(scope="session")
def lasting_databases(any_server: Server) -> Iterator[MasterAndTenant]:
    """The databases behind `databases`; what a test leaves in them is still there."""
    with migrated_master_and_tenant(any_server) as made:
        yield made


@pytest.fixture
def databases(lasting_databases: MasterAndTenant) -> MasterAndTenant:
    """A master that knows the tenant `acme`, and that tenant, empty; on each kind of server."""
    with psycopg.connect(lasting_databases.tenant_dsn) as tenant:
        tenant.execute(
            "truncate wells, scada_connections, tag_mappings, tag_states, readings, reading_gaps,"
            " ingest_marks, reading_quarantine, rollup_changes, rollups_1m, rollups_1h, rollups_1d"
            " restart identity cascade; update rollup_state set readings_from = '-infinity'"
        )
    with psycopg.connect(lasting_databases.master_dsn) as master:
        master.execute("delete from tenants where slug <> 'acme'")
        master.execute("update tenants set status = 'active'")
    return lasting_databases


@pytest.fixture
async def database(databases: MasterAndTenant) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection to the tenant `acme`, not in autocommit mode."""
    async with await connect(databases.tenant_dsn, application="test") as connection:
        yield connection


@pytest.fixture
async def tenant_id(databases: MasterAndTenant) -> UUID:
    """The id of the tenant `acme`."""
    settings = Settings(database_url=databases.master_dsn)
    async with await connect(databases.master_dsn, application="test") as master:
        (tenant,) = await catalog.list_tenants(master, settings)
    return tenant.id


@pytest.fixture
async def pool() -> AsyncIterator[DatabasePool]:
    """What lends connections to the stores of a test; a database that failed is asked again at once."""
    opened = DatabasePool(8, retry_most_s=0.0)
    yield opened
    await opened.close()


@pytest.fixture
def store(pool: DatabasePool, databases: MasterAndTenant) -> Store:
    """The store of the tenant `acme`; pg_stat_activity calls it `test store`."""
    return Store(pool.database(databases.tenant_dsn, "test store"))


@pytest.fixture
async def stream(store: Store) -> Stream:
    """A stream that `store` has just become the owner of."""
    owner = Stream(store)
    await owner.claim()
    return owner
