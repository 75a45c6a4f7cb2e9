"""A second connection for somebody who has one: only if enough are left for others, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from engine.database_pool import DatabasePool, NoSpareConnection, Priority
from tests.engine.test_database_pool import APPLICATION, NewDatabase, number_of, pid_of, turns
from tests.servers.databases import Server

NewPool = Callable[[int], DatabasePool]


@pytest.fixture
async def new_pool() -> AsyncIterator[NewPool]:
    """A function that makes a pool of so many connections; closed after the test."""
    made: list[DatabasePool] = []

    def make(most: int) -> DatabasePool:
        made.append(DatabasePool(most, retry_most_s=0.0))
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def test_a_second_connection_is_lent_at_once_while_a_quarter_of_them_stays_free(
    any_server: Server, new_pool: NewPool
) -> None:
    database = new_pool(4).database(any_server.dsn, APPLICATION)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(database.connection(Priority.SPARE))
        with pytest.raises(NoSpareConnection):
            await pid_of(database, Priority.SPARE)
        assert await pid_of(database, Priority.WRITE) > 0
    assert not database.breaker.is_open


async def test_a_second_connection_is_refused_while_anybody_waits_for_a_first(
    any_server: Server, new_pool: NewPool
) -> None:
    pool = new_pool(1)
    database, other = (pool.database(any_server.dsn, APPLICATION) for _ in range(2))
    async with database.connection(Priority.WRITE):
        first = asyncio.create_task(pid_of(other))
        await turns()
        with pytest.raises(NoSpareConnection):
            await pid_of(database, Priority.SPARE)
        assert not first.done()
    assert await first > 0


async def test_a_second_connection_takes_the_place_of_one_that_lies_idle(
    any_server: Server, new_database: NewDatabase, new_pool: NewPool
) -> None:
    pool = new_pool(2)
    database = pool.database(any_server.dsn, APPLICATION)
    idle = pool.database(new_database(any_server.dsn), APPLICATION)
    before = await pid_of(idle)
    async with database.connection(Priority.WRITE), database.connection(Priority.SPARE):
        assert await number_of(any_server.dsn) == 2
    assert await pid_of(idle) != before
