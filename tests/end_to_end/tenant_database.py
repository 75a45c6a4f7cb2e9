"""What happens to a tenant's database in the field, done to it by its superuser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from engine.database import with_database
from tests.servers.databases import MasterAndTenant

ENGINE = "scada-engine ingest"
_GRANTS = """
grant usage on schema public to {user};
grant all on all tables in schema public to {user};
grant all on all sequences in schema public to {user};
"""
# What a standby has that became the primary too early: everything as it was at one moment.
_KEPT = ("readings", "reading_gaps", "reading_quarantine", "ingest_marks")


def change(databases: MasterAndTenant, statement: str, *parameters: object) -> None:
    """Run a statement in the tenant's database."""
    with psycopg.connect(databases.tenant_dsn, autocommit=True) as connection:
        connection.execute(statement, parameters or None)


def on_server(databases: MasterAndTenant, statement: str, **names: str) -> None:
    """Run a statement on the server; `names` are filled in as identifiers, `database` is the tenant's."""
    name = psycopg.conninfo.conninfo_to_dict(databases.tenant_dsn)["dbname"]
    with psycopg.connect(with_database(databases.server.dsn, "postgres"), autocommit=True) as connection:
        identifiers = {key: Identifier(value) for key, value in (names | {"database": str(name)}).items()}
        connection.execute(SQL(statement).format(**identifiers))


def throw_out(databases: MasterAndTenant) -> None:
    """End the engine's connections to the tenant's database."""
    change(
        databases,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = %s and datname = current_database()",
        ENGINE,
    )


def set_connections_allowed(databases: MasterAndTenant, *, allowed: bool) -> None:
    """Let nobody into the tenant's database, and throw out who is there; or let everybody in again."""
    on_server(databases, f"alter database {{database}} allow_connections {str(allowed).lower()}")
    if not allowed:
        name = psycopg.conninfo.conninfo_to_dict(databases.tenant_dsn)["dbname"]
        with psycopg.connect(with_database(databases.server.dsn, "postgres"), autocommit=True) as server:
            server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
            )


@contextmanager
def ordinary_user(databases: MasterAndTenant, user: str, password: str) -> Iterator[MasterAndTenant]:
    """Yield the databases as an ordinary user sees them, for whom limits hold; the user is dropped afterwards."""
    with psycopg.connect(databases.server.dsn, autocommit=True) as server:
        server.execute(SQL("create role {} login password {}").format(Identifier(user), Literal(password)))
    dsns = (databases.master_dsn, databases.tenant_dsn)
    for dsn in dsns:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SQL(_GRANTS).format(user=Identifier(user)))
    try:
        yield MasterAndTenant(
            databases.server,
            with_user(databases.master_dsn, user, password),
            databases.tenant_dsn,
            databases.slug,
        )
    finally:
        for dsn in dsns:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(SQL("drop owned by {} cascade").format(Identifier(user)))
        with psycopg.connect(databases.server.dsn, autocommit=True) as server:
            server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [user]
            )
            server.execute(SQL("drop role {}").format(Identifier(user)))


def with_user(dsn: str, user: str, password: str) -> str:
    """Return a URL with another login."""
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


def keep(databases: MasterAndTenant) -> None:
    """Keep everything that a commit writes as it is now, for `lose`."""
    with psycopg.connect(databases.tenant_dsn) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("create schema kept")
        for table in _KEPT:
            connection.execute(f"create table kept.{table} as select * from {table}")


def lose(databases: MasterAndTenant) -> int:
    """Put back what `keep` kept, as a failover does that lost commits; return how many readings are lost."""
    with psycopg.connect(databases.tenant_dsn) as connection:
        before = _count(connection)
        for table in _KEPT:
            connection.execute(f"delete from {table}")
            connection.execute(f"insert into {table} overriding system value select * from kept.{table}")
        connection.execute("drop schema kept cascade")
        return before - _count(connection)


def _count(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select count(*) from readings").fetchone()
    assert row is not None
    return int(row[0])
