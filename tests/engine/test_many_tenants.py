"""Over a hundred databases on one server, and eight connections for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg

from engine.database import connect
from engine.database_pool import DatabasePool
from engine.store import Store
from tests.engine.commits import Stream, batch_of
from tests.servers.many_tenants import many_tenants

if TYPE_CHECKING:
    from typing import Any

TENANTS = 110
MOST = 8
COMMITS = 3
APPLICATION = "test many tenants"


async def test_every_tenant_commits_although_they_are_many_more_than_the_connections(
    embedded_dsn: str,
) -> None:
    with many_tenants(embedded_dsn, TENANTS) as many:
        pool = DatabasePool(MOST, retry_most_s=30.0)
        databases = [pool.database(dsn, APPLICATION) for dsn in many.tenants.values()]

        async def write(store: Store) -> None:
            stream = Stream(store)
            await stream.claim()
            for _ in range(COMMITS):
                await stream.store_batch(batch_of(10))

        async def read(store: Store) -> None:
            for _ in range(COMMITS):
                await store.check()

        seen = []
        async with (
            await connect(embedded_dsn, application="test observer", autocommit=True) as observer,
            asyncio.TaskGroup() as tasks,
        ):
            stores = [Store(database) for database in databases]
            working = [tasks.create_task(work(store)) for work in (write, read) for store in stores]
            while not all(task.done() for task in working):
                seen.append(await _connections(observer))
        assert max(seen) == MOST
        assert not any(database.breaker.is_open for database in databases)
        await pool.close()
        for dsn in many.tenants.values():
            with psycopg.connect(dsn) as connection:
                found = connection.execute("select count(*) from readings").fetchone()
            assert found == (10 * COMMITS,)


async def _connections(observer: psycopg.AsyncConnection[Any]) -> int:
    cursor = await observer.execute(
        "select count(*) from pg_stat_activity where application_name = %s", [APPLICATION]
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
