"""engine.database: what a PostgreSQL error becomes, against real servers that raise it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop

from engine.database import connect, is_same_database, place, translated, with_database
from engine.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseRejected,
    DatabaseUnavailable,
)
from tests.servers.databases import Server


@pytest.mark.parametrize(
    ("statement", "expected", "sqlstate"),
    [
        ("select * from no_such_table", DatabaseNotMigrated, "42P01"),
        ("select * from no_such_schema.t", DatabaseNotMigrated, "42P01"),
        ("select no_such_column from pg_class", DatabaseNotMigrated, "42703"),
        ("create table no_such_schema.t ()", DatabaseNotMigrated, "3F000"),
        ("select 1/0", DatabaseRejected, "22012"),
        ("select 'x'::int", DatabaseRejected, "22P02"),
        ("do $$ begin raise unique_violation; end $$", DatabaseRejected, "23505"),
        ("selec", DatabaseRejected, "42601"),
        ("do $$ begin raise 'odd' using errcode = 'ZZ999'; end $$", DatabaseRejected, "ZZ999"),
        ("do $$ begin raise serialization_failure; end $$", DatabaseUnavailable, "40001"),
        ("do $$ begin raise deadlock_detected; end $$", DatabaseUnavailable, "40P01"),
        ("do $$ begin raise disk_full; end $$", DatabaseUnavailable, "53100"),
        ("do $$ begin raise lock_not_available; end $$", DatabaseUnavailable, "55P03"),
        ("set statement_timeout = '10ms'; select pg_sleep(10)", DatabaseUnavailable, "57014"),
        ("set transaction read only; create table t ()", DatabaseUnavailable, "25006"),
        ("do $$ begin raise 'idle' using errcode = '25P03'; end $$", DatabaseUnavailable, "25P03"),
        ("do $$ begin raise 'long' using errcode = '25P04'; end $$", DatabaseUnavailable, "25P04"),
        ("select pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable, "57P01"),
    ],
)
async def test_an_error_of_the_server_becomes_ours_by_its_sqlstate(
    any_server: Server, statement: str, expected: type[DatabaseError], sqlstate: str
) -> None:
    connection = await connect(any_server.dsn, application="test")
    with pytest.raises(expected) as caught, translated("cannot do it"):
        await connection.execute(statement.encode())
    await connection.close()
    assert type(caught.value) is expected
    assert caught.value.sqlstate == sqlstate
    assert str(caught.value).startswith("cannot do it: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)


async def test_a_connection_that_is_already_closed_counts_as_unavailable(any_server: Server) -> None:
    connection = await connect(any_server.dsn, application="test")
    await connection.close()
    with pytest.raises(DatabaseUnavailable), translated("cannot read"):
        await connection.execute("select 1")


async def test_a_server_that_is_down_is_unavailable_and_named_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(DatabaseUnavailable) as caught:
            await connect(f"postgresql://someone:hidden@127.0.0.1:{port}/acme", application="test")
    assert f'cannot connect to database "acme" on 127.0.0.1:{port}' in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "same"),
    [
        ("postgresql://u:one@h:5432/d", True),
        ("postgresql://v:two@h:5432/d", True),
        ("host=h dbname=d user=u password=three", True),
        ("postgresql://u:one@h/d?sslmode=require", True),
        ("postgresql://u:one@g/d", False),
        ("postgresql://u:one@h:5433/d", False),
        ("postgresql://u:one@h/e", False),
        ("postgresql://u:one@h/d?hostaddr=10.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_two_dsns_name_the_same_database_however_they_log_in(dsn: str, same: bool) -> None:
    assert is_same_database("postgresql://u:one@h/d", dsn) is same
    assert is_same_database(dsn, "postgresql://u:one@h/d") is same


async def test_a_server_that_does_not_answer_is_unavailable_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseUnavailable):
            await connect(f"postgresql://u@127.0.0.1:{port}/x?connect_timeout=1", application="test")


@pytest.mark.parametrize("name", ["no_such_database", "with space", "it's", "a/b?c=d"])
async def test_a_database_that_does_not_exist_is_unavailable_for_it_may_be_restored(
    any_server: Server, name: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        await connect(with_database(any_server.dsn, name), application="test")


async def test_a_wrong_password_is_unavailable_for_it_may_be_rotated(any_server: Server) -> None:
    parts = urlsplit(any_server.dsn)
    wrong = parts._replace(netloc=f"{parts.username}:wrong@{parts.hostname}:{parts.port}").geturl()
    with pytest.raises(DatabaseUnavailable, match="password"):
        await connect(wrong, application="test")


async def test_a_dsn_that_cannot_be_parsed_is_a_configuration_error_that_does_not_show_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await connect("postgresql//user:hidden@host/x", application="test")
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_database_of_a_url_is_replaced_and_the_rest_kept() -> None:
    assert with_database("postgresql://u:p@h:1/old?sslmode=require", "new") == (
        "postgresql://u:p@h:1/new?sslmode=require"
    )


def test_the_database_of_a_url_that_names_it_in_the_query_is_replaced() -> None:
    assert place(with_database("postgresql://u@h:1?dbname=old", "new")) == 'database "new" on h:1'


def test_the_database_of_a_key_value_list_is_replaced() -> None:
    assert place(with_database("host=h port=1 dbname=old user=u", "new")) == 'database "new" on h:1'


async def test_the_server_shows_the_name_of_the_application(any_server: Server) -> None:
    connection = await connect(any_server.dsn, application="scada-engine ingest 3")
    async with connection:
        shown = await connection.execute("select current_setting('application_name')")
        assert await shown.fetchone() == ("scada-engine ingest 3",)


def test_connections_work_on_uvloop(any_server: Server, new_database: Callable[[str], str]) -> None:
    async def count() -> tuple[int]:
        connection = await connect(new_database(any_server.dsn), application="test", autocommit=True)
        async with connection:
            found = await connection.execute("select count(*)::int from generate_series(1, 1000)")
            row: tuple[int] = await found.fetchone()  # type: ignore[assignment]
            return row

    assert uvloop.run(count()) == (1000,)
