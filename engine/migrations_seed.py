"""Moves tables of the earlier system aside, so that the migrations can make ours under their names.

Only names change here, which takes a moment however much is in the tables: what they hold is taken over afterwards,
while the engine works (engine.seed_tables). Readings stay readable in the view scada_readings all the time but between
this and the migration that makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from engine.errors import MigrationError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

READINGS = "scada_readings"
_READINGS_COLUMNS = {
    "timestamp": ("timestamp with time zone",),
    "well_id": ("uuid",),
    "tag_node_id": ("text", "character varying"),
    "value": ("double precision",),
    "quality": ("text", "character varying"),
}
# Others may have more columns: what we have none for stays in the table that is moved aside.
_CATALOG = {
    "wells": {"id"},
    "scada_connections": {
        "id", "well_id", "name", "description", "endpoint_url", "security_mode", "security_policy", "username",
        "password", "poll_interval_seconds", "is_enabled", "created_by", "updated_by", "created_at", "updated_at",
        "deleted_at", "deleted_by",
    },
    "tag_mappings": {
        "id", "connection_id", "well_id", "tag_name", "opc_node_id", "data_type", "unit", "scaling_factor", "offset",
        "created_by", "updated_by", "created_at", "updated_at", "deleted_at", "deleted_by",
    },
}  # fmt: skip
# Without tag_id: that column is ours alone.
_OURS = {"tag_mappings": "tag_id"}
_FIND = """
select c.relname,
    jsonb_object_agg(a.attname, regexp_replace(format_type(a.atttypid, a.atttypmod), '\\(\\d+\\)$', ''))
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.oid = any(array(select to_regclass(name)::oid from unnest(%s::text[]) name)) and c.relkind in ('r', 'p')
group by c.relname
"""
# Their jobs (compression, retention) would compress what is about to be moved, or drop it before it is.
_JOBS = """
select n.nspname, j.job_id
from timescaledb_information.jobs j, pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'timescaledb'
    -- Null for jobs that are of no table.
    and to_regclass(quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name)) = to_regclass(%s)
"""


def aside(name: str) -> str:
    """Return the name that a table of the earlier system is moved to."""
    return "seed_" + name.removeprefix("scada_")


async def find_tables(connection: AsyncConnection[Any]) -> list[str]:
    """Return which tables of the earlier system are in the way of the migrations.

    Raises MigrationError for a scada_readings of another shape: nobody knows what its columns mean.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FIND, [[READINGS, *_CATALOG]])
        found: dict[str, dict[str, str]] = dict(await cursor.fetchall())
    tables = []
    if (columns := found.get(READINGS)) is not None:
        if columns.keys() != _READINGS_COLUMNS.keys() or any(
            columns[name] not in types for name, types in _READINGS_COLUMNS.items()
        ):
            wanted = ", ".join(f"{name} {types[0]}" for name, types in _READINGS_COLUMNS.items())
            seen = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            raise MigrationError(
                f"the table {READINGS} is in the way: it has the columns ({seen}), and only one with ({wanted}) can be "
                "taken over; rename it"
            )
        tables.append(READINGS)
    tables += [
        name
        for name in ("tag_mappings", "scada_connections")
        if found.get(name, {}).keys() >= _CATALOG[name] and _OURS.get(name) not in found[name]
    ]
    if tables and "id" in found.get("wells", {}):
        tables.append("wells")
    return tables


async def set_aside(connection: AsyncConnection[Any], tables: list[str]) -> None:
    """Rename these tables, in the caller's transaction; raises Database errors."""
    for name in tables:
        await connection.execute(
            sql.SQL("alter table {} rename to {}").format(sql.Identifier(name), sql.Identifier(aside(name)))
        )
    if READINGS not in tables:
        return
    found = await connection.execute("select to_regclass('timescaledb_information.jobs') is not null")
    if await found.fetchone() != (True,):
        return
    jobs = await connection.execute(_JOBS, [aside(READINGS)])
    for schema, job in await jobs.fetchall():
        await connection.execute(
            sql.SQL("select {}.delete_job({})").format(sql.Identifier(schema), sql.Literal(job))
        )
