"""Over a hundred databases on one server, and eight connections for all of them; what rides along with another use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg

from engine.cancelling import cancel_all
from engine.database import connect, with_database
from engine.database_pool import Database, DatabasePool, Priority
from engine.migrations import Progress, Target, Which, migrate_all
from engine.store import Store
from tests.engine.commits import Stream, batch_of
from tests.servers.many_tenants import many_tenants

if TYPE_CHECKING:
    from collections.abc import Callable
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


async def test_who_is_patient_gets_the_connection_that_somebody_gives_back_before_it_is_closed(
    embedded_dsn: str, new_database: Callable[[str], str]
) -> None:
    pool = DatabasePool(1, retry_most_s=0.0)
    database = pool.database(new_database(embedded_dsn), APPLICATION)
    other = pool.database(new_database(embedded_dsn), APPLICATION)
    order: list[str] = []

    async def patient() -> None:
        async with database.returned_connection(20.0) as returned:
            order.append("patient")
            assert returned is lent

    async def next_one() -> None:
        async with other.connection():
            order.append("other")

    async with asyncio.TaskGroup() as tasks, database.connection(Priority.WRITE) as lent:
        for waiting in (next_one, patient):
            tasks.create_task(waiting())
            await asyncio.sleep(0)
    assert order == ["patient", "other"]
    await pool.close()


async def test_patience_ends_with_what_lies_idle_or_with_nothing_and_opens_none(
    embedded_dsn: str, new_database: Callable[[str], str]
) -> None:
    pool = DatabasePool(1, retry_most_s=0.0)
    database = pool.database(new_database(embedded_dsn), APPLICATION)
    async with database.returned_connection(0.01) as returned:
        assert returned is None
    async with database.connection() as lent:
        pass
    async with database.returned_connection(0.01, kept=False) as returned:
        assert returned is None
    async with database.returned_connection(0.01) as returned:
        assert returned is lent
    await pool.close()


async def test_patience_that_is_cancelled_loses_no_connection(
    embedded_dsn: str, new_database: Callable[[str], str]
) -> None:
    pool = DatabasePool(1, retry_most_s=0.0)
    database = pool.database(new_database(embedded_dsn), APPLICATION)

    async def patient() -> None:
        async with database.returned_connection(20.0):
            raise AssertionError("it was cancelled before")

    async with database.connection() as lent:
        waiting = asyncio.create_task(patient())
        await asyncio.sleep(0)
    # It has been given the connection, and has not gone on yet.
    await cancel_all(waiting)
    async with database.connection() as again:
        assert again is lent
    await pool.close()


async def test_a_tenant_that_cannot_be_migrated_is_told_and_all_others_are_done(
    embedded_dsn: str,
) -> None:
    with many_tenants(embedded_dsn, 12, migrated=False) as many:
        targets = [Target(slug, dsn, Which.TENANT) for slug, dsn in many.tenants.items()]
        away = Target("away", with_database(embedded_dsn, "there_is_no_such_database"), Which.TENANT)
        with psycopg.connect(many.tenants["tenant-3"]) as connection:
            connection.execute("create table wells (mine integer)")

        async def tenants() -> list[Target]:
            return [*targets[:7], away, *targets[7:]]

        told: list[Progress] = []
        outcomes = await migrate_all(many.master_dsn, tenants, parallel=4, progress=told.append)
        errors = {outcome.label: str(outcome.error) for outcome in outcomes if outcome.error}
        assert errors.keys() == {"away", "tenant-3"}
        assert "there_is_no_such_database" in errors["away"]
        assert "wells" in errors["tenant-3"]
        done = {outcome.label for outcome in outcomes if outcome.applied and not outcome.error}
        assert done == {target.label for target in targets} - {"tenant-3"}
        assert (told[-1].databases, told[-1].finished, told[-1].failed) == (14, 14, 2)
        # A second run takes up what failed, once it can be done.
        with psycopg.connect(many.tenants["tenant-3"]) as connection:
            connection.execute("drop table wells")
        again = await migrate_all(many.master_dsn, tenants)
        assert [outcome.label for outcome in again if outcome.applied] == ["tenant-3"]


async def test_a_read_that_waits_long_goes_before_writes_that_come_later(
    embedded_dsn: str, new_database: Callable[[str], str]
) -> None:
    now_s = 0.0
    pool = DatabasePool(1, retry_most_s=0.0, now_s=lambda: now_s)
    databases = [pool.database(new_database(embedded_dsn), APPLICATION) for _ in range(4)]
    order: list[str] = []

    async def use(database: Database, priority: Priority, name: str) -> None:
        async with database.connection(priority):
            order.append(name)

    async with asyncio.TaskGroup() as tasks, databases[0].connection():
        tasks.create_task(use(databases[1], Priority.READ, "read"))
        await asyncio.sleep(0)
        tasks.create_task(use(databases[2], Priority.WRITE, "write soon after"))
        await asyncio.sleep(0)
        now_s = 30.0
        tasks.create_task(use(databases[3], Priority.WRITE, "write much later"))
        await asyncio.sleep(0)
        assert databases[0].is_short
    assert order == ["write soon after", "read", "write much later"]
    await pool.close()
