"""Compresses chunks whose time has passed, in columnstore mode: rows that came one by one or late, and batches that lie
across each other. One chunk at a time, each in one transaction.

While a chunk is compressed it can be read; what is to be stored in it has to wait, so it is left alone until nothing
much comes for it any more (`compress_after`).

Compressed batches take the right to append from the stream that has it (engine.store.append_order says why).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engine.database import translated

if TYPE_CHECKING:
    from collections.abc import Collection

    from psycopg import AsyncConnection

    from engine.upkeep.policies import Policies
    from engine.upkeep.tables import Table

# A hundred million rows take some minutes. At the end readers are waited for, and others queue behind that.
_BEGIN = (
    "begin; set local statement_timeout = '1h'; set local lock_timeout = '5s'"
    "; set local idle_in_transaction_session_timeout = '60s'"
)
# Chunk status: 1 compressed, 2 unordered, 8 partial.
_NEXT = """
select chunk from (
    select format('%%I.%%I', chunk_schema, chunk_name) as chunk, range_end
    from timescaledb_information.chunks
    where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %(table)s::regclass
        and range_end <= %(before)s
    offset 0
) old
where chunk <> all(%(besides)s::text[])
    and (_timescaledb_functions.chunk_status(chunk::regclass) & 11) <> 1
order by range_end
limit 1
"""


async def next_chunk(
    database: AsyncConnection[Any],
    table: Table,
    policies: Policies,
    *,
    besides: Collection[str] = (),
    now: datetime | None = None,
) -> str | None:
    """Return the oldest chunk of a table that is to be compressed, but none of those `besides`."""
    after = policies.compress_after_of(table.name)
    if after is None or not table.compresses:
        return None
    parameters = {
        "table": table.name,
        "before": (now or datetime.now(UTC)) - after,
        "besides": list(besides),
    }
    with translated(f"cannot find chunks of {table.name} to compress"):
        row = await (await database.execute(_NEXT.encode(), parameters)).fetchone()
    return None if row is None else str(row[0])


async def compress_chunk(database: AsyncConnection[Any], chunk: str) -> None:
    """Compress a chunk, or sort it anew; raises Database errors, `is_timeout` where somebody uses it."""
    with translated(f"cannot compress {chunk}"):
        await database.execute(_BEGIN.encode())
        try:
            await database.execute(b"update append_order set stream = null, turn = turn + 1")
            await database.execute(b"select compress_chunk(%s::regclass, if_not_compressed => true)", [chunk])
        except BaseException:
            if not database.closed:
                await database.execute(b"rollback")
            raise
        await database.execute(b"commit")
