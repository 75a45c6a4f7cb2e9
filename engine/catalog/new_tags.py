"""Adds tags to a connection: those of one call, which are returned, or a whole plant's, a million at once.

All of them or none: everything is checked before anything is written (see rules), in one transaction. PostgreSQL gets
columns, not rows, and of a column in which no tag says anything nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.rows import scalar_row

from engine.catalog.commands import ENGINE_ACTOR, check_wells
from engine.catalog.queries import TAG_COLUMNS, tag_row
from engine.catalog.records import ITEM_COLUMNS, NO_SETTINGS, NewTag, Tag
from engine.catalog.rules import MOST_TAGS_PER_IMPORT, InvalidRows, check_tags, decimal_of
from engine.database import translated
from engine.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# A statement of an import takes a second, so that who waits sees it go on, and an end of it is soon obeyed.
_TAGS_PER_STATEMENT = 10_000
_ITEM_TYPES = {
    "publishing_interval_ms": "float8",
    "sampling_interval_ms": "float8",
    "queue_size": "int",
    "discard_oldest": "bool",
    "deadband_value": "float8",
}
_OWN = ", ".join(ITEM_COLUMNS)
# In one statement, so that no other writer can come in between. An array that is null is a column of nulls.
_INSERT = f"""
    insert into tag_mappings (
        tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type, unit, scaling_factor, "offset",
        created_by, updated_by, {_OWN}
    )
    select %(tenant_id)s, %(connection_id)s, coalesce(n.well_id, %(well_id)s), n.tag_name, n.opc_node_id, n.data_type,
        n.unit, coalesce(n.scaling_factor, 1), coalesce(n.added, 0), %(actor)s, %(actor)s, {_OWN}
    from unnest(
        %(well_ids)s::uuid[], %(names)s::text[], %(nodes)s::text[], %(types)s::text[], %(units)s::text[],
        %(factors)s::numeric[], %(offsets)s::numeric[],
        {", ".join(f"%({name})s::{_ITEM_TYPES.get(name, 'text')}[]" for name in ITEM_COLUMNS)}
    ) with ordinality as n(
        well_id, tag_name, opc_node_id, data_type, unit, scaling_factor, added, {_OWN}, place
    )
    order by n.place
    on conflict (connection_id, opc_node_id) where deleted_at is null do nothing
    returning
"""


async def add_tags(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    connection_id: UUID,
    tags: Sequence[NewTag],
    *,
    actor: UUID = ENGINE_ACTOR,
) -> list[Tag]:
    """Add tags to a connection, all of them or none; return them in the order of `tags`.

    Raises InvalidRows, which names every tag that does not fit or whose node the connection already reads, and
    NotFound for the connection or a well.
    """
    check_tags(tags)
    with translated("cannot add the tags"):
        async with database.transaction():
            columns = await _fixed_columns(database, tenant_id, connection_id, tags, actor, keeps=True)
            async with database.cursor(row_factory=tag_row) as cursor:
                await cursor.execute(f"{_INSERT} {TAG_COLUMNS}", columns | _columns(tags))
                added = {tag.opc_node_id: tag async for tag in cursor}
            if taken := _taken(0, tags, added):
                raise InvalidRows(taken)
    return [added[tag.opc_node_id] for tag in tags]


async def import_tags(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    connection_id: UUID,
    tags: Sequence[NewTag],
    *,
    actor: UUID = ENGINE_ACTOR,
    checked: Callable[[int], None] | None = None,
    written: Callable[[int], None] | None = None,
) -> None:
    """Add up to MOST_TAGS_PER_IMPORT tags to a connection, all of them or none. Raises as add_tags.

    `checked` and then `written` are called now and then with the number of tags that are so far. Takes a minute or
    more a million; the connection goes on meanwhile with the tags that it has.
    """
    check_tags(tags, most=MOST_TAGS_PER_IMPORT, progress=checked)
    taken: list[InvalidInput] = []
    with translated("cannot import the tags"):
        async with database.transaction():
            columns = await _fixed_columns(database, tenant_id, connection_id, tags, actor, keeps=False)
            for first in range(0, len(tags), _TAGS_PER_STATEMENT):
                part = tags[first : first + _TAGS_PER_STATEMENT]
                async with database.cursor(row_factory=scalar_row) as cursor:
                    await cursor.execute(f"{_INSERT} opc_node_id", columns | _columns(part))
                    taken += _taken(first, part, set(await cursor.fetchall()))
                if written is not None:
                    written(first + len(part))
            if taken:
                raise InvalidRows(taken)
            # Only now: how the connection is doing is written into the same row, and must not wait for a minute.
            await _well_of(database, tenant_id, connection_id, keeps=True)


def _taken(first: int, tags: Sequence[NewTag], added: set[str] | dict[str, Tag]) -> list[InvalidInput]:
    return [
        InvalidInput(f"tags[{place}].opc_node_id", f"{tag.opc_node_id!r} is already a tag of this connection")
        for place, tag in enumerate(tags, first)
        if tag.opc_node_id not in added
    ]


async def _fixed_columns(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    connection_id: UUID,
    tags: Sequence[NewTag],
    actor: UUID,
    *,
    keeps: bool,
) -> dict[str, Any]:
    """Return what all tags have in common; raises NotFound for the connection or a well of a tag."""
    well_id = await _well_of(database, tenant_id, connection_id, keeps=keeps)
    await check_wells(database, tenant_id, "well_id", {tag.well_id or well_id for tag in tags})
    return {"tenant_id": tenant_id, "connection_id": connection_id, "well_id": well_id, "actor": actor}


def _columns(tags: Sequence[NewTag]) -> dict[str, Any]:
    columns: dict[str, list[Any] | None] = {
        "names": [tag.tag_name for tag in tags],
        "nodes": [tag.opc_node_id for tag in tags],
        "types": [tag.data_type for tag in tags],
        "well_ids": _unless_all([tag.well_id for tag in tags], None),
        "units": _unless_all([tag.unit for tag in tags], None),
        "factors": _unless_all([decimal_of("scaling_factor", tag.scaling_factor) for tag in tags], 1),
        "offsets": _unless_all([decimal_of("offset", tag.offset) for tag in tags], 0),
    }
    plain = all(tag.settings is NO_SETTINGS for tag in tags)
    for name in ITEM_COLUMNS:
        columns[name] = None if plain else _unless_all([getattr(tag.settings, name) for tag in tags], None)
    return columns


def _unless_all(column: list[Any], default: object) -> list[Any] | None:
    """Return the column, or None where it holds the default alone."""
    return None if column.count(default) == len(column) else column


async def _well_of(
    database: AsyncConnection[Any], tenant_id: UUID, connection_id: UUID, *, keeps: bool
) -> UUID:
    """Return the connection's well; with `keeps`, nobody deletes or changes the connection in this transaction."""
    cursor = await database.execute(
        f"""
        select well_id from scada_connections where id = %s and tenant_id = %s and deleted_at is null
        {"for share" if keeps else ""}
        """,
        [connection_id, tenant_id],
    )
    found = await cursor.fetchone()
    if found is None:
        raise NotFound("connection_id", f"there is no connection {connection_id}")
    well_id: UUID = found[0]
    return well_id
