"""Databases on a test server: empty ones, and a migrated master with a tenant. Plain context managers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.sql import SQL, Identifier

from engine.database import with_database
from engine.migrations import Which, migrate_database

T = TypeVar("T")
Kind = Literal["timescale", "embedded"]


@dataclass(frozen=True, slots=True)
class Server:
    """A running test server; `dsn` is a superuser's, on the maintenance database."""

    kind: Kind
    dsn: str


@dataclass(frozen=True, slots=True)
class MasterAndTenant:
    """A migrated master database that knows one migrated tenant database, both on `server`."""

    server: Server
    master_dsn: str
    tenant_dsn: str
    slug: str


@contextmanager
def temporary_database(dsn: str, prefix: str = "test", *, tablespace: str = "pg_default") -> Iterator[str]:
    """Create a database with a name of its own, yield its DSN, and drop it whoever is still connected."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            SQL("create database {} tablespace {}").format(Identifier(name), Identifier(tablespace))
        )
    try:
        yield with_database(dsn, name)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))


@contextmanager
def migrated_master_and_tenant(
    server: Server, slug: str = "acme", *, tablespace: str = "pg_default"
) -> Iterator[MasterAndTenant]:
    """Yield a new master and tenant, migrated and registered as active; the tenant's data in `tablespace`."""
    with ExitStack() as stack:
        master = stack.enter_context(temporary_database(server.dsn, "master"))
        tenant = stack.enter_context(temporary_database(server.dsn, "tenant", tablespace=tablespace))
        run(migrate_database(master, Which.MASTER))
        run(migrate_database(tenant, Which.TENANT))
        with psycopg.connect(master) as connection, psycopg.connect(tenant) as other:
            connection.execute(
                "insert into tenants (slug, name, database_name) values (%s, %s, %s)",
                [slug, slug.title(), other.info.dbname],
            )
        yield MasterAndTenant(server, master, tenant, slug)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a loop of its own, also where this thread has a loop already."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
