"""engine.database_activity: one server's word for many databases, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest

from engine.database import with_database
from engine.database_activity import DatabaseActivity, Written
from engine.database_pool import Database, DatabasePool
from tests.servers.databases import Server

FRESH_S = 600.0


@pytest.fixture
async def pool() -> AsyncIterator[DatabasePool]:
    made = DatabasePool(2, retry_most_s=0.0)
    yield made
    await made.close()


@pytest.fixture
def dsn(any_server: Server, new_database: Callable[[str], str]) -> str:
    made = new_database(any_server.dsn)
    with psycopg.connect(made) as connection:
        connection.execute("create table plenty (number integer)")
    return made


@pytest.fixture
async def database(pool: DatabasePool, dsn: str) -> Database:
    return pool.database(dsn, "test activity")


async def written(activity: DatabaseActivity, database: Database) -> Written:
    async with database.connection() as connection:
        found = await activity.written(connection)
    assert found is not None
    return found


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await probe():  # noqa: ASYNC110  (what is probed is in the server)
            await asyncio.sleep(0.01)


async def test_where_nothing_was_written_nothing_changed(database: Database) -> None:
    activity = DatabaseActivity(0.0)

    async def stays() -> bool:
        before = await written(activity, database)
        return all([await activity.is_unchanged(database, before) for _ in range(3)])

    # The server itself writes now and then, when it analyzes a table.
    await until(stays)


@pytest.mark.parametrize(
    "change", ["insert into plenty values (1)", "create table another ()", "drop table plenty"]
)
async def test_what_somebody_else_wrote_is_a_change(database: Database, dsn: str, change: str) -> None:
    activity = DatabaseActivity(0.0)
    before = await written(activity, database)
    with psycopg.connect(dsn) as other:
        other.execute(change.encode())

    async def is_changed() -> bool:
        return not await activity.is_unchanged(database, before)

    await until(is_changed)


async def test_what_the_connection_itself_has_written_just_now_is_counted_before(database: Database) -> None:
    activity = DatabaseActivity(0.0)
    async with database.connection() as connection:
        for number in range(3):
            await connection.execute("insert into plenty values (%s)", [number])
        before = await activity.written(connection)
        assert before is not None
        inserted = before.counts[0]
        again = await activity.written(connection)
    assert again is not None
    assert again.counts[0] == inserted


async def test_one_answer_serves_every_database_of_the_server(
    pool: DatabasePool, database: Database, dsn: str
) -> None:
    activity = DatabaseActivity(FRESH_S)
    before = await written(activity, database)
    assert await activity.is_unchanged(database, before)
    # Asked over this one, the server would say that there is no such database.
    unreachable = pool.database(with_database(dsn, "there_is_no_such_database"), "test activity")
    assert await activity.is_unchanged(unreachable, before)


async def test_an_answer_from_before_the_catalog_was_read_is_asked_for_again(database: Database) -> None:
    activity = DatabaseActivity(FRESH_S)
    assert await activity.is_unchanged(database, await written(activity, database))
    async with database.connection() as connection:
        await connection.execute("insert into plenty values (1)")
        later = await activity.written(connection)
    assert await activity.is_unchanged(database, later)


async def test_what_is_not_known_may_have_changed(database: Database) -> None:
    activity = DatabaseActivity(0.0)
    before = await written(activity, database)
    assert not await activity.is_unchanged(database, None)
    elsewhere = Written(("another server", before.key[1]), before.counts, before.read_s)
    assert not await activity.is_unchanged(database, elsewhere)
