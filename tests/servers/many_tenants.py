"""Very many tenants on one server: a master that knows them, each with a database of its own, all copied from one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier

from engine.database import with_database
from engine.migrations import Which, migrate_database
from tests.servers.databases import run, temporary_database


@dataclass(frozen=True, slots=True)
class ManyTenants:
    """A migrated master, and by their slugs the databases of its tenants."""

    master_dsn: str
    tenants: dict[str, str]


@contextmanager
def many_tenants(server_dsn: str, number: int, *, migrated: bool = True) -> Iterator[ManyTenants]:
    """Yield `number` active tenants with databases, migrated or empty; the server is the embedded one.

    A server with TimescaleDB has its workers in every database, and one that is in use cannot be copied.
    """
    names = [f"many_{secrets.token_hex(4)}_{place}" for place in range(number)]
    with ExitStack() as stack:
        server = stack.enter_context(psycopg.connect(server_dsn, autocommit=True))
        master = stack.enter_context(temporary_database(server_dsn, "master"))
        model = stack.enter_context(temporary_database(server_dsn, "model"))
        run(migrate_database(master, Which.MASTER))
        if migrated:
            run(migrate_database(model, Which.TENANT))
        copied = Identifier(str(psycopg.conninfo.conninfo_to_dict(model)["dbname"]))
        for name in names:
            server.execute(
                SQL("create database {} template {} strategy file_copy").format(Identifier(name), copied)
            )
            stack.callback(_drop, server, name)
        tenants = {f"tenant-{place}": name for place, name in enumerate(names)}
        with psycopg.connect(master) as connection:
            connection.cursor().executemany(
                "insert into tenants (slug, name, database_name) values (%s, %s, %s)",
                [(slug, slug, name) for slug, name in tenants.items()],
            )
        yield ManyTenants(master, {slug: with_database(server_dsn, name) for slug, name in tenants.items()})


def _drop(server: psycopg.Connection, name: str) -> None:
    server.execute(SQL("drop database {} with (force)").format(Identifier(name)))
