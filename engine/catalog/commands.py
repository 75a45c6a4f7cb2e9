"""Changes a tenant's catalog: wells and connections, and deletes tags. Tenants are in tenants.py, new tags in
new_tags.py.

Every command checks all its fields first (see rules), and then does all of its work or none of it. Deleting marks
rows only: history stays readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.rows import class_row

from engine import secrets
from engine.catalog.plain_rules import check_text
from engine.catalog.queries import get_connection
from engine.catalog.records import ITEM_COLUMNS, ConnectionSummary, NewConnection, Well
from engine.catalog.rules import check_connection
from engine.database import translated
from engine.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# created_by and updated_by of what no person asked for: the seed, and callers without an identity.
ENGINE_ACTOR = UUID(int=0)


async def add_well(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    name: str,
    *,
    description: str | None = None,
    actor: UUID = ENGINE_ACTOR,
) -> Well:
    """Add a well; raises InvalidInput for a name that does not fit or is taken."""
    check_text("name", name, most=255)
    if description is not None:
        check_text("description", description, most=10_000, lines=True)
    with translated("cannot add the well"):
        async with database.transaction(), database.cursor(row_factory=class_row(Well)) as cursor:
            await cursor.execute(
                """
                insert into wells (tenant_id, name, description, created_by, updated_by)
                values (%(tenant_id)s, %(name)s, %(description)s, %(actor)s, %(actor)s)
                on conflict (tenant_id, name) where deleted_at is null do nothing
                returning id, name, description
                """,
                {"tenant_id": tenant_id, "name": name, "description": description, "actor": actor},
            )
            added = await cursor.fetchone()
    if added is None:
        raise InvalidInput("name", f"there is already a well {name!r}")
    return added


async def add_connection(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    new: NewConnection,
    *,
    secrets_key: str = "",
    actor: UUID = ENGINE_ACTOR,
) -> ConnectionSummary:
    """Add a connection; its password and its user's private key are sealed with `secrets_key`.

    Raises InvalidInput for a field that does not fit, NotFound for the well, and ConfigurationError when there is a
    secret and no key to seal it with.
    """
    check_connection(new)
    columns = connection_columns(new, tenant_id, actor, secrets_key)
    with translated("cannot add the connection"):
        async with database.transaction():
            await check_wells(database, tenant_id, "well_id", [new.well_id])
            cursor = await database.execute(
                f"""
                insert into scada_connections ({", ".join(columns)})
                values ({", ".join(f"%({name})s" for name in columns)}) returning id
                """,
                columns,
            )
            added = await cursor.fetchone()
            assert added is not None
            return await get_connection(database, added[0])


def connection_columns(new: NewConnection, tenant_id: UUID, actor: UUID, secrets_key: str) -> dict[str, Any]:
    """Return the columns of scada_connections for what is asked for, its secrets sealed."""
    columns: dict[str, Any] = {column.name: getattr(new, column.name) for column in fields(new)}
    settings = columns.pop("settings")
    columns |= {name: getattr(settings, name) for name in ITEM_COLUMNS}
    columns["failover_urls"] = list(new.failover_urls)
    for name in ("password", "user_private_key"):
        if columns[name] is not None:
            columns[name] = secrets.seal(columns[name], key=secrets_key, tenant_id=tenant_id)
    return columns | {"tenant_id": tenant_id, "created_by": actor, "updated_by": actor}


async def delete_connection(
    database: AsyncConnection[Any], connection_id: UUID, *, actor: UUID = ENGINE_ACTOR
) -> None:
    """Mark a connection and its tags as deleted; raises NotFound."""
    with translated("cannot delete the connection"):
        async with database.transaction():
            for table, column in (("scada_connections", "id"), ("tag_mappings", "connection_id")):
                deleted = await database.execute(
                    f"""
                    update {table} set deleted_at = now(), deleted_by = %(actor)s
                    where {column} = %(id)s and deleted_at is null
                    """,
                    {"actor": actor, "id": connection_id},
                )
                if table == "scada_connections" and deleted.rowcount == 0:
                    raise NotFound("connection_id", f"there is no connection {connection_id}")


async def delete_tag(database: AsyncConnection[Any], tag_id: int, *, actor: UUID = ENGINE_ACTOR) -> None:
    """Mark a tag as deleted; raises NotFound."""
    with translated("cannot delete the tag"):
        async with database.transaction():
            deleted = await database.execute(
                "update tag_mappings set deleted_at = now(), deleted_by = %s where tag_id = %s and deleted_at is null",
                [actor, tag_id],
            )
            if deleted.rowcount == 0:
                raise NotFound("tag_id", f"there is no tag {tag_id}")


async def check_wells(
    database: AsyncConnection[Any], tenant_id: UUID, field: str, well_ids: Iterable[UUID]
) -> None:
    """Refuse wells that are not there; raises NotFound with the field's name."""
    wanted = set(well_ids)
    cursor = await database.execute(
        "select id from wells where id = any(%s) and tenant_id = %s and deleted_at is null",
        [list(wanted), tenant_id],
    )
    missing = wanted - {row[0] for row in await cursor.fetchall()}
    if missing:
        raise NotFound(field, f"there is no well {min(missing)}")
