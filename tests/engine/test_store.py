"""The write side on real servers: a commit is there whole or not at all, and every failure can be told from success."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import psycopg
import pytest

from engine.database import connect
from engine.database_pool import DatabasePool
from engine.errors import DatabaseNotMigrated, DatabaseUnavailable
from engine.readings import Batch, Kind
from engine.store import StorageMode, Store, Totals
from tests.engine.commits import BASE_US, Stream, batch_of, until_waiting
from tests.servers.databases import MasterAndTenant, Server

Database = psycopg.AsyncConnection[Any]


async def count(database: Database) -> int:
    await database.rollback()
    (found,) = await (await database.execute("select count(*) from readings")).fetchall()
    stored: int = found[0]
    return stored


async def test_every_column_is_stored_as_it_was_given(stream: Stream, database: Database) -> None:
    await stream.store_batch(
        Batch(
            ts_us=np.array([BASE_US + 1, BASE_US, BASE_US + 2, BASE_US + 3], np.int64),
            tag_id=np.array([2, 1, 1, 3], np.int32),
            status=np.array([0, 0x80340000, 0x40000000, 0xFFFFFFFF], np.uint32),
            value=np.array([1.5, 99.0, -0.1, 2.0**60], np.float64),
            kind=np.array([Kind.NUMBER, Kind.NULL, Kind.TEXT, Kind.NUMBER | Kind.TEXT], np.uint8),
            texts={2: "открыт 'x' \\N\n", 3: "1152921504606846977"},
        )
    )
    rows = await (
        await database.execute(
            "select (extract(epoch from ts) * 1000000)::bigint, tag_id, status, value, text_value"
            " from readings order by ts"
        )
    ).fetchall()
    assert rows == [
        (BASE_US, 1, 0x80340000 - 2**32, None, None),
        (BASE_US + 1, 2, 0, 1.5, None),
        (BASE_US + 2, 1, 0x40000000, None, "открыт 'x' \\N\n"),
        (BASE_US + 3, 3, -1, 2.0**60, "1152921504606846977"),
    ]


async def test_frames_of_one_commit_are_stored_together_each_with_its_texts(
    stream: Stream, database: Database
) -> None:
    texts = [
        batch_of(2, kind=np.array([Kind.NUMBER, Kind.TEXT], np.uint8), texts={1: text}, ts_us=ts_us)
        for text, ts_us in (
            ("later", np.array([BASE_US + 5, BASE_US + 6])),
            ("earlier", np.array([BASE_US, BASE_US + 1])),
        )
    ]
    committed = await stream.store_batch(texts[0], batch_of(0), texts[1])
    assert committed.totals == Totals(4, 0)
    rows = await (await database.execute("select text_value from readings order by ts")).fetchall()
    assert rows == [(None,), ("earlier",), (None,), ("later",)]


async def test_nan_and_infinities_are_stored_as_values(stream: Stream, database: Database) -> None:
    await stream.store_batch(batch_of(3, value=np.array([np.nan, np.inf, -np.inf])))
    rows = await (await database.execute("select value::text from readings order by ts")).fetchall()
    assert rows == [("NaN",), ("Infinity",), ("-Infinity",)]


async def test_batches_of_every_size_are_stored_whole(stream: Stream, database: Database) -> None:
    sizes = (1, 2, 999, 10_000, 100_000)
    for size in sizes:
        committed = await stream.store_batch(batch_of(size))
    assert committed.totals == Totals(sum(sizes), 0)
    assert await count(database) == sum(sizes)


async def test_the_storage_mode_is_what_the_server_can_do(store: Store, databases: MasterAndTenant) -> None:
    assert store.mode is None
    await store.check()
    expected = {
        "timescale": (StorageMode.HYPERTABLE, StorageMode.COLUMNSTORE),
        "embedded": (StorageMode.PLAIN,),
    }
    assert store.mode in expected[databases.server.kind]


async def test_a_database_without_tables_is_named_not_migrated_until_it_is(
    any_server: Server, new_database: Any, pool: DatabasePool
) -> None:
    store = Store(pool.database(new_database(any_server.dsn), "test store"))
    for attempt in (store.check, Stream(store).claim):
        with pytest.raises(
            DatabaseNotMigrated,
            match=r"tables are missing: readings, .*, reading_quarantine; scada-engine migrate",
        ):
            await attempt()


async def test_a_server_that_is_not_there_is_unavailable(pool: DatabasePool) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        await Stream(Store(pool.database("postgresql://127.0.0.1:1/nowhere", "test"))).claim()


async def test_a_commit_is_on_disk_before_it_returns_even_if_the_database_says_otherwise(
    stream: Stream, database: Database
) -> None:
    """The transaction is watched through a trigger: its own settings, not the session's."""
    await database.execute("create table seen (setting text)")
    await database.execute(
        """
        create function see() returns trigger language plpgsql as
        $$ begin insert into seen values (current_setting('synchronous_commit')); return new; end $$
        """
    )
    await database.execute("create trigger see before insert on readings for each row execute function see()")
    await database.execute(f"alter database {database.info.dbname} set synchronous_commit = off")
    await database.commit()
    try:
        await stream.store_batch(batch_of(1))
        rows = await (await database.execute("select setting from seen")).fetchall()
        assert rows == [("on",)]
        assert await count(database) == 1
    finally:
        await database.execute("drop trigger see on readings")
        await database.execute("drop function see; drop table seen")
        await database.execute(f"alter database {database.info.dbname} reset synchronous_commit")
        await database.commit()


async def test_a_connection_that_the_server_ends_is_replaced_for_the_next_try(
    stream: Stream, databases: MasterAndTenant, database: Database
) -> None:
    await stream.store_batch(batch_of(1))
    await database.execute("lock table readings in access exclusive mode")
    commit = stream.commit_of([stream.frame(batch_of(1))])
    storing = asyncio.create_task(stream.commit(commit))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await until_waiting(server)
        await server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'test store'"
        )
    with pytest.raises(DatabaseUnavailable) as raised:
        await storing
    assert raised.value.sqlstate == "57P01"
    assert await count(database) == 1
    await stream.commit(commit)
    assert await count(database) == 2


async def test_one_connection_is_kept_for_all_commits(stream: Stream, databases: MasterAndTenant) -> None:
    pids = set()
    for _ in range(5):
        await stream.store_batch(batch_of(1))
        async with await connect(databases.server.dsn, application="test") as server:
            query = "select pid from pg_stat_activity where application_name = 'test store'"
            pids |= set(await (await server.execute(query)).fetchall())
    assert len(pids) == 1


async def test_a_cancelled_commit_stores_nothing_and_the_same_one_works_later(
    stream: Stream, database: Database, databases: MasterAndTenant
) -> None:
    await database.execute("lock table readings in access exclusive mode")
    commit = stream.commit_of([stream.frame(batch_of(10))])
    storing = asyncio.create_task(stream.commit(commit))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await until_waiting(server)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert await count(database) == 0
    await stream.commit(commit)
    assert await count(database) == 10


async def test_checks_and_commits_at_once_do_not_disturb_each_other(
    stream: Stream, store: Store, database: Database
) -> None:
    other = Stream(store)
    await other.claim()
    async with asyncio.TaskGroup() as tasks:
        for owner in (stream, other):
            tasks.create_task(owner.store_batch(batch_of(100)))
            tasks.create_task(store.check())
    assert await count(database) == 200
