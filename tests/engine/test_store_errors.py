"""What a commit raises when the server is in trouble: which kind it is, and that the same commit works afterwards."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from engine.database import connect
from engine.database_pool import DatabasePool
from engine.errors import DatabaseRejected, DatabaseUnavailable
from engine.store import Store, Totals
from tests.engine.commits import Stream, batch_of, until_waiting
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]


async def test_a_lock_that_is_not_free_in_time_is_a_timeout(
    stream: Stream, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "begin; set local lock_timeout = '50ms'"
    monkeypatch.setattr("engine.store.commits.BEGIN", short)
    commit = stream.commit_of([stream.frame(batch_of(3))])
    for locked in ("lock table readings in access exclusive mode", "select from ingest_marks for update"):
        await database.execute(locked.encode())
        with pytest.raises(DatabaseUnavailable) as raised:
            await stream.commit(commit)
        assert (raised.value.sqlstate, raised.value.is_timeout) == ("55P03", True)
        await database.rollback()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_statement_that_takes_too_long_is_a_timeout(
    stream: Stream, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.commits.BEGIN", "begin; set local statement_timeout = '50ms'")
    await database.execute("lock table readings in access exclusive mode")
    commit = stream.commit_of([stream.frame(batch_of(3))])
    with pytest.raises(DatabaseUnavailable) as raised:
        await stream.commit(commit)
    assert (raised.value.sqlstate, raised.value.is_timeout) == ("57014", True)
    await database.rollback()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_deadlock_is_a_conflict(
    stream: Stream, databases: MasterAndTenant, database: Database
) -> None:
    commit = stream.commit_of([stream.frame(batch_of(3))])
    await database.execute("set deadlock_timeout = '10min'")  # so that the other side is the one to find it
    await database.execute("select from ingest_marks for update")
    storing = asyncio.create_task(stream.commit(commit))
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await until_waiting(server)
    locking = asyncio.create_task(database.execute("lock table readings in access exclusive mode"))
    with pytest.raises(DatabaseUnavailable) as raised:
        await storing
    assert (raised.value.sqlstate, raised.value.is_conflict) == ("40P01", True)
    await locking
    await database.rollback()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_serialization_failure_is_a_conflict(
    stream: Stream, databases: MasterAndTenant, database: Database, pool: DatabasePool
) -> None:
    """With a database whose default is repeatable read; the mark is moved between its snapshot and its lock."""
    commit = stream.commit_of([stream.frame(batch_of(3))])
    name = database.info.dbname
    await database.execute(f"alter database {name} set default_transaction_isolation = 'repeatable read'")
    await database.commit()
    try:
        await database.execute("update ingest_marks set updated_at = now()")
        fresh = Store(pool.database(databases.tenant_dsn, "test store"))
        storing = asyncio.create_task(fresh.commit(commit))
        async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
            await until_waiting(server)
        await database.commit()
        with pytest.raises(DatabaseUnavailable) as raised:
            await storing
        assert (raised.value.sqlstate, raised.value.is_conflict) == ("40001", True)
    finally:
        await database.rollback()
        await database.execute(f"alter database {name} reset default_transaction_isolation")
        await database.commit()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_database_that_became_read_only_is_unavailable(
    stream: Stream, databases: MasterAndTenant, database: Database, pool: DatabasePool
) -> None:
    commit = stream.commit_of([stream.frame(batch_of(3))])
    name = database.info.dbname
    await database.execute(f"alter database {name} set default_transaction_read_only = on")
    await database.commit()
    fresh = Store(pool.database(databases.tenant_dsn, "fresh"))
    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            await fresh.commit(commit)
        assert raised.value.sqlstate == "25006"
    finally:
        await database.execute("set transaction read write")
        await database.execute(f"alter database {name} reset default_transaction_read_only")
        await database.commit()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_role_that_may_not_write_any_more_holds_the_stream_and_nothing_is_lost(
    stream: Stream, databases: MasterAndTenant, database: Database, pool: DatabasePool
) -> None:
    await database.execute("create role weak login password 'weak'; grant select on ingest_marks to weak")
    await database.commit()
    parts = urlsplit(databases.tenant_dsn)
    host = parts.netloc.rpartition("@")[2]
    weak = Store(pool.database(parts._replace(netloc=f"weak:weak@{host}").geturl(), "weak"))
    commit = stream.commit_of([stream.frame(batch_of(3))])
    try:
        with pytest.raises(DatabaseRejected) as raised:
            await weak.commit(commit)
        assert raised.value.sqlstate == "42501"
    finally:
        await database.execute("drop owned by weak; drop role weak")
        await database.commit()
    assert (await stream.commit(commit)).totals == Totals(3, 0)


async def test_a_password_that_was_changed_is_unavailable_for_it_may_be_told_to_us(
    stream: Stream, databases: MasterAndTenant, database: Database, pool: DatabasePool
) -> None:
    await database.execute("create role rotated login superuser password 'old'")
    await database.commit()
    parts = urlsplit(databases.tenant_dsn)
    host = parts.netloc.rpartition("@")[2]
    dsns = [parts._replace(netloc=f"rotated:{word}@{host}").geturl() for word in ("old", "new")]
    commit = stream.commit_of([stream.frame(batch_of(3))])
    rotated = pool.database(dsns[0], "rotated")
    try:
        await Store(rotated).check()
        await rotated.close()
        await database.execute("alter role rotated password 'new'")
        await database.commit()
        with pytest.raises(DatabaseUnavailable):
            await Store(rotated).commit(commit)
        rotated.renew(dsns[1])
        assert (await Store(rotated).commit(commit)).totals == Totals(3, 0)
    finally:
        await rotated.close()
        await pool.close()
        await database.execute("drop role rotated")
        await database.commit()


async def test_a_commit_that_is_answered_by_rollback_is_no_commit(stream: Stream, database: Database) -> None:
    """What a server says that was told to commit a transaction which had failed."""
    commit = stream.commit_of([stream.frame(batch_of(3))])
    session = "engine.store.session.Session.simple"
    with pytest.MonkeyPatch.context() as patched:
        from engine.store.session import Session

        honest = Session.simple

        async def rolls_back(self: Session, statements: str) -> Any:
            return await honest(self, statements.replace("; commit", "; rollback"))

        patched.setattr(session, rolls_back)
        with pytest.raises(DatabaseUnavailable, match="the answer to commit was ROLLBACK"):
            await stream.commit(commit)
    assert (await stream.commit(commit)).totals == Totals(3, 0)
