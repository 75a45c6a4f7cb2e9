"""Changes a connection that is there. What is not named stays as it is, secrets included, which are not opened for it.

A worker takes a change up by itself: it ends the session and makes a new one with what holds now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from uuid import UUID

from engine.catalog.commands import ENGINE_ACTOR, connection_columns
from engine.catalog.queries import get_connection
from engine.catalog.records import ITEM_COLUMNS, ConnectionSummary, NewConnection
from engine.catalog.rules import check_connection
from engine.database import translated
from engine.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from psycopg import AsyncConnection

CHANGEABLE = frozenset(column.name for column in fields(NewConnection)) - {"well_id"}
_NOT_SHOWN = {"password", "user_certificate", "user_private_key"}


async def change_connection(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    connection_id: UUID,
    changes: Mapping[str, Any],
    *,
    secrets_key: str = "",
    actor: UUID = ENGINE_ACTOR,
) -> ConnectionSummary:
    """Set the fields of NewConnection that `changes` names, and return the connection.

    Without a username there is no password. A user's certificate comes with its key, and `settings` as a whole. Raises
    NotFound, InvalidInput for a field that does not fit, and ConfigurationError for a secret without a key to seal it.
    """
    if not changes or not set(changes) <= CHANGEABLE:
        wrong = ", ".join(sorted(set(changes) - CHANGEABLE)) or "nothing"
        raise InvalidInput("changes", f"{wrong} cannot be changed")
    wanted = dict(changes)
    if "username" in wanted and wanted["username"] is None:
        wanted["password"] = None
    with translated("cannot change the connection"):
        async with database.transaction():
            locked = await database.execute(
                "select from scada_connections where id = %s and tenant_id = %s and deleted_at is null for update",
                [connection_id, tenant_id],
            )
            if locked.rowcount == 0:
                raise NotFound("connection_id", f"there is no connection {connection_id}")
            now = await get_connection(database, connection_id)
            kept = {name: getattr(now, name) for name in CHANGEABLE - _NOT_SHOWN | {"well_id"}}
            new = NewConnection(**kept | wanted)
            check_connection(new)
            columns = connection_columns(new, tenant_id, actor, secrets_key)
            names = {*wanted, "updated_by"} - {"settings"} | (
                set(ITEM_COLUMNS) if "settings" in wanted else set()
            )
            await database.execute(
                f"""
                update scada_connections
                set {", ".join(f"{name} = %({name})s" for name in sorted(names))}, updated_at = now()
                where id = %(id)s
                """,
                {name: columns[name] for name in names} | {"id": connection_id},
            )
            return await get_connection(database, connection_id)
