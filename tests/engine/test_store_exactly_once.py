"""A commit is stored once, however often it is sent: lost answers, lanes, owners, and a database that lost commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from engine.database_pool import DatabasePool
from engine.errors import DatabaseRejected, DatabaseUnavailable, StreamTakenOver
from engine.frames import sequence_of
from engine.gaps import Cause, GapChanges, Gaps
from engine.store import Lane, MarkMoved, Store, Totals
from tests.engine.commits import BASE_US, Stream, batch_of, into_new_lane, text_batch
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]


@pytest.fixture
async def proxy(databases: MasterAndTenant) -> AsyncIterator[CuttingProxy]:
    parts = urlsplit(databases.tenant_dsn)
    assert parts.hostname, "the server of this test must be reached over TCP"
    started = await CuttingProxy.start(parts.hostname, parts.port or 5432)
    yield started
    await started.stop()


@pytest.fixture
async def proxied(proxy: CuttingProxy, databases: MasterAndTenant, pool: DatabasePool) -> Stream:
    """A stream whose database is behind the proxy."""
    parts = urlsplit(databases.tenant_dsn)
    login = parts.netloc.rpartition("@")[0]
    dsn = parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl()
    owner = Stream(Store(pool.database(dsn, "test store")))
    await owner.claim()
    return owner


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    await database.rollback()
    return await (await database.execute(query.encode())).fetchall()


async def stored(database: Database) -> list[float]:
    return [value for (value,) in await rows(database, "select value from readings order by value")]


def values(*numbers: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(numbers, np.float64)


# Owners.


async def test_a_new_stream_begins_with_one_empty_lane(store: Store, database: Database) -> None:
    claim = await store.claim(uuid4(), 1)
    ((identity,),) = await rows(database, "select id from database_identity")
    assert (claim.epoch, claim.lanes, claim.totals) == (1, (Lane(0, 0),), Totals(0, 0))
    assert (claim.known, claim.database_id) == (False, identity)


async def test_each_owner_has_a_higher_epoch_and_at_least_the_one_that_it_asks_for(store: Store) -> None:
    stream = uuid4()
    claims = [await store.claim(stream, least) for least in (4, 1, 1, 20)]
    assert [claim.epoch for claim in claims] == [4, 5, 6, 20]
    assert [claim.known for claim in claims] == [False, True, True, True]


async def test_a_new_owner_knows_how_far_the_last_one_came(stream: Stream) -> None:
    await stream.store_batch(batch_of(3), text_batch("\0"))
    claim = await stream.claim()
    assert claim.lanes == (Lane(0, sequence_of(1, 2)),)
    assert claim.totals == Totals(3, 1)


async def test_an_owner_that_was_taken_over_stores_nothing_any_more(
    stream: Stream, databases: MasterAndTenant, pool: DatabasePool, database: Database
) -> None:
    await stream.store_batch(batch_of(1))
    other = Stream(Store(pool.database(databases.tenant_dsn, "other")), stream.id)
    await other.claim()
    with pytest.raises(
        StreamTakenOver, match=f"stream {stream.id} has been taken over: its epoch is 2, ours was 1"
    ):
        await stream.store_batch(batch_of(1))
    await other.store_batch(batch_of(5))
    assert len(await stored(database)) == 6


async def test_a_commit_and_a_claim_at_once_end_in_one_order_or_the_other(
    stream: Stream, database: Database
) -> None:
    commits = [stream.commit_of([stream.frame(batch_of(1))])]
    claiming = Stream(stream.store, stream.id)
    done = await asyncio.gather(stream.store.commit(commits[0]), claiming.claim(), return_exceptions=True)
    assert isinstance(done[0], StreamTakenOver) == (claiming.lanes == (Lane(0, 0),))
    assert len(await stored(database)) == (0 if isinstance(done[0], StreamTakenOver) else 1)


async def test_streams_of_one_database_do_not_know_of_each_other(stream: Stream, store: Store) -> None:
    other = Stream(store)
    await other.store_batch(batch_of(2))
    committed = await stream.store_batch(batch_of(1))
    assert committed.totals == Totals(1, 0)
    assert (await other.store_batch(batch_of(2))).totals == Totals(4, 0)


# The same commit once more.


async def test_a_commit_that_is_there_already_is_answered_and_not_stored_again(
    stream: Stream, database: Database
) -> None:
    gaps = Gaps(*(np.array([n]) for n in (0, 1, BASE_US, BASE_US + 1, Cause.OUTAGE)))
    commit = stream.commit_of(
        [stream.frame(batch_of(3), GapChanges(recorded=gaps)), stream.frame(text_batch("\0"))]
    )
    first = await stream.store.commit(commit)
    assert await stream.store.commit(commit) == first
    assert first.totals == Totals(3, 1)
    assert await stored(database) == [0.0, 1.0, 2.0]


async def test_of_a_commit_whose_first_frames_are_there_the_others_are_stored(
    stream: Stream, database: Database
) -> None:
    frames = [stream.frame(batch_of(1, value=values(n))) for n in range(4)]
    await stream.store.commit(stream.commit_of(frames[:2]))
    committed = await stream.commit(stream.commit_of(frames))
    assert committed.totals == Totals(4, 0)
    assert await stored(database) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("at", [b"begin; set local", b"copy readings", b"PGCOPY", b"; commit"])
async def test_a_connection_cut_at_any_step_leaves_a_commit_that_can_be_sent_again(
    proxied: Stream, proxy: CuttingProxy, database: Database, at: bytes, answered: bool
) -> None:
    """`answered`: the server gets all of the message and answers it, and we do not get the answer."""
    commit = proxied.commit_of([proxied.frame(batch_of(10)), proxied.frame(text_batch("\0"))])
    proxy.cut_at(at, answered=answered)
    with pytest.raises(DatabaseUnavailable):
        await proxied.commit(commit)
    assert proxy.has_cut
    is_there = answered and at == b"; commit"
    async with asyncio.timeout(10):
        while len(await stored(database)) != (10 if is_there else 0):  # noqa: ASYNC110  (the server is told late)
            await asyncio.sleep(0.01)
    committed = await proxied.commit(commit)
    assert committed.totals == Totals(10, 1)
    assert committed.lanes == (Lane(0, commit.end),)
    assert len(await stored(database)) == 10
    assert (await rows(database, "select count(*) from reading_quarantine")) == [(1,)]


async def test_a_connection_cut_while_rows_are_searched_for_leaves_nothing_behind(
    proxied: Stream, proxy: CuttingProxy, database: Database
) -> None:
    await database.execute("alter table readings add constraint not_3 check (value <> 3)")
    await database.commit()
    try:
        commit = proxied.commit_of([proxied.frame(batch_of(10))])
        proxy.cut_at(b"release savepoint", answered=True)
        with pytest.raises(DatabaseUnavailable):
            await proxied.commit(commit)
        assert await stored(database) == []
        assert (await proxied.commit(commit)).totals == Totals(9, 1)
    finally:
        await database.rollback()
        await database.execute("alter table readings drop constraint not_3")
        await database.commit()


async def test_a_server_that_stops_answering_is_a_timeout_after_the_limit(
    proxied: Stream, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.session._ANSWER_S", 0.2)
    commit = proxied.commit_of([proxied.frame(batch_of(10))])
    proxy.pause()
    # psycopg would try to cancel the query for 10 seconds more.
    asyncio.get_running_loop().call_later(0.5, proxy.resume)
    with pytest.raises(DatabaseUnavailable, match=r"no answer in 0\.2 seconds") as raised:
        await proxied.commit(commit)
    assert raised.value.is_timeout
    monkeypatch.setattr("engine.store.session._ANSWER_S", 10)
    assert (await proxied.commit(commit)).totals == Totals(10, 0)


# Lanes.


async def test_live_frames_go_into_a_lane_of_their_own_and_both_are_one_when_the_backlog_is_done(
    stream: Stream, database: Database
) -> None:
    backlog = [stream.frame(batch_of(1, value=values(n))) for n in range(3)]
    behind = backlog[-1].sequence
    live = [stream.frame(batch_of(1, value=values(n))) for n in (10, 11)]
    first = await stream.commit(into_new_lane(stream.commit_of(live[:1]), behind))
    assert first.lanes == (Lane(0, 0), Lane(behind, live[0].sequence))
    await stream.commit(stream.commit_of(backlog[:2]))
    assert stream.lanes[0] == Lane(0, backlog[1].sequence)
    second = await stream.commit(stream.commit_of(live[1:], lane=1))
    assert second.lanes[1] == Lane(behind, live[1].sequence)
    merged = await stream.commit(stream.commit_of(backlog[2:]))
    assert merged.lanes == (Lane(0, live[1].sequence),)
    assert merged.totals == Totals(5, 0)
    assert await stored(database) == [0.0, 1.0, 2.0, 10.0, 11.0]


async def test_a_lane_is_opened_once_however_often_its_first_commit_is_sent(
    stream: Stream, database: Database
) -> None:
    behind = stream.frame(batch_of(1)).sequence
    commit = into_new_lane(stream.commit_of([stream.frame(batch_of(1))]), behind)
    first = await stream.store.commit(commit)
    assert await stream.store.commit(commit) == first
    assert len(first.lanes) == 2
    assert len(await stored(database)) == 1


async def test_a_commit_into_a_lane_that_has_been_merged_meanwhile_goes_on_behind_its_mark(
    stream: Stream, database: Database
) -> None:
    """The answer to the commit that merged them was lost."""
    backlog = [stream.frame(batch_of(1, value=values(1)))]
    behind = backlog[-1].sequence
    live = [stream.frame(batch_of(1, value=values(n))) for n in (10, 11)]
    await stream.commit(into_new_lane(stream.commit_of(live[:1]), behind))
    before = stream.lanes
    await stream.store.commit(stream.commit_of(backlog))
    commit = stream.commit_of(live[1:], lane=1)
    assert commit.lane == before[1]
    committed = await stream.commit(commit)
    assert committed.lanes == (Lane(0, live[1].sequence),)
    assert await stored(database) == [1.0, 10.0, 11.0]


async def test_a_lane_that_nobody_opened_is_not_committed_into(stream: Stream, database: Database) -> None:
    behind = stream.frame(batch_of(1)).sequence
    commit = replace(into_new_lane(stream.commit_of([stream.frame(batch_of(1))]), behind), opens=False)
    with pytest.raises(MarkMoved) as raised:
        await stream.store.commit(commit)
    assert (raised.value.lanes, raised.value.totals) == ((Lane(0, 0),), Totals(0, 0))
    assert await stored(database) == []


async def test_a_commit_never_reaches_into_the_next_lane(stream: Stream, database: Database) -> None:
    frames = [stream.frame(batch_of(1, value=values(n))) for n in range(3)]
    await stream.store.commit(into_new_lane(stream.commit_of(frames[1:2]), frames[0].sequence))
    with pytest.raises(MarkMoved):
        await stream.store.commit(stream.commit_of(frames))
    assert await stored(database) == [1.0]


# A database that lost commits.


async def lose_commits(database: Database, mark: int | None) -> None:
    """Do what a failover does to a standby that was behind."""
    await database.rollback()
    await database.execute("truncate readings")
    if mark is None:
        await database.execute("truncate ingest_marks")
    else:
        await database.execute(
            "update ingest_marks set mark = array[%s::bigint], after = '{0}', readings = 0", [mark]
        )
    await database.commit()


async def test_a_mark_that_went_back_is_told_and_nothing_is_stored_before_what_is_missing(
    stream: Stream, database: Database
) -> None:
    frames = [stream.frame(batch_of(1, value=values(n))) for n in range(3)]
    await stream.commit(stream.commit_of(frames[:2]))
    await lose_commits(database, frames[0].sequence)
    with pytest.raises(MarkMoved, match="was committed up to") as raised:
        await stream.commit(stream.commit_of(frames[2:]))
    assert raised.value.lanes == (Lane(0, frames[0].sequence),)
    assert await stored(database) == []
    stream.lanes = raised.value.lanes
    await stream.commit(stream.commit_of(frames[1:]))
    assert await stored(database) == [1.0, 2.0]


async def test_a_stream_that_the_database_lost_altogether_begins_again_with_its_owner(
    stream: Stream, store: Store, database: Database
) -> None:
    await stream.claim(7)
    frames = [stream.frame(batch_of(1, value=values(n))) for n in range(2)]
    await stream.commit(stream.commit_of(frames[:1]))
    await lose_commits(database, None)
    with pytest.raises(MarkMoved) as raised:
        await stream.commit(stream.commit_of(frames[1:]))
    assert (raised.value.lanes, raised.value.totals) == ((Lane(0, 0),), Totals(0, 0))
    stream.lanes = raised.value.lanes
    committed = await stream.commit(stream.commit_of(frames))
    assert committed.totals == Totals(2, 0)
    assert (await store.claim(stream.id, 1)).epoch == 8


async def test_a_claim_that_the_database_lost_is_made_good_by_the_next_commit(
    stream: Stream, store: Store, database: Database
) -> None:
    await stream.claim(5)
    await database.execute("update ingest_marks set epoch = 4")
    await database.commit()
    await stream.store_batch(batch_of(1))
    assert (await store.claim(stream.id, 1)).epoch == 6


async def test_another_database_in_the_place_of_the_streams_own_gets_nothing(
    stream: Stream, database: Database
) -> None:
    commit = stream.commit_of([stream.frame(batch_of(1))])
    await database.execute("truncate ingest_marks")
    await database.execute("update database_identity set id = gen_random_uuid()")
    await database.commit()
    with pytest.raises(DatabaseRejected, match="this is another database than the stream's"):
        await stream.commit(commit)
    assert await stored(database) == []
