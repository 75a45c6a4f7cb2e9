"""The write side: one batch = one transaction = one binary COPY into a tenant's readings, and the gaps found with it.

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
from engine.gaps import Cause, GapChanges, Gaps
from engine.readings import READING_COLUMNS, Batch, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray
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
_TABLES = ("readings", "tag_mappings", "scada_connections", "reading_gaps")

# Exact for every time that an OPC UA server can send: both products stay below 2^53.
_TIME = "'epoch'::timestamptz + {0} / 1000000 * interval '1 s' + {0} %% 1000000 * interval '1 us'"
_GAP_COLUMNS = f"""
select tag_id, {_TIME.format("from_us")} as "from", {_TIME.format("to_us")} as "to", cause
from unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::text[]) as gap (tag_id, from_us, to_us, cause)
"""
_RECORD_GAPS = f"""
insert into reading_gaps (tag_id, "from", "to", cause) {_GAP_COLUMNS} on conflict do nothing
"""
_FORGET_GAPS = f"""
delete from reading_gaps g using ({_GAP_COLUMNS}) as gap
where (g.tag_id, g."from", g."to", g.cause) = (gap.tag_id, gap."from", gap."to", gap.cause)
"""
# Through the index (tag_id, ts desc), so many entries a tag as are asked for.
_NEWEST = """
select wanted.place, extract(epoch from date_trunc('second', r.ts))::bigint * 1000000
    + extract(microseconds from r.ts)::bigint %% 1000000, r.status, r.value, r.text
from unnest(%s::integer[], %s::integer[]) as wanted (id, place) cross join lateral (
    select ts, status, value, text_value is not null as text from readings
    where tag_id = wanted.id and ts > '-infinity' and ts < 'infinity' order by ts desc limit %s
) r
order by wanted.place, r.ts
"""
# Before a server has a value it often says so, with a Bad status and no value. The newest value is then one of these.
_NEWEST_ENTRIES = 5
# So many tags a query, that one takes less than a second and no answer is large.
_NEWEST_TAGS = 5_000
_BAD = np.uint32(0x8000_0000)


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

    async def newest(self, tag_ids: NDArray[np.int32]) -> Batch:
        """Return the newest stored reading of each tag, in the order given; ts_us is int64's least where none is.

        Texts are left out: `kind` says that there is one. Raises DatabaseUnavailable or DatabaseNotMigrated.
        """
        newest = Batch(
            ts_us=np.full(len(tag_ids), np.iinfo(np.int64).min, np.int64),
            tag_id=tag_ids,
            status=np.zeros(len(tag_ids), np.uint32),
            value=np.zeros(len(tag_ids), np.float64),
            kind=np.zeros(len(tag_ids), np.uint8),
        )
        for first in range(0, len(tag_ids), _NEWEST_TAGS):
            part = newest.part(first, first + _NEWEST_TAGS)
            async with self._using:
                await self._guarded(self._newest(part), "cannot read the newest readings", _WRITE_TIMEOUT_S)
        return newest

    async def write(self, batch: Batch, gaps: GapChanges | None = None) -> None:
        """Store a batch and what it changes in reading_gaps, whole or not at all; returns after the commit.

        Raises DatabaseUnavailable or DatabaseNotMigrated (try again), or DatabaseRejected. After a connection lost
        during COMMIT it may be stored although DatabaseUnavailable was raised (see the module's docstring).
        """
        if len(batch) == 0 and not gaps:
            return
        async with self._using:
            await self._guarded(self._write(batch, gaps), "cannot store a batch", _WRITE_TIMEOUT_S)

    async def close(self) -> None:
        """Close the connection; the next call of another method would open it again."""
        async with self._using:
            await self._discard()

    async def _newest(self, part: Batch) -> None:
        """Fill the columns of `part`, which are views of the caller's."""
        await self._fill_newest(part, np.arange(len(part)), 1)
        nothing = np.flatnonzero((part.kind == Kind.NULL) & (part.status >= _BAD))
        if len(nothing):
            await self._fill_newest(part, nothing, _NEWEST_ENTRIES)

    async def _fill_newest(self, part: Batch, places: NDArray[np.intp], entries: int) -> None:
        connection = await self._connected()
        with translated("cannot read the newest readings"):
            cursor = await connection.execute(
                _NEWEST, [part.tag_id[places].tolist(), places.tolist(), entries]
            )
            async for row, ts_us, status, value, text in cursor:
                kind = (Kind.NUMBER if value is not None else 0) | (Kind.TEXT if text else 0)
                if entries > 1 and not kind and status < 0:
                    continue  # not the one that is looked for
                part.ts_us[row] = ts_us
                part.status[row] = status & 0xFFFF_FFFF
                part.value[row] = 0.0 if value is None else value
                part.kind[row] = kind

    async def _write(self, batch: Batch, gaps: GapChanges | None) -> None:
        connection = await self._connected()
        encoded = _encode(batch)
        begin = _BEGIN + _DIRECT_COMPRESS if self.mode is StorageMode.COLUMNSTORE else _BEGIN
        with translated(f"cannot store a batch of {len(batch)} readings"):
            await connection.execute(begin)
            if len(batch):
                async with connection.cursor().copy(_COPY) as copy:
                    # psycopg cuts this into pieces of 128 KiB; pieces of a view are views, of a bytearray copies.
                    await copy.write(memoryview(encoded))
            if gaps:
                for statement, part in ((_RECORD_GAPS, gaps.recorded), (_FORGET_GAPS, gaps.recovered)):
                    if len(part):
                        await connection.execute(statement, _gap_columns(part))
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


def _gap_columns(gaps: Gaps) -> list[list[int] | list[str]]:
    labels = {int(cause): cause.label for cause in Cause}
    causes = [labels[cause] for cause in gaps.cause.tolist()]
    return [gaps.tag_id.tolist(), gaps.from_us.tolist(), gaps.to_us.tolist(), causes]


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
