"""Whether anything was written in a database since we looked: asked of its server, for all its databases in one query.

A worker follows the catalogs of hundreds of tenants, each in a database of its own, over few connections. To look into
each every few seconds, a connection would be opened each time; but PostgreSQL counts the rows that are written in every
database and shows the counters in all of them (pg_stat_database).

    `written`      over a connection to the database, before the catalog is read: how much was written in it so far
    `is_unchanged` some seconds later, over a connection to any database of the server, or over none where another
                   tenant has asked a moment ago: nothing was written since, so the catalog is what it was

Wrong in one direction only, "changed" where the catalog is not: readings are counted, too. A change is counted when it
is committed; where its connection did something else within the same second and then stays open, up to 10 seconds
later (PGSTAT_IDLE_INTERVAL). Servers before PostgreSQL 15, and those that count nothing (track_counts), say nothing.

Which database it is, and whether its counters began anew, is part of what is compared, so that servers behind one
address are told apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.database import server_of, translated

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.database_pool import Database

# The first that counts in shared memory, and lets a connection flush what it has not counted yet.
_LEAST_SERVER_VERSION = 150_000
_WRITTEN = """
    select extract(epoch from pg_postmaster_start_time())::text, d.datid,
        d.tup_inserted, d.tup_updated, d.tup_deleted, d.stats_reset::text
    from pg_stat_database d
    where current_setting('track_counts')::boolean
"""
_HERE = " and d.datname = current_database()"
_EVERYWHERE = " and d.datid > 0"

# When the server was started, and the database's oid.
_Key: TypeAlias = tuple[str, int]
_Counts: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """How much was written in one database at a time."""

    key: _Key
    counts: _Counts
    read_s: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """The same of all databases of a server."""

    counts: dict[_Key, _Counts]
    read_s: float


class DatabaseActivity:
    """What the servers of one worker said last; single event loop."""

    def __init__(self, fresh_s: float, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """An answer serves everybody for `fresh_s`."""
        self._fresh_s = fresh_s
        self._now_s = now_s
        self._samples: dict[str, _Sample] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def written(self, connection: AsyncConnection[Any]) -> Written | None:
        """Return how much was written so far in the connection's database, what it did itself included.

        None where the server does not say. Read what depends on it afterwards.
        """
        if connection.info.server_version < _LEAST_SERVER_VERSION:
            return None
        with translated("cannot ask what was written"):
            # Takes effect when the server has answered this.
            await connection.execute("select pg_stat_force_next_flush()")
            row = await (await connection.execute(_WRITTEN + _HERE)).fetchone()
        return None if row is None else Written((row[0], row[1]), tuple(row[2:]), self._now_s())

    async def is_unchanged(self, database: Database, before: Written | None) -> bool:
        """Tell whether nothing was written in the database since `before`; False where that is not known.

        Raises what Database.connection raises.
        """
        if before is None:
            return False
        server = server_of(database.dsn)
        async with self._locks.setdefault(server, asyncio.Lock()):
            sample = self._samples.get(server)
            least_s = max(before.read_s, self._now_s() - self._fresh_s)
            if sample is None or sample.read_s <= least_s:
                sample = self._samples[server] = await self._sample(database)
        return sample.counts.get(before.key) == before.counts

    async def _sample(self, database: Database) -> _Sample:
        began_s = self._now_s()
        async with database.connection() as connection:
            with translated("cannot ask what was written"):
                rows = await (await connection.execute(_WRITTEN + _EVERYWHERE)).fetchall()
        return _Sample({(row[0], row[1]): tuple(row[2:]) for row in rows}, began_s)
