"""How much a tenant's database holds, and how far its rollups are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.database import translated
from engine.upkeep.tables import list_tables

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import AsyncConnection

_PLAIN = """
select greatest(reltuples, 0)::bigint, pg_total_relation_size(oid), 0, 0 from pg_class where oid = %s::regclass
"""
_HYPERTABLE = """
select approximate_row_count(%(table)s::regclass), hypertable_size(%(table)s::regclass), count(*),
    count(*) filter (where is_compressed)
from timescaledb_information.chunks
where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %(table)s::regclass
"""
# What is due first: a minute that was over when it was noted is due then, another one when it is.
_LAG = """
select coalesce(extract(epoch from
    now() - min(greatest(noted_at, to_timestamp((lower(part) + 1) * 60 + %s)))
), 0)::float8
from rollup_changes, unnest(minutes) part
"""
_PENDING = """
select coalesce(sum(extract(epoch from upper(span) - lower(span)) / 60), 0)::bigint
from unnest(pending_minutes()) span
"""


@dataclass(frozen=True, slots=True)
class TableFigures:
    """One table; `rows` as the server estimates it."""

    name: str
    is_hypertable: bool
    compresses: bool
    rows: int
    size_bytes: int
    chunks: int
    compressed_chunks: int


@dataclass(frozen=True, slots=True)
class StorageFigures:
    """All of them. `readings_from`: readings before it were dropped; None: none were."""

    tables: tuple[TableFigures, ...]
    pending_minutes: int
    lag_s: float
    readings_from: datetime | None


async def rollup_lag_s(database: AsyncConnection[Any], *, delay_s: float) -> float:
    """Return for how long the oldest minute that is due has waited to be computed; 0 when none is."""
    with translated("cannot read how far rollups are"):
        row = await (await database.execute(_LAG.encode(), [delay_s])).fetchone()
    return max(0.0, row[0]) if row else 0.0


async def read_figures(database: AsyncConnection[Any], *, delay_s: float) -> StorageFigures:
    """Return what there is."""
    tables = []
    for table in await list_tables(database):
        with translated(f"cannot read how large {table.name} is"):
            if table.is_hypertable:
                found = await database.execute(_HYPERTABLE.encode(), {"table": table.name})
            else:
                found = await database.execute(_PLAIN.encode(), [table.name])
            rows, size_bytes, chunks, compressed = await found.fetchone() or (0, 0, 0, 0)
        tables.append(
            TableFigures(
                table.name,
                is_hypertable=table.is_hypertable,
                compresses=table.compresses,
                rows=rows,
                size_bytes=size_bytes,
                chunks=chunks,
                compressed_chunks=compressed,
            )
        )
    with translated("cannot read how far rollups are"):
        pending = await (await database.execute(_PENDING.encode())).fetchone()
        kept = await (
            await database.execute(
                b"select case when readings_from > '-infinity' then readings_from end from rollup_state"
            )
        ).fetchone()
    return StorageFigures(
        tables=tuple(tables),
        pending_minutes=pending[0] if pending else 0,
        lag_s=await rollup_lag_s(database, delay_s=delay_s),
        readings_from=kept[0] if kept else None,
    )
