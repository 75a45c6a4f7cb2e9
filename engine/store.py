"""The write side: one batch = one transaction = one binary COPY into a tenant's readings.

Owns the connection that batches go through and the storage mode of the database. Does not retry: the caller holds the
batch and comes again. A connection is used for the next batch only if the last one committed; after any failure it is
closed. It carries no session state (settings are SET LOCAL, nothing is prepared), so a pooler in transaction mode may
stand between.

Not exactly-once yet. When a connection is lost during COMMIT nobody can tell whether the batch was stored: `write`
raises DatabaseUnavailable, the caller sends the batch again, and its rows may then be there twice. The high-water mark
that decides this case comes with the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from engine._fastpath import encode_copy
from engine.database import connect, translated
from engine.errors import DatabaseNotMigrated, DatabaseRejected, DatabaseUnavailable
from engine.readings import READING_COLUMNS, Batch

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# A batch of 50 000 rows takes a quarter of a second; a minute means locks or a disk that hangs.
_STATEMENT_TIMEOUT_S = 60
# More than the server's own limit, which gives the better message; for servers that stopped answering altogether.
_WRITE_TIMEOUT_S = 75
_CHECK_TIMEOUT_S = 30

# synchronous_commit, because a role or a database may have it off, and a commit means "stored for good" to our caller.
_BEGIN = f"begin; set local synchronous_commit = on; set local statement_timeout = '{_STATEMENT_TIMEOUT_S}s'"
# Batches are compressed as they come in, and not sorted once more: write() sorts them by segment, then time.
_DIRECT_COMPRESS = (
    "; set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = on"
)
_COPY = f"copy readings ({', '.join(READING_COLUMNS)}) from stdin (format binary)"
_TABLES = ("readings", "tag_mappings", "scada_connections")


class StorageMode(StrEnum):
    """How a database keeps readings; the migrations decide it, by what the server can do."""

    COLUMNSTORE = "columnstore"  # TimescaleDB community edition with direct compress on COPY
    HYPERTABLE = "hypertable"  # TimescaleDB without it: rows in chunks, one B-tree
    PLAIN = "plain"  # PostgreSQL alone; not for production


async def detect_mode(connection: AsyncConnection[Any]) -> StorageMode:
    """Return how this database keeps readings; raises DatabaseNotMigrated when it has none."""
    with translated("cannot find out the storage mode"):
        cursor = await connection.execute(
            """
            select array(select name from unnest(%s::text[]) as name where to_regclass(name) is null),
                exists (select from pg_extension where extname = 'timescaledb'),
                exists (select from pg_settings where name = 'timescaledb.enable_direct_compress_copy_client_sorted')
            """,
            [list(_TABLES)],
        )
        row = await cursor.fetchone()
        assert row is not None
        missing, timescaledb, direct_compress = row
        if missing:
            raise DatabaseNotMigrated(
                f"tables are missing: {', '.join(missing)}; scada-engine migrate up makes them"
            )
        if not timescaledb:
            return StorageMode.PLAIN
        cursor = await connection.execute(
            """
            select compression_enabled from timescaledb_information.hypertables
            where format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'readings'::regclass
            """
        )
        hypertable = await cursor.fetchone()
    if hypertable is None:
        return StorageMode.PLAIN
    return StorageMode.COLUMNSTORE if hypertable[0] and direct_compress else StorageMode.HYPERTABLE


class Store:
    """Writes one tenant's batches, one at a time, over one connection."""

    def __init__(self, dsn: str, application: str) -> None:
        self.mode: StorageMode | None = None
        self._dsn = dsn
        self._application = application
        self._connection: AsyncConnection[Any] | None = None
        # check() and write() are called by different tasks.
        self._using = asyncio.Lock()

    async def check(self) -> None:
        """Connect, unless that is done, and learn the storage mode.

        Raises DatabaseUnavailable, and DatabaseNotMigrated when tables are missing.
        """
        async with self._using:
            await self._guarded(self._connected(), "cannot check the database", _CHECK_TIMEOUT_S)

    async def write(self, batch: Batch) -> None:
        """Store a batch for good, whole or not at all; returns after the commit.

        Raises DatabaseUnavailable or DatabaseNotMigrated (try again), or DatabaseRejected. After a connection lost
        during COMMIT it may be stored although DatabaseUnavailable was raised (see the module's docstring).
        """
        if len(batch) == 0:
            return
        async with self._using:
            await self._guarded(self._write(batch), "cannot store a batch", _WRITE_TIMEOUT_S)

    async def close(self) -> None:
        """Close the connection; the next call of another method would open it again."""
        async with self._using:
            await self._discard()

    async def _write(self, batch: Batch) -> None:
        connection = await self._connected()
        encoded = _encode(batch)
        begin = _BEGIN + _DIRECT_COMPRESS if self.mode is StorageMode.COLUMNSTORE else _BEGIN
        with translated(f"cannot store a batch of {len(batch)} readings"):
            await connection.execute(begin)
            async with connection.cursor().copy(_COPY) as copy:
                # psycopg cuts this into pieces of 128 KiB; pieces of a view are views, pieces of a bytearray copies.
                await copy.write(memoryview(encoded))
            await connection.execute("commit")

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None:
            self._connection = await connect(self._dsn, application=self._application, autocommit=True)
            self.mode = await detect_mode(self._connection)
        return self._connection

    async def _guarded(self, work: Awaitable[object], what: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await work
        except TimeoutError as exc:
            await self._discard()
            raise DatabaseUnavailable(f"{what}: no answer in {timeout_s} seconds") from exc
        except BaseException:
            await self._discard()
            raise

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _encode(batch: Batch) -> bytearray:
    """Return the batch as COPY bytes, in the order of the index: tag_id, then ts.

    Measured: neighbouring rows in one part of the index make a COPY a third faster, and direct compress needs it.
    """
    order = np.lexsort((batch.ts_us, batch.tag_id))
    texts = batch.texts
    if texts:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        texts = {int(place[row]): text for row, text in texts.items()}
    try:
        return encode_copy(
            batch.ts_us[order],
            batch.tag_id[order],
            batch.status[order],
            batch.value[order],
            batch.kind[order],
            texts,
        )
    except ValueError as exc:
        raise DatabaseRejected(f"a batch of {len(batch)} readings cannot be stored: {exc}") from exc
