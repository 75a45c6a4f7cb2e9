"""Takes over what the earlier system left: its wells, connections and tags, and then its readings, piece by piece.

The migrations have moved its tables aside (engine.migrations_seed), nothing more. From there:

    seed_wells, seed_connections, seed_tag_mappings   copied with their ids, in one transaction; they stay as they are
    seed_readings                                     moved into readings, newest chunk first, a few megabytes in each
                                                      transaction: delete ... returning, insert

So each reading is in exactly one table at any moment, and whoever is stopped goes on where the rows are. Nothing waits
for it: commits of the engine go on. A well and node that no tag has gets one, on a connection that is disabled. A row
that readings cannot hold stays where it is, and is counted with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import scalar_row, tuple_row

from engine.database import translated
from engine.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg import AsyncConnection

# What made the rows that no person made, as in the catalog.
_ACTOR = UUID(int=0)
# 4 MB of a table, some 40 000 readings: a few tenths of a second, and memory for as many.
_PIECE_PAGES = 512
_PAGE_BYTES = 8_192
# Longer than a chunk of ours takes to be compressed; nobody queues behind an insert that waits.
_LOCK_WAIT_MS = 300_000
# A deadlock with somebody who compresses or drops chunks is undone by the server; the same piece goes through then.
_ATTEMPTS = 5
# One at a time in a database: two would make the same tags.
_LOCK = 0x7363_6164_7365_6564
NEW_CONNECTION = "Earlier system"
"""The name of the connections that are made for readings of nodes that no tag has."""
_NO_ENDPOINT = "opc.tcp://not-set.invalid:4840"

_BEGIN = f"""
set local lock_timeout = {_LOCK_WAIT_MS};
set local jit = off;
set local timescaledb.max_tuples_decompressed_per_dml_transaction = 0;
select pg_advisory_xact_lock({_LOCK})
"""
_COPY_WELLS = """
insert into wells (
    id, tenant_id, name, description, created_by, updated_by, created_at, updated_at, deleted_at, deleted_by
)
select id, %(tenant_id)s, case when place > 1 or is_taken then left(name, 200) || ' (' || id || ')' else name end,
    description, created_by, updated_by, created_at, updated_at, deleted_at, deleted_by
from (
    select *, row_number() over (partition by name, deleted_at is null order by created_at, id) as place, exists (
        select from wells o
        where o.tenant_id = %(tenant_id)s and o.name = named.name and o.deleted_at is null and o.id <> named.id
    ) as is_taken
    from (
        select w.id, left(coalesce(nullif(j ->> 'name', ''), 'Well ' || w.id), 255) as name,
            j ->> 'description' as description,
            coalesce((j ->> 'created_by')::uuid, %(actor)s) as created_by,
            coalesce((j ->> 'updated_by')::uuid, %(actor)s) as updated_by,
            coalesce((j ->> 'created_at')::timestamptz, now()) as created_at,
            coalesce((j ->> 'updated_at')::timestamptz, now()) as updated_at,
            (j ->> 'deleted_at')::timestamptz as deleted_at, (j ->> 'deleted_by')::uuid as deleted_by
        from seed_wells w cross join lateral to_jsonb(w) j
    ) named
) placed
on conflict do nothing
"""
# What sealed its passwords is not here: a connection with one is disabled until it gets it again.
_COPY_CONNECTIONS = """
insert into scada_connections (
    id, tenant_id, well_id, name, description, endpoint_url, security_mode, security_policy, username,
    poll_interval_seconds, is_enabled, last_error,
    created_by, updated_by, created_at, updated_at, deleted_at, deleted_by
)
select c.id, %(tenant_id)s, c.well_id, c.name, c.description, c.endpoint_url,
    case when c.security_mode in ('None', 'Sign', 'SignAndEncrypt') then c.security_mode else 'Auto' end,
    case when c.security_policy in (
        'None', 'Basic128Rsa15', 'Basic256', 'Basic256Sha256', 'Aes128_Sha256_RsaOaep', 'Aes256_Sha256_RsaPss'
    ) then c.security_policy else 'Auto' end,
    c.username, greatest(c.poll_interval_seconds, 1), c.is_enabled and c.password is null,
    case when c.password is not null then
        'the password that the earlier system sealed cannot be opened: set it again, and enable the connection' end,
    c.created_by, c.updated_by, c.created_at, c.updated_at, c.deleted_at, c.deleted_by
