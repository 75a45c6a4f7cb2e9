"""The write side on real servers: a batch is there whole or not at all, and every failure can be told from success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest

from engine.database import connect
from engine.errors import DatabaseNotMigrated, DatabaseRejected, DatabaseUnavailable
from engine.readings import Batch, Kind
from engine.store import StorageMode, Store
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant, Server

BASE_US = 1_780_000_000_000_000
Database = psycopg.AsyncConnection[Any]


@pytest.fixture
async def store(databases: MasterAndTenant) -> AsyncIterator[Store]:
    opened = Store(databases.tenant_dsn, "test store")
    yield opened
    await opened.close()


@pytest.fixture
async def proxy(databases: MasterAndTenant) -> AsyncIterator[CuttingProxy]:
    parts = urlsplit(databases.tenant_dsn)
    assert parts.hostname, "the server of this test must be reached over TCP"
    started = await CuttingProxy.start(parts.hostname, parts.port or 5432)
    yield started
    await started.stop()


@pytest.fixture
async def proxied_store(proxy: CuttingProxy, databases: MasterAndTenant) -> AsyncIterator[Store]:
    parts = urlsplit(databases.tenant_dsn)
    login = parts.netloc.rpartition("@")[0]
    opened = Store(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl(), "test store")
    yield opened
    await opened.close()


def batch_of(rows: int, **columns: Any) -> Batch:
    made: dict[str, Any] = {
        "ts_us": BASE_US + np.arange(rows, dtype=np.int64),
        "tag_id": np.ones(rows, np.int32),
        "status": np.zeros(rows, np.uint32),
        "value": np.arange(rows, dtype=np.float64),
        "kind": np.full(rows, Kind.NUMBER, np.uint8),
    }
    return Batch(**(made | columns))


async def count(database: Database) -> int:
    await database.rollback()
    (found,) = await (await database.execute("select count(*) from readings")).fetchall()
    stored: int = found[0]
    return stored


async def test_every_column_is_stored_as_it_was_given(store: Store, database: Database) -> None:
    await store.write(
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


async def test_nan_and_infinities_are_stored_as_values(store: Store, database: Database) -> None:
    await store.write(batch_of(3, value=np.array([np.nan, np.inf, -np.inf])))
    rows = await (await database.execute("select value::text from readings order by ts")).fetchall()
    assert rows == [("NaN",), ("Infinity",), ("-Infinity",)]


async def test_a_text_that_cannot_be_stored_as_it_is_does_not_hold_up_the_batch(
    store: Store, database: Database
) -> None:
    await store.write(batch_of(2, kind=np.full(2, Kind.TEXT, np.uint8), texts={0: "a\0b", 1: "c"}))
    assert await count(database) == 2


async def test_a_batch_without_rows_needs_no_database() -> None:
    await Store("postgresql://127.0.0.1:1/nowhere", "test").write(batch_of(0))


async def test_batches_of_every_size_are_stored_whole(store: Store, database: Database) -> None:
    sizes = (1, 2, 999, 10_000, 100_000)
    for size in sizes:
        await store.write(batch_of(size))
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
    any_server: Server, new_database: Any
) -> None:
    store = Store(new_database(any_server.dsn), "test store")
    for attempt in (store.check(), store.write(batch_of(1))):
        with pytest.raises(
            DatabaseNotMigrated,
            match=r"tables are missing: readings, .*, reading_quarantine; scada-engine migrate",
        ):
            await attempt


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        await Store("postgresql://127.0.0.1:1/nowhere", "test").write(batch_of(1))


async def test_a_batch_is_committed_before_write_returns_even_if_the_role_says_otherwise(
    store: Store, databases: MasterAndTenant, database: Database
) -> None:
    """The transaction is watched through a trigger: its own setting, not the session's."""
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
        await store.write(batch_of(1))
        rows = await (await database.execute("select setting from seen")).fetchall()
        assert rows == [("on",)]
        assert await count(database) == 1
    finally:
        await database.execute("drop trigger see on readings")
        await database.execute("drop function see; drop table seen")
        await database.execute(f"alter database {database.info.dbname} reset synchronous_commit")
        await database.commit()


