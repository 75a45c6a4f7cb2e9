"""The tables that upkeep keeps in shape, and which of them are hypertables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.database import translated

if TYPE_CHECKING:
    from psycopg import AsyncConnection

READINGS = "readings"
ROLLUPS = ("rollups_1m", "rollups_1h", "rollups_1d")
TABLES = (READINGS, *ROLLUPS)

_LIST = """
select t.name, h.hypertable_name is not null, coalesce(h.compression_enabled, false)
from unnest(%s::text[]) with ordinality as t (name, place)
left join timescaledb_information.hypertables h
    on format('%%I.%%I', h.hypertable_schema, h.hypertable_name)::regclass = to_regclass(t.name)
order by t.place
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `compresses`: its chunks are compressed (columnstore mode)."""

    name: str
    is_hypertable: bool
    compresses: bool


async def list_tables(database: AsyncConnection[Any]) -> list[Table]:
    """Return readings and the rollups, minutes first."""
    with translated("cannot find out how readings are stored"):
        found = await (
            await database.execute(b"select to_regclass('timescaledb_information.hypertables') is not null")
        ).fetchone()
        if found != (True,):
            return [Table(name, is_hypertable=False, compresses=False) for name in TABLES]
        rows = await (await database.execute(_LIST.encode(), [list(TABLES)])).fetchall()
    return [Table(name, is_hypertable=hyper, compresses=compresses) for name, hyper, compresses in rows]