from seed_connections c join wells w on w.id = c.well_id
on conflict (id) do nothing
"""
_COPY_TAGS = """
insert into tag_mappings (
    id, tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type, unit, scaling_factor, "offset",
    created_by, updated_by, created_at, updated_at, deleted_at, deleted_by
)
select t.id, %(tenant_id)s, t.connection_id, t.well_id, t.tag_name, t.opc_node_id,
    case when upper(t.data_type) in ('DOUBLE', 'INT', 'STRING', 'BOOLEAN') then upper(t.data_type) else 'DOUBLE' end,
    t.unit, t.scaling_factor, t."offset",
    t.created_by, t.updated_by, t.created_at, t.updated_at, t.deleted_at, t.deleted_by
from seed_tag_mappings t join scada_connections c on c.id = t.connection_id join wells w on w.id = t.well_id
where not exists (select from tag_mappings m where m.id = t.id)
order by t.created_at, t.id
on conflict (connection_id, opc_node_id) where deleted_at is null do nothing
"""
_LEFT_OVER = """
select case
        when "timestamp" is null or not isfinite("timestamp") then 'timestamp'
        when well_id is null then 'well_id'
        when tag_node_id is null or tag_node_id = '' or length(tag_node_id) > 500 then 'tag_node_id'
        when quality is null or quality not in ('Good', 'Bad', 'Uncertain') then 'quality'
    end,
    count(*)
from seed_readings group by 1
"""
_FITS = """
    isfinite(s."timestamp") and s.well_id is not null and s.tag_node_id <> '' and length(s.tag_node_id) <= 500
    and s.quality in ('Good', 'Bad', 'Uncertain')
"""
_PIECE = """s.ctid >= %(first)s::tid and s.ctid < %(end)s::tid"""
_NEW_TAGS = f"""
with wanted as materialized (
    select distinct s.well_id, s.tag_node_id from {{part}} s where {_PIECE} and {_FITS}
), missing as materialized (
    select * from wanted w where not exists (
        select from tag_mappings m where m.well_id = w.well_id and m.opc_node_id = w.tag_node_id
    )
), new_wells as (
    insert into wells (id, tenant_id, name, created_by, updated_by)
    select distinct well_id, %(tenant_id)s::uuid, 'Well ' || well_id, %(actor)s::uuid, %(actor)s::uuid from missing
    on conflict do nothing
), new_connections as (
    insert into scada_connections (
        tenant_id, well_id, name, endpoint_url, security_mode, security_policy, is_enabled, created_by, updated_by
    )
    select distinct %(tenant_id)s::uuid, well_id, %(name)s, %(endpoint)s, 'Auto', 'Auto', false,
        %(actor)s::uuid, %(actor)s::uuid
    from missing m where not exists (
        select from scada_connections c
        where c.well_id = m.well_id and c.name = %(name)s and c.deleted_at is null
    )
    returning id, well_id
), connections as (
    select id, well_id from new_connections
    union all
    select distinct on (well_id) id, well_id from scada_connections
    where name = %(name)s and deleted_at is null
)
insert into tag_mappings (
    tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type, created_by, updated_by
)
select %(tenant_id)s::uuid, c.id, m.well_id, left(m.tag_node_id, 255), m.tag_node_id, 'DOUBLE',
    %(actor)s::uuid, %(actor)s::uuid
