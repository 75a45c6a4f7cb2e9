"""A tenant's database in each storage mode that a server has, made by the migrations."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from engine.database import translated
from engine.database_pool import DatabasePool
from engine.migrations import Which, migrate_database
from engine.store import StorageMode, Store
from tests.servers.databases import temporary_database


def modes_of(server: str) -> list[StorageMode]:
    """Return the storage modes that a server's databases can have, the best first."""
    with temporary_database(server, "bench") as database:
        _migrate(database)
        best = _mode_of(database)
    return list(StorageMode)[list(StorageMode).index(best) :]


@contextmanager
def database_in(server: str, mode: StorageMode) -> Iterator[str]:
    """Make a tenant's database in a storage mode that the server has; yield its DSN, and drop it."""
    with ExitStack() as stack:
        if mode is StorageMode.PLAIN:
            database = stack.enter_context(_database_without_extension(server))
        else:
            database = stack.enter_context(temporary_database(server, "bench"))
        _migrate(database)
        if mode is StorageMode.HYPERTABLE:
            _without_columnstore(database)
        found = _mode_of(database)
        if found is not mode:
            raise RuntimeError(f"the database is in mode {found} where {mode} was to be made")
        yield database


@contextmanager
def _database_without_extension(server: str) -> Iterator[str]:
    """Make a database, and yield its DSN for a role that may make tables there, and no extension."""
    role = f"bench_{secrets.token_hex(6)}"
    with translated("cannot make a role for the plain mode"), _superuser(server) as connection:
        connection.execute(SQL("create role {}").format(Identifier(role)))
    try:
        with temporary_database(server, "bench") as database:
            with _superuser(database) as connection:
                connection.execute(SQL("grant create on schema public to {}").format(Identifier(role)))
            # The same user connects, and goes on as that role: no password is needed.
            yield make_conninfo(database, options=f"-c role={role}")
    finally:
        with _superuser(server) as connection:
            connection.execute(SQL("drop role {}").format(Identifier(role)))


def _superuser(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True)


def _migrate(database: str) -> None:
    asyncio.run(migrate_database(database, Which.TENANT))


def _without_columnstore(database: str) -> None:
    with psycopg.connect(database) as connection:
        edition = connection.execute("select current_setting('timescaledb.license')").fetchone()
        if edition == ("timescale",):
            connection.execute("alter table readings set (timescaledb.enable_columnstore = false)")


def _mode_of(database: str) -> StorageMode:
    async def asked() -> StorageMode:
        pool = DatabasePool(1, retry_most_s=0.0)
        store = Store(pool.database(database, "scada-engine bench"))
        try:
            await store.check()
        finally:
            await pool.close()
        assert store.mode is not None
        return store.mode

    return asyncio.run(asked())
