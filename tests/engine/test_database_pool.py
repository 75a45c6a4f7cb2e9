"""engine.database_pool: few connections to a server, lent in order and given back, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from engine.database import connect, translated
from engine.database_pool import Database, DatabasePool, Priority
from engine.errors import ConfigurationError, DatabaseError, DatabaseRejected, DatabaseUnavailable
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import Server

APPLICATION = "test pool"
NewDatabase = Callable[[str], str]
Pool = Callable[..., DatabasePool]


@pytest.fixture
async def new_pool() -> AsyncIterator[Pool]:
    """A function that makes a pool; closed after the test, and all of its databases with it."""
    made: list[DatabasePool] = []

    def make(most: int = 4, **changed: Any) -> DatabasePool:
        made.append(DatabasePool(most, **({"retry_most_s": 0.0} | changed)))
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def pid_of(database: Database, priority: Priority = Priority.READ) -> int:
    """Return which process of the server answers."""
    async with database.connection(priority) as connection:
        return await _pid(connection)


async def _pid(connection: psycopg.AsyncConnection[Any]) -> int:
    with translated("cannot ask"):
        cursor = await connection.execute("select pg_backend_pid()")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def number_of(dsn: str, application: str = APPLICATION) -> int:
    """Return how many connections the server has of an application."""
    async with await connect(dsn, application="test observer", autocommit=True) as observer:
        return await _number(observer, application)


async def _number(observer: psycopg.AsyncConnection[Any], application: str = APPLICATION) -> int:
    cursor = await observer.execute(
        "select count(*) from pg_stat_activity where application_name = %s", [application]
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def until_number(dsn: str, wanted: int) -> None:
    async with asyncio.timeout(20):
        while await number_of(dsn) != wanted:  # noqa: ASYNC110  (what is probed is in the server)
            await asyncio.sleep(0.01)


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# Kept and closed


async def test_a_connection_is_kept_and_lent_again(any_server: Server, new_pool: Pool) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    assert await pid_of(database) == await pid_of(database)
    assert await number_of(any_server.dsn) == 1


async def test_a_connection_to_another_database_is_never_lent(
    any_server: Server, new_database: NewDatabase, new_pool: Pool
) -> None:
    pool = new_pool()
    names = [new_database(any_server.dsn) for _ in range(3)]
    for _ in range(2):
        for dsn in names:
            async with pool.database(dsn, APPLICATION).connection() as connection:
                assert connection.info.dbname == urlsplit(dsn).path[1:]


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
async def test_a_connection_whose_user_failed_is_closed(
    any_server: Server, new_pool: Pool, error: BaseException
) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    with pytest.raises(type(error)):
        async with database.connection() as connection:
            raise error
    assert connection.closed
    await until_number(any_server.dsn, 0)


async def test_a_connection_that_is_left_in_a_transaction_is_closed(
    any_server: Server, new_pool: Pool
) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    async with database.connection() as connection:
        await connection.execute("begin")
    assert connection.closed


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced_and_nobody_notices(
    any_server: Server, new_pool: Pool
) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    pid = await pid_of(database)
    async with await connect(any_server.dsn, application="test observer", autocommit=True) as other:
        await other.execute("select pg_terminate_backend(%s)", [pid])
        await until_number(any_server.dsn, 0)
    assert await pid_of(database) != pid


async def test_a_connection_that_lies_idle_is_closed_in_time(any_server: Server, new_pool: Pool) -> None:
    database = new_pool(idle_s=0.05).database(any_server.dsn, APPLICATION)
    pid = await pid_of(database)
    await until_number(any_server.dsn, 0)
    assert await pid_of(database) != pid
    await until_number(any_server.dsn, 0)


async def test_closing_a_database_closes_what_is_idle_now_and_the_others_when_they_come_back(
    any_server: Server, new_pool: Pool
) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    async with database.connection() as lent:
        await pid_of(database)
        await database.close()
        await until_number(any_server.dsn, 1)
        await lent.execute("select 1")
    await until_number(any_server.dsn, 0)


# How many


async def test_a_server_never_has_more_connections_than_the_cap(
    any_server: Server, new_database: NewDatabase, new_pool: Pool
) -> None:
    pool = new_pool(3)
    databases = [pool.database(new_database(any_server.dsn), APPLICATION) for _ in range(8)]
    most, done = 0, 0

    async def use(database: Database, work: int) -> None:
        nonlocal done
        async with database.connection(Priority(work % 2)) as connection:
            await connection.execute("select pg_sleep(0.005)")
        done += 1

    async with (
        await connect(any_server.dsn, application="test observer", autocommit=True) as observer,
        asyncio.TaskGroup() as tasks,
    ):
        working = [tasks.create_task(use(databases[work % 8], work)) for work in range(80)]
        while not all(task.done() for task in working):
            most = max(most, await _number(observer))
    assert done == 80
    assert most == 3


async def test_the_place_of_the_database_that_was_used_longest_ago_goes_to_another(
    any_server: Server, new_database: NewDatabase, new_pool: Pool
) -> None:
    pool = new_pool(2)
    old, recent, other = (pool.database(new_database(any_server.dsn), APPLICATION) for _ in range(3))
    before_old, before_recent = await pid_of(old), await pid_of(recent)
    await pid_of(other)
    assert await pid_of(recent) == before_recent
    assert await pid_of(old) != before_old


async def test_two_servers_have_a_cap_each(timescale_dsn: str, embedded_dsn: str, new_pool: Pool) -> None:
    pool = new_pool(1)
    async with AsyncExitStack() as stack:
        for dsn in (timescale_dsn, embedded_dsn):
            await stack.enter_async_context(pool.database(dsn, APPLICATION).connection())


async def test_a_server_that_has_none_left_is_asked_for_fewer_and_for_more_again_later(
    any_server: Server, new_pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0
    pool = new_pool(8, now_s=lambda: clock)
    with psycopg.connect(any_server.dsn, autocommit=True) as admin:
        admin.execute("create role few login password 'few' connection limit 2")
        try:
            database = pool.database(_as(any_server.dsn, "few", "few"), APPLICATION)
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await stack.enter_async_context(database.connection())
                for limit in (4, 2):
                    clock += 1
                    with pytest.raises(DatabaseUnavailable) as caught:
                        await pid_of(database)
                    assert caught.value.sqlstate == "53300"
                    assert pool.server(database.dsn).limit == limit
                # Now we wait in our own queue, and the server is not asked.
                clock += 1
                waiting = asyncio.create_task(pid_of(database))
                await turns()
                assert not waiting.done()
            await waiting
            limits = []
            for _ in range(4):
                clock += 58
                await pid_of(database)
                limits.append(pool.server(database.dsn).limit)
                clock += 2
                await pid_of(database)
                limits.append(pool.server(database.dsn).limit)
            assert limits == [2, 3, 3, 4, 4, 5, 5, 6]
            await database.close()
            await pool.close()
        finally:
            admin.execute("drop role few")
    warnings = [line for line in capsys.readouterr().out.splitlines() if "no connection left" in line]
    assert len(warnings) == 2
    assert "before=8" in warnings[0]
    assert "connections=4" in warnings[0]


# Who is next


async def test_who_waits_is_served_writes_first_and_then_in_order(any_server: Server, new_pool: Pool) -> None:
    pool = new_pool(1)
    database, other = (pool.database(any_server.dsn, APPLICATION) for _ in range(2))
    order: list[str] = []

    async def use(name: str, priority: Priority) -> None:
        async with (other if name.endswith("other") else database).connection(priority):
            order.append(name)

    async with asyncio.TaskGroup() as tasks, database.connection():
        for name in ("read 1", "read 2 other", "write 1 other", "read 3", "write 2"):
            priority = Priority.WRITE if name.startswith("write") else Priority.READ
            tasks.create_task(use(name, priority))
            await turns()
        assert order == []
    assert order == ["write 1 other", "write 2", "read 1", "read 2 other", "read 3"]


async def test_who_waits_can_be_cancelled_at_any_moment_and_no_place_is_lost(
    any_server: Server, new_database: NewDatabase, new_pool: Pool
) -> None:
    pool = new_pool(2)
    databases = [pool.database(new_database(any_server.dsn), APPLICATION) for _ in range(3)]
    for waits in range(30):
        users = [asyncio.create_task(pid_of(databases[number % 3])) for number in range(6)]
        for _ in range(waits):
            await asyncio.sleep(0)
        for user in users[::2]:
            user.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*users, return_exceptions=True), 60)
        assert all(isinstance(result, int) for result in ended[1::2]), ended
    async with AsyncExitStack() as stack:
        for database in databases[:2]:
            await asyncio.wait_for(stack.enter_async_context(database.connection()), 20)
        assert await number_of(any_server.dsn) == 2


async def test_a_place_that_is_given_and_cancelled_at_once_goes_to_the_next(
    any_server: Server, new_pool: Pool
) -> None:
    database = new_pool(1).database(any_server.dsn, APPLICATION)
    async with database.connection():
        first, second = (asyncio.create_task(pid_of(database)) for _ in range(2))
        await turns()
    # Leaving has given the connection to the first, who has not run since.
    first.cancel()
    assert await asyncio.wait_for(second, 20) > 0
    assert first.cancelled()


# When the database is away


async def test_a_database_that_is_away_is_not_asked_again_before_its_time(
    any_server: Server, new_pool: Pool
) -> None:
    target = urlsplit(any_server.dsn)
    assert target.port is not None
    proxy = await CuttingProxy.start("127.0.0.1", target.port)
    clock = 0.0
    try:
        pool = new_pool(retry_most_s=30.0, now_s=lambda: clock)
        database = pool.database(_at(any_server.dsn, proxy.port), APPLICATION)
        pid = await pid_of(database)
        proxy.refuse()
        with pytest.raises(DatabaseUnavailable):
            await pid_of(database)
        assert database.breaker.is_open
        await proxy.accept()
        if database.breaker.seconds_to_probe:
            with pytest.raises(DatabaseUnavailable):
                await pid_of(database)
        clock += 30
        assert await pid_of(database) != pid
        assert not database.breaker.is_open
    finally:
        await proxy.stop()


async def test_what_the_database_refuses_does_not_make_it_away(any_server: Server, new_pool: Pool) -> None:
    database = new_pool(retry_most_s=30.0).database(any_server.dsn, APPLICATION)

    async def divide() -> None:
        async with database.connection() as connection:
            with translated("cannot divide"):
                await connection.execute("select 1 / 0")

    with pytest.raises(DatabaseRejected):
        await divide()
    assert not database.breaker.is_open
    assert await pid_of(database) > 0


async def test_a_new_password_is_used_at_once(any_server: Server, new_pool: Pool) -> None:
    with psycopg.connect(any_server.dsn, autocommit=True) as admin:
        admin.execute("create role changing login password 'one'")
        try:
            pool = new_pool(retry_most_s=600.0)
            database = pool.database(_as(any_server.dsn, "changing", "wrong"), APPLICATION)
            failed: DatabaseError | None = None
            try:
                await pid_of(database)
            except DatabaseUnavailable as exc:
                failed = exc
            # The embedded server lets everybody in who comes from this machine.
            assert failed is None or failed.sqlstate == "28000"
            assert any_server.kind == "embedded" or failed is not None
            database.renew(_as(any_server.dsn, "changing", "one"))
            assert await pid_of(database) > 0
            await pool.close()
        finally:
            admin.execute("drop role changing")


async def test_connections_of_an_old_dsn_are_not_kept(any_server: Server, new_pool: Pool) -> None:
    database = new_pool().database(any_server.dsn, APPLICATION)
    idle = await pid_of(database)
    async with database.connection() as lent:
        assert await _pid(lent) == idle
        database.renew(any_server.dsn + "?keepalives=1")
    assert lent.closed
    assert await pid_of(database) != idle


async def test_a_dsn_that_cannot_be_read_is_the_callers_error(new_pool: Pool) -> None:
    database = new_pool().database("no dsn at all", APPLICATION)
    with pytest.raises(ConfigurationError):
        await pid_of(database)
    await database.close()


@pytest.mark.parametrize(
    ("alter", "state"),
    [
        ("alter role {role} password 'other'", "28000"),
        ("alter role {role} nologin", "28000"),
        ("alter role {role} connection limit 0", "53300"),
        ("drop role {role}", "28000"),
    ],
)
async def test_a_refused_login_has_the_sqlstate_that_libpq_keeps_to_itself(
    timescale_dsn: str, new_pool: Pool, alter: str, state: str
) -> None:
    role = Identifier("refused")
    with psycopg.connect(timescale_dsn, autocommit=True) as admin:
        admin.execute(SQL("create role {} login password 'one'").format(role))
        try:
            admin.execute(SQL(alter).format(role=role))
            with pytest.raises(DatabaseUnavailable) as caught:
                await pid_of(new_pool().database(_as(timescale_dsn, "refused", "one"), APPLICATION))
            assert caught.value.sqlstate == state
        finally:
            admin.execute(SQL("drop role if exists {}").format(role))


async def test_a_missing_database_has_the_sqlstate_that_libpq_keeps_to_itself(
    any_server: Server, new_pool: Pool
) -> None:
    dsn = urlunsplit(urlsplit(any_server.dsn)._replace(path="/no_such_database"))
    with pytest.raises(DatabaseUnavailable) as caught:
        await pid_of(new_pool().database(dsn, APPLICATION))
    assert caught.value.sqlstate == "3D000"


# Where the database is


async def test_a_name_is_resolved_at_each_connect(
    timescale_dsn: str, new_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = urlsplit(timescale_dsn)
    assert target.port is not None
    address, asked = "127.0.0.2", 0
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def moved(host: Any, port: Any, **how: Any) -> Any:
        nonlocal asked
        if host == "database.example":
            asked += 1
            host = address
        return await resolve(host, port, **how)

    monkeypatch.setattr(loop, "getaddrinfo", moved)
    password = f"{target.username}:{target.password}@"
    named = urlunsplit(target._replace(netloc=f"{password}database.example:{target.port}"))
    database = new_pool().database(named, APPLICATION)
    # Nobody listens there.
    with pytest.raises(DatabaseUnavailable, match=r"database\.example"):
        await pid_of(database)
    address = "127.0.0.1"
    assert await pid_of(database) > 0
    assert asked == 2


async def test_the_next_host_of_a_list_is_tried_when_the_first_is_away(
    timescale_dsn: str, new_pool: Pool
) -> None:
    target = urlsplit(timescale_dsn)
    password = f"{target.username}:{target.password}@"
    hosts = f"127.0.0.2:{target.port},127.0.0.1:{target.port}"
    listed = urlunsplit(target._replace(netloc=password + hosts))
    assert await pid_of(new_pool().database(listed, APPLICATION)) > 0


async def test_of_several_hosts_the_one_that_takes_writes_is_used(
    timescale_dsn: str, embedded_dsn: str, new_pool: Pool
) -> None:
    with (
        psycopg.connect(embedded_dsn, autocommit=True) as standby,
        psycopg.connect(timescale_dsn, autocommit=True) as primary,
    ):
        for server in (standby, primary):
            server.execute("create role moved login password 'moved'")
        try:
            standby.execute("alter role moved set default_transaction_read_only = on")
            ports = [urlsplit(dsn).port for dsn in (embedded_dsn, timescale_dsn)]
            hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
            pool = new_pool()
            database = pool.database(f"postgresql://moved:moved@{hosts}/postgres", APPLICATION)
            async with database.connection() as connection:
                assert connection.info.port == ports[1]
            await database.close()
            await pool.close()
        finally:
            for server in (standby, primary):
                server.execute("drop role moved")


def _as(dsn: str, user: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def _at(dsn: str, port: int) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password or ''}@127.0.0.1:{port}"))