from missing m join connections c using (well_id)
order by m.well_id, m.tag_node_id
"""
# The StatusCodes Good, Bad and Uncertain: 0x00000000, 0x80000000 and 0x40000000. Of several tags of a node the living
# one, then the first: as scada_readings has it for those who write.
_MOVE = f"""
with known as materialized (
    select w.well_id, w.tag_node_id, (
        select m.tag_id from tag_mappings m
        where m.well_id = w.well_id and m.opc_node_id = w.tag_node_id
        order by m.deleted_at is not null, m.tag_id limit 1
    ) as tag_id
    from (select distinct s.well_id, s.tag_node_id from {{part}} s where {_PIECE} and {_FITS}) w
), gone as (
    delete from {{part}} s using known k
    where {_PIECE} and {_FITS} and s.well_id = k.well_id and s.tag_node_id = k.tag_node_id and k.tag_id is not null
    returning s."timestamp" as ts, k.tag_id,
        case s.quality when 'Good' then 0 when 'Bad' then -2147483648 else 1073741824 end as status, s.value
), put as (
    insert into readings (ts, tag_id, status, value)
    select ts, tag_id, status, value from gone order by tag_id, ts
    returning ts
), noted as (
    insert into rollup_changes (minutes)
    select range_agg(int8range(minute, minute, '[]'))
    from (select distinct floor(extract(epoch from ts) / 60)::bigint as minute from put) each
    having count(*) > 0
)
select count(*) from put
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was copied: how many, and the names of the connections whose password has to be set again."""

    wells: int
    connections: int
    tags: int
    without_password: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the readings are: those moved by this call so far, and bytes of the table that were gone through."""

    readings: int
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A chunk of seed_readings, or all of it where it has none. `size_bytes`, uncompressed."""

    table: sql.Identifier
    regclass: str
    compressed: bool
    is_chunk: bool
    size_bytes: int


async def take_over_catalog(connection: AsyncConnection[Any], tenant_id: UUID) -> Taken:
    """Copy wells, connections and tags that are not there yet, with their ids, for this tenant; all or nothing.

    Raises Database errors. `connection` is in autocommit mode, as for all of this module.
    """
    parameters = {"tenant_id": tenant_id, "actor": _ACTOR}
    counts = []
    without_password: list[str] = []
    with translated("cannot take over the earlier system's catalog"):
        async with connection.transaction(), connection.cursor(row_factory=scalar_row) as cursor:
            await _begin(connection)
            for table, statement in (
                ("seed_wells", _COPY_WELLS),
                ("seed_connections", _COPY_CONNECTIONS),
                ("seed_tag_mappings", _COPY_TAGS),
            ):
                await cursor.execute("select to_regclass(%s) is not null", [table])
                if not await cursor.fetchone():
                    counts.append(0)
                    continue
                counts.append((await cursor.execute(statement.encode(), parameters)).rowcount)
                if table == "seed_connections" and counts[-1]:
                    await cursor.execute(
                        "select name from seed_connections where password is not null and deleted_at is null"
                        " order by name"
                    )
                    without_password = await cursor.fetchall()
    return Taken(counts[0], counts[1], counts[2], tuple(without_password))


async def is_waiting(connection: AsyncConnection[Any]) -> bool:
    """Return whether there is a table of the earlier system's readings. Raises Database errors."""
    with translated("cannot look for the earlier system's readings"):
        found = await connection.execute("select to_regclass('seed_readings') is not null")
        return await found.fetchone() == (True,)


async def move_readings(connection: AsyncConnection[Any], tenant_id: UUID) -> AsyncGenerator[Moved, None]:
    """Move the readings that can be, and yield after each transaction; ends when none is left that can be.

    The table is dropped when nothing is left in it. May be stopped anywhere, and called again; two at once take turns.
    Raises Database errors: what was yielded is moved.
    """
    with translated("cannot convert the earlier system's readings"):
        parts = await _parts(connection) if await is_waiting(connection) else []
        total = sum(part.size_bytes for part in parts)
        readings = done = 0
        for part in parts:
            if part.compressed:
                # With its whole chunk in rows: 24 hours of them, as the earlier system made its chunks.
                await connection.execute(sql.SQL("select decompress_chunk({})").format(part.regclass))
            for first in range(0, await _pages(connection, part), _PIECE_PAGES):
                readings += await _moved_at_last(connection, part, first, tenant_id)
                gone = min((first + _PIECE_PAGES) * _PAGE_BYTES, part.size_bytes)
                yield Moved(readings, done + gone, total)
            done += part.size_bytes
            if part.is_chunk:
                await _drop_if_empty(connection, part)
        if parts:
            await _finish(connection)
            yield Moved(readings, total, total)


async def left_over(connection: AsyncConnection[Any]) -> dict[str, int]:
    """Return how many readings are left in seed_readings, by the column that does not fit; "" for those that do."""
    if not await is_waiting(connection):
        return {}
    with translated("cannot count the earlier system's readings"):
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_LEFT_OVER)
            return {reason or "": count for reason, count in await cursor.fetchall()}


