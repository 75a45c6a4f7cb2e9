"""Commits of one stream that are under way at once are made in their order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest

from engine.database import connect
from engine.database_pool import DatabasePool
from engine.errors import StreamTakenOver
from engine.readings import Batch
from engine.store import Commit, Lane, MarkMoved, NotItsTurn, Store, Totals
from tests.engine.commits import BASE_US, Stream, batch_of
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]
HALF_A_DAY_US = 43_200_000_000


@pytest.fixture
async def server(databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A connection to the tenant in autocommit mode."""
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as connection:
        yield connection


@pytest.fixture
def before() -> asyncio.Future[None]:
    """What the second commit waits for."""
    return asyncio.get_event_loop().create_future()


def row(value: float, ts_us: int = BASE_US) -> Batch:
    """Return one row of tag 1."""
    return batch_of(1, value=np.array([value], np.float64), ts_us=np.array([ts_us], np.int64))


def two_commits(stream: Stream, first: Batch, second: Batch) -> tuple[Commit, Commit]:
    one, two = stream.commit_of([stream.frame(first)]), stream.commit_of([stream.frame(second)])
    return one, replace(two, lane=Lane(one.lane.after, one.end))


async def stored(server: Database) -> list[float]:
    rows = await (await server.execute("select value from readings order by value")).fetchall()
    return [value for (value,) in rows]


async def until_copied(server: Database) -> None:
    """Return once a commit of the test's store has copied its rows and waits for its turn."""
    query = (
        "select from pg_stat_activity where application_name = 'test store' and state = 'idle in transaction'"
        " and query not like 'begin%'"
    )
    async with asyncio.timeout(10):
        while (await server.execute(query)).rowcount == 0:  # noqa: ASYNC110  (another process decides)
            await asyncio.sleep(0.01)


async def test_a_commit_copies_while_the_one_before_is_not_made_and_is_made_after_it(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    first, second = two_commits(stream, row(1), row(2))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    await until_copied(server)
    assert await stored(server) == []
    assert (await stream.store.commit(first)).totals == Totals(1, 0)
    assert await stored(server) == [1.0]
    before.set_result(None)
    committed = await following
    assert (committed.lanes, committed.totals) == ((Lane(0, second.end),), Totals(2, 0))
    assert await stored(server) == [1.0, 2.0]


async def test_a_commit_whose_turn_has_come_already_is_made_at_once(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    first, second = two_commits(stream, row(1), row(2))
    await stream.store.commit(first)
    before.set_result(None)
    assert (await stream.store.commit(second, before=before)).totals == Totals(2, 0)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("failure", [None, ValueError("the disk is gone")])
async def test_a_commit_is_not_made_when_the_one_before_is_not(
    stream: Stream,
    server: Database,
    before: asyncio.Future[None],
    failure: Exception | None,
    early: bool,
) -> None:
    first, second = two_commits(stream, row(1), row(2))

    def end() -> None:
        before.cancel() if failure is None else before.set_exception(failure)

    if early:
        end()
    following = asyncio.create_task(stream.store.commit(second, before=before))
    if not early:
        await until_copied(server)
        end()
    with pytest.raises(NotItsTurn, match="given up" if failure is None else "failed: the disk is gone"):
        await following
    assert await stored(server) == []
    await stream.store.commit(first)
    assert (await stream.store.commit(second)).totals == Totals(2, 0)
    connections = await server.execute("select from pg_stat_activity where application_name = 'test store'")
    assert connections.rowcount == 1


async def test_a_commit_that_waits_is_cancelled_and_leaves_what_it_waited_for_alone(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    _, second = two_commits(stream, row(1), row(2))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    await until_copied(server)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert not before.done()
    assert await stored(server) == []


async def test_a_new_owner_does_not_wait_for_commits_that_wait_and_those_store_nothing(
    stream: Stream,
    server: Database,
    databases: MasterAndTenant,
    pool: DatabasePool,
    before: asyncio.Future[None],
) -> None:
    _, second = two_commits(stream, row(1), row(2))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    await until_copied(server)
    other = Stream(Store(pool.database(databases.tenant_dsn, "other")), stream.id)
    assert (await other.claim()).lanes == (Lane(0, 0),)
    before.set_result(None)
    with pytest.raises(StreamTakenOver):
        await following
    assert await stored(server) == []


async def test_a_commit_is_not_made_before_one_that_the_database_lost(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    """The one before was made, as its owner saw it; the database has it no more."""
    _, second = two_commits(stream, row(1), row(2))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    await until_copied(server)
    before.set_result(None)
    with pytest.raises(MarkMoved) as raised:
        await following
    assert raised.value.lanes == (Lane(0, 0),)
    assert await stored(server) == []


async def test_rows_that_the_database_refuses_are_searched_for_before_it_is_the_commits_turn(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    await server.execute("alter table readings add constraint not_3 check (value <> 3)")
    try:
        first, second = two_commits(stream, row(10), batch_of(8))
        following = asyncio.create_task(stream.store.commit(second, before=before))
        await until_copied(server)
        assert (await stream.store.commit(first)).totals == Totals(1, 0)
        before.set_result(None)
        assert (await following).totals == Totals(8, 1)
    finally:
        await server.execute("alter table readings drop constraint not_3")
    assert await stored(server) == [0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 10.0]


async def test_a_commit_that_waits_gives_way_to_the_one_that_it_waits_for(
    stream: Stream, server: Database, before: asyncio.Future[None]
) -> None:
    """The second one has made the chunk of the day after; the first one needs it, too."""
    first, second = two_commits(stream, row(1, BASE_US + HALF_A_DAY_US), row(2, BASE_US + HALF_A_DAY_US + 1))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    await until_copied(server)
    async with asyncio.timeout(5):  # less than any time limit of the database's
        await stream.store.commit(first)
    before.set_result(None)
    assert (await following).totals == Totals(2, 0)
    assert await stored(server) == [1.0, 2.0]


async def test_a_commit_that_waits_is_not_ended_for_lying_idle(
    stream: Stream, server: Database, before: asyncio.Future[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = "begin; set local idle_in_transaction_session_timeout = '500ms'"
    monkeypatch.setattr("engine.store.commits.BEGIN", begin)
    first, second = two_commits(stream, row(1), row(2))
    following = asyncio.create_task(stream.store.commit(second, before=before))
    old = (
        "select from pg_stat_activity where application_name = 'test store'"
        " and state = 'idle in transaction' and clock_timestamp() - xact_start > interval '1500 ms'"
    )
    async with asyncio.timeout(10):
        while (await server.execute(old)).rowcount == 0:
            assert not following.done()
            await asyncio.sleep(0.01)
    await stream.store.commit(first)
    before.set_result(None)
    assert (await following).totals == Totals(2, 0)


@pytest.mark.parametrize("lost", [False, True])
async def test_of_the_same_commit_twice_at_once_one_is_made_and_both_are_answered(
    stream: Stream, server: Database, lost: bool
) -> None:
    """As when the first try's connection was given up and the server has not noticed. `lost`: the stream's row."""
    commit = stream.commit_of([stream.frame(batch_of(10))])
    if lost:
        await server.execute("truncate ingest_marks")
    both = await asyncio.gather(stream.store.commit(commit), stream.store.commit(commit))
    assert {(each.lanes, each.totals) for each in both} == {((Lane(0, commit.end),), Totals(10, 0))}
    assert len(await stored(server)) == 10