async def test_a_row_that_the_database_refuses_stores_none_of_its_batch_and_the_next_one_works(
    store: Store, database: Database
) -> None:
    await database.execute("alter table readings add constraint only_small check (value < 50)")
    await database.commit()
    try:
        with pytest.raises(DatabaseRejected, match=r"batch of 100 readings.*only_small") as raised:
            await store.write(batch_of(100))
        assert raised.value.sqlstate == "23514"
        assert await count(database) == 0
        await store.write(batch_of(50))
        assert await count(database) == 50
    finally:
        await database.rollback()
        await database.execute("alter table readings drop constraint only_small")
        await database.commit()


async def test_a_time_that_no_database_can_hold_is_refused(store: Store, database: Database) -> None:
    with pytest.raises(DatabaseRejected, match="2 readings cannot be encoded"):
        await store.write(batch_of(2, ts_us=np.array([BASE_US, -(2**63)], np.int64)))
    assert await count(database) == 0


async def test_a_connection_that_the_server_ends_is_replaced_for_the_next_batch(
    store: Store, databases: MasterAndTenant, database: Database
) -> None:
    await store.write(batch_of(1))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'test store'"
        )
    with pytest.raises(DatabaseUnavailable):
        await store.write(batch_of(1))
    await store.write(batch_of(1))
    assert await count(database) == 2


async def test_one_connection_is_kept_for_all_batches(store: Store, databases: MasterAndTenant) -> None:
    pids = set()
    for _ in range(5):
        await store.write(batch_of(1))
        async with await connect(databases.server.dsn, application="test") as server:
            query = "select pid from pg_stat_activity where application_name = 'test store'"
            pids |= set(await (await server.execute(query)).fetchall())
    assert len(pids) == 1


async def test_a_cancelled_write_stores_nothing_and_the_next_one_works(
    store: Store, database: Database, databases: MasterAndTenant
) -> None:
    await store.check()
    await database.execute("lock table readings in access exclusive mode")
    writing = asyncio.create_task(store.write(batch_of(10)))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await until_waiting(server)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert await count(database) == 0
    await store.write(batch_of(10))
    assert await count(database) == 10


async def until_waiting(server: Database) -> None:
    """Return once the store waits for a lock."""
    query = """
        select from pg_stat_activity where application_name = 'test store' and wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while (await server.execute(query)).rowcount == 0:  # noqa: ASYNC110  (another process decides)
            await asyncio.sleep(0.01)


async def test_a_check_and_a_write_at_once_do_not_disturb_each_other(
    store: Store, database: Database
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(store.write(batch_of(100)))
            tasks.create_task(store.check())
    assert await count(database) == 500


async def test_a_connection_reset_in_the_middle_of_a_copy_stores_nothing(
    proxy: CuttingProxy, proxied_store: Store, databases: MasterAndTenant, database: Database
) -> None:
    await proxied_store.check()
    await database.execute("lock table readings in access exclusive mode")
    writing = asyncio.create_task(proxied_store.write(batch_of(10_000)))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await until_waiting(server)
    proxy.cut()
    with pytest.raises(DatabaseUnavailable):
        await writing
    assert await count(database) == 0
    await proxied_store.write(batch_of(10))
    assert await count(database) == 10


async def test_a_connection_lost_during_the_commit_is_unavailable_whatever_became_of_it(
    proxy: CuttingProxy, proxied_store: Store, database: Database
) -> None:
    """The answer to COMMIT is swallowed: the batch is there, and the caller cannot know."""
    await proxied_store.check()

    def cut_at_commit(data: bytes) -> bytes:
        if b"COMMIT\0" in data:
            proxy.cut()
            return b""
        return data

    proxy.tamper = cut_at_commit
    with pytest.raises(DatabaseUnavailable):
        await proxied_store.write(batch_of(10))
    proxy.tamper = None
    assert await count(database) == 10
    await proxied_store.write(batch_of(10))
    assert await count(database) == 20


async def test_a_server_that_stops_answering_is_unavailable_after_the_time_limit(
    proxy: CuttingProxy, proxied_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxied_store.check()
    monkeypatch.setattr("engine.store.session._ANSWER_S", 0.2)
    proxy.pause()
    # psycopg would try to cancel the query for 10 seconds more.
    asyncio.get_running_loop().call_later(0.5, proxy.resume)
    with pytest.raises(DatabaseUnavailable, match=r"no answer in 0\.2 seconds"):
        await proxied_store.write(batch_of(10))
    monkeypatch.setattr("engine.store.session._ANSWER_S", 10)
    await proxied_store.write(batch_of(10))