async def _begin(connection: AsyncConnection[Any]) -> None:
    await connection.execute(_BEGIN.encode())


async def _parts(connection: AsyncConnection[Any]) -> list[_Part]:
    """Return the chunks, the newest first, so that what is asked for most is converted first."""
    found = await connection.execute("select to_regclass('timescaledb_information.chunks') is not null")
    if await found.fetchone() == (True,):
        chunks = await connection.execute(
            """
            select c.chunk_schema, c.chunk_name, coalesce(c.is_compressed, false)
            from timescaledb_information.chunks c
            where format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = 'seed_readings'::regclass
            order by c.range_start desc
            """
        )
        parts = [
            await _part(connection, sql.Identifier(schema, name), compressed=compressed, is_chunk=True)
            for schema, name, compressed in await chunks.fetchall()
        ]
        if parts:
            return parts
    return [await _part(connection, sql.Identifier("seed_readings"), compressed=False, is_chunk=False)]


async def _part(
    connection: AsyncConnection[Any], table: sql.Identifier, *, compressed: bool, is_chunk: bool
) -> _Part:
    regclass = table.as_string(connection)
    size = sql.SQL("select pg_relation_size({})").format(regclass)
    if compressed:
        size = sql.SQL(
            "select coalesce(max(before_compression_table_bytes), 0) from chunk_compression_stats('seed_readings')"
            " where format('%I.%I', chunk_schema, chunk_name)::regclass = {}::regclass"
        ).format(regclass)
    found = await (await connection.execute(size)).fetchone()
    assert found is not None
    return _Part(table, regclass, compressed, is_chunk, int(found[0]))


async def _pages(connection: AsyncConnection[Any], part: _Part) -> int:
    found = await connection.execute("select pg_relation_size(%s::regclass)", [part.regclass])
    row = await found.fetchone()
    assert row is not None
    return int(row[0]) // _PAGE_BYTES


async def _moved_at_last(connection: AsyncConnection[Any], part: _Part, first: int, tenant_id: UUID) -> int:
    for _ in range(_ATTEMPTS - 1):
        try:
            with translated("cannot convert the earlier system's readings"):
                return await _move_piece(connection, part, first, tenant_id)
        except DatabaseError as exc:
            if not exc.is_conflict:
                raise
    return await _move_piece(connection, part, first, tenant_id)


async def _move_piece(connection: AsyncConnection[Any], part: _Part, first: int, tenant_id: UUID) -> int:
    """Move the readings of some pages; return how many."""
    parameters = {
        "tenant_id": tenant_id,
        "actor": _ACTOR,
        "name": NEW_CONNECTION,
        "endpoint": _NO_ENDPOINT,
        "first": f"({first},0)",
        "end": f"({first + _PIECE_PAGES},0)",
    }
    async with connection.transaction():
        await _begin(connection)
        await connection.execute(sql.SQL(_NEW_TAGS).format(part=part.table), parameters)
        moved = await (
            await connection.execute(sql.SQL(_MOVE).format(part=part.table), parameters)
        ).fetchone()
    assert moved is not None
    return int(moved[0])


async def _drop_if_empty(connection: AsyncConnection[Any], part: _Part) -> None:
    """Give a chunk's space back; nobody writes into it, but somebody may be converting it, too."""
    async with connection.transaction():
        await _begin(connection)
        there = await connection.execute("select to_regclass(%s) is not null", [part.regclass])
        if await there.fetchone() == (True,) and await _is_empty(connection, part.table):
            await connection.execute(sql.SQL("drop table {}").format(part.table))


async def _finish(connection: AsyncConnection[Any]) -> None:
    """Drop the table once it is empty, and let scada_readings show ours alone."""
    async with connection.transaction():
        await _begin(connection)
        if not await is_waiting(connection) or not await _is_empty(
            connection, sql.Identifier("seed_readings")
        ):
            return
        await connection.execute("alter table seed_readings rename to seed_readings_moved")
        await connection.execute("select show_seed_readings()")
        await connection.execute("drop table seed_readings_moved")


async def _is_empty(connection: AsyncConnection[Any], table: sql.Identifier) -> bool:
    found = await connection.execute(sql.SQL("select not exists (select from {})").format(table))
    return await found.fetchone() == (True,)
