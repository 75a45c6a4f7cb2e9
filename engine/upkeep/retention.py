"""Drops what is older than the policies keep: whole chunks of hypertables, rows of plain tables in bounded batches.

First the boundary: rollup_state.readings_from moves up to the first day that is kept, but never past a minute that is
pending, in one transaction. From then on rollups before it are not computed any more, so that nothing that is dropped
afterwards makes one smaller. Then what lies before it goes, piece by piece; after a crash the next pass goes on.
Rollups are dropped only where the readings are gone, too: they are never made again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engine.upkeep.tables import READINGS, ROLLUPS, Table
from engine.upkeep.transaction import upkeep_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import timedelta

    from psycopg import AsyncConnection

    from engine.upkeep.policies import Policies

# 8 MiB of a plain table: 100 000 readings or so, below a second.
BLOCKS = 1_024
_COUNTED_ROWS = 1_000_000
_ADVANCE = """
update rollup_state set readings_from = kept.since
from (select date_bin('1 day', least(%s, lower(pending_minutes())), 'epoch') as since) kept
where kept.since > readings_from
"""
_BOUNDARY = """
select date_bin('1 day', least(%s, readings_from), 'epoch')
from rollup_state where readings_from > '-infinity'
"""
_CHUNKS = """
select format('%%I.%%I', chunk_schema, chunk_name), range_end
from timescaledb_information.chunks
where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %s::regclass and range_end <= %s
order by range_end
limit 1
"""


class Retention:
    """Applies the policies of one database, step by step."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        # Up to where each plain table has been searched through.
        self._done: dict[str, datetime] = {}

    async def steps(
        self, database: AsyncConnection[Any], policies: Policies, tables: list[Table]
    ) -> AsyncGenerator[tuple[str, int], None]:
        """Drop what is too old; yield after each transaction which table it was and about how many rows went.

        Raises Database errors; what was yielded is done.
        """
        if policies.keep_readings is None:
            return
        async with upkeep_transaction(database, "cannot move the boundary of retention"):
            await database.execute(_ADVANCE.encode(), [self._now() - policies.keep_readings])
        kept = dict(
            zip(
                (READINGS, *ROLLUPS),
                (policies.keep_readings, policies.keep_1m, policies.keep_1h, policies.keep_1d),
                strict=True,
            )
        )
        for table in tables:
            boundary = await self._boundary(database, kept[table.name])
            if boundary is None:
                continue
            steps = self._drop_chunks if table.is_hypertable else self._delete_rows
            async for rows in steps(database, table.name, boundary):
                yield table.name, rows

    async def _boundary(self, database: AsyncConnection[Any], keep: timedelta | None) -> datetime | None:
        if keep is None:
            return None
        async with upkeep_transaction(database, "cannot read the boundary of retention"):
            row = await (await database.execute(_BOUNDARY.encode(), [self._now() - keep])).fetchone()
        return None if row is None else row[0]

    async def _drop_chunks(
        self, database: AsyncConnection[Any], table: str, boundary: datetime
    ) -> AsyncGenerator[int, None]:
        while True:
            async with upkeep_transaction(database, f"cannot drop old chunks of {table}"):
                chunk = await (await database.execute(_CHUNKS.encode(), [table, boundary])).fetchone()
                if chunk is None:
                    return
                name, end = chunk
                rows = await _rows_about(database, name)
                await database.execute(
                    b"select drop_chunks(%s::regclass, older_than => %s::timestamptz)", [table, end]
                )
            yield rows

    async def _delete_rows(
        self, database: AsyncConnection[Any], table: str, boundary: datetime
    ) -> AsyncGenerator[int, None]:
        """Go through the table once for each new boundary: there is no index by time alone, and no chunk."""
        if self._done.get(table) == boundary:
            return
        time = "ts" if table == READINGS else "bucket"
        first = 0
        while True:
            async with upkeep_transaction(database, f"cannot delete old rows of {table}"):
                found = await (
                    await database.execute(
                        b"select pg_relation_size(%s::regclass) / current_setting('block_size')::bigint",
                        [table],
                    )
                ).fetchone()
                deleted = await database.execute(
                    f"delete from {table} where ctid >= %s::tid and ctid < %s::tid and {time} < %s".encode(),
                    [f"({first},0)", f"({first + BLOCKS},0)", boundary],
                )
            if deleted.rowcount:
                yield deleted.rowcount
            first += BLOCKS
            if found is None or first >= found[0]:
                break
        self._done[table] = boundary


async def _rows_about(database: AsyncConnection[Any], chunk: str) -> int:
    """Return how many rows a chunk has, as the server estimates it.

    Where it was never analyzed, as chunks of late readings often were not, so many are counted as take a moment.
    """
    found = await (await database.execute(b"select approximate_row_count(%s::regclass)", [chunk])).fetchone()
    if found is not None and found[0] > 0:
        return int(found[0])
    counted = f"select count(*) from (select from {chunk} limit {_COUNTED_ROWS}) counted"
    found = await (await database.execute(counted.encode())).fetchone()
    return 0 if found is None else int(found[0])
