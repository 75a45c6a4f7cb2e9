"""Reads the catalog: tenants from the master database; wells, connections and tags from a tenant's.

Every list is ordered, bounded by `limit`, and goes on after the last entry of the page before. Deleted rows are left
out. A secret that does not open costs only the tenant or connection that it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from psycopg.rows import class_row, dict_row

from engine import secrets
from engine.catalog.records import Connection, ConnectionSummary, Tag, Tenant, Well
from engine.catalog.tag_set import TagSet
from engine.database import translated, with_database
from engine.errors import ConfigurationError, InvalidInput, NotFound

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.settings import Settings

log = structlog.get_logger(__name__)

MOST_ROWS_PER_PAGE = 10_000
_MOST_TAG_ID = 2**31 - 1

TAG_COLUMNS = """
    tag_id, id, connection_id, well_id, tag_name, opc_node_id, data_type, unit,
    coalesce(scaling_factor, 1)::float8 as scaling_factor, coalesce("offset", 0)::float8 as "offset"
"""
_SUMMARY = """
    select c.id, c.well_id, c.name, c.description, c.endpoint_url, c.security_mode, c.security_policy, c.username,
        c.poll_interval_seconds, c.is_enabled, c.last_connected_at, c.last_error,
        (select count(*) from tag_mappings t where t.connection_id = c.id and t.deleted_at is null) as tags
    from scada_connections c
"""


async def list_tenants(
    master: AsyncConnection[Any], settings: Settings, *, include_disabled: bool = False
) -> list[Tenant]:
    """Return the tenants in the order of their slugs.

    A tenant whose DSN cannot be opened with settings.secrets_key is left out, and named once in the log.
    """
    with translated("cannot list the tenants"):
        async with master.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                select id, slug, name, status, database_name, dsn_sealed from tenants
                where %s or status = 'active' order by slug
                """,
                [include_disabled],
            )
            rows = await cursor.fetchall()
    tenants = []
    for row in rows:
        try:
            dsn = _dsn(row, settings)
        except ConfigurationError as exc:
            _say_once("a tenant is left out: its DSN cannot be opened", str(row["slug"]), str(exc))
            continue
        tenants.append(Tenant(row["id"], row["slug"], row["name"], row["status"], dsn))
    return tenants


def _dsn(row: dict[str, Any], settings: Settings) -> str:
    if row["dsn_sealed"] is None:
        return with_database(settings.database_url, row["database_name"])
    return secrets.unseal(
        row["dsn_sealed"].decode("ascii", "replace"), key=settings.secrets_key, tenant_id=row["id"]
    )


@cache
def _say_once(event: str, name: str, error: str) -> None:
    """Log a problem that is found again at every refresh, once. As many as there are broken rows."""
    log.warning(event, name=name, error=error)


async def load_connections(
    database: AsyncConnection[Any], tenant_id: UUID, *, secrets_key: str = ""
) -> list[Connection]:
    """Return the enabled connections with their tags, in the order of their names and tag ids.

    A connection whose password cannot be opened is left out, and the reason is written to its last_error.
    """
    with translated("cannot load the connections"):
        async with database.cursor(row_factory=class_row(Tag)) as cursor:
            # The tags first: a connection that is added in between then has none yet, and gets them next time.
            await cursor.execute(
                f"select {TAG_COLUMNS} from tag_mappings where deleted_at is null order by tag_id"
            )
            tags: defaultdict[UUID, list[Tag]] = defaultdict(list)
            async for tag in cursor:
                tags[tag.connection_id].append(tag)
        async with database.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                select id, well_id, name, endpoint_url, security_mode, security_policy, username, password,
                    poll_interval_seconds, is_enabled, updated_at, last_error
                from scada_connections
                where tenant_id = %s and is_enabled and deleted_at is null
                order by name, id
                """,
                [tenant_id],
            )
            rows = await cursor.fetchall()
    connections = []
    for row in rows:
        last_error = row.pop("last_error")
        try:
            if row["password"] is not None:
                row["password"] = secrets.unseal(row["password"], key=secrets_key, tenant_id=tenant_id)
        except ConfigurationError as exc:
            if last_error != str(exc):
                await record_connection(database, row["id"], connected=False, error=str(exc))
            continue
        connections.append(Connection(**row, tags=TagSet.of(tags[row["id"]])))
    return connections


async def record_connection(
    database: AsyncConnection[Any], connection_id: UUID, *, connected: bool, error: str | None
) -> None:
    """Write how a connection is doing: last_connected_at when it is connected, and last_error."""
    told = None if error is None else error.replace("\0", "␀")[:2_000]
    with translated("cannot record the state of a connection"):
        await database.execute(
            """
            update scada_connections
            set last_connected_at = case when %s then now() else last_connected_at end, last_error = %s
            where id = %s
            """,
            [connected, told, connection_id],
        )


async def list_wells(
    database: AsyncConnection[Any], *, limit: int = 100, after: UUID | None = None
) -> list[Well]:
    """Return a page of wells in the order of their names; `after` is the last well of the page before."""
    _check_limit(limit)
    with translated("cannot list the wells"):
        async with database.cursor(row_factory=class_row(Well)) as cursor:
            await cursor.execute(
                """
                select id, name, description from wells
                where deleted_at is null
                    and (%(after)s::uuid is null or (name, id) > (select name, id from wells where id = %(after)s))
                order by name, id limit %(limit)s
                """,
                {"after": after, "limit": limit},
            )
            page = await cursor.fetchall()
        if not page:
            await _check_after(database, "wells", after)
    return page


async def list_connections(
    database: AsyncConnection[Any], *, limit: int = 100, after: UUID | None = None
) -> list[ConnectionSummary]:
    """Return a page of connections in the order of their names; `after` is the last one of the page before."""
    _check_limit(limit)
    with translated("cannot list the connections"):
        async with database.cursor(row_factory=class_row(ConnectionSummary)) as cursor:
            await cursor.execute(
                f"""
                {_SUMMARY}
                where c.deleted_at is null and (
                    %(after)s::uuid is null
                    or (c.name, c.id) > (select a.name, a.id from scada_connections a where a.id = %(after)s)
                )
                order by c.name, c.id limit %(limit)s
                """,
                {"after": after, "limit": limit},
            )
            page = await cursor.fetchall()
        if not page:
            await _check_after(database, "scada_connections", after)
    return page


async def get_connection(database: AsyncConnection[Any], connection_id: UUID) -> ConnectionSummary:
    """Return one connection; raises NotFound."""
    with translated("cannot read a connection"):
        async with database.cursor(row_factory=class_row(ConnectionSummary)) as cursor:
            await cursor.execute(f"{_SUMMARY} where c.id = %s and c.deleted_at is null", [connection_id])
            found = await cursor.fetchone()
    if found is None:
        raise NotFound("connection_id", f"there is no connection {connection_id}")
    return found


async def list_tags(
    database: AsyncConnection[Any],
    *,
    connection_id: UUID | None = None,
    well_id: UUID | None = None,
    limit: int = 100,
    after: int | None = None,
) -> list[Tag]:
    """Return a page of tags in the order of their tag ids; `after` is the last tag_id of the page before."""
    _check_limit(limit)
    if after is not None and not 0 <= after <= _MOST_TAG_ID:
        raise InvalidInput("after", f"{after} is not a tag id")
    with translated("cannot list the tags"):
        async with database.cursor(row_factory=class_row(Tag)) as cursor:
            await cursor.execute(
                f"""
                select {TAG_COLUMNS} from tag_mappings
                where deleted_at is null
                    and (%(connection_id)s::uuid is null or connection_id = %(connection_id)s)
                    and (%(well_id)s::uuid is null or well_id = %(well_id)s)
                    and (%(after)s::integer is null or tag_id > %(after)s)
                order by tag_id limit %(limit)s
                """,
                {"connection_id": connection_id, "well_id": well_id, "after": after, "limit": limit},
            )
            return await cursor.fetchall()


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MOST_ROWS_PER_PAGE:
        raise InvalidInput("limit", f"{limit} is not between 1 and {MOST_ROWS_PER_PAGE}")


async def _check_after(database: AsyncConnection[Any], table: str, after: UUID | None) -> None:
    """Tell an end of the list from a place that never was in it."""
    if after is None:
        return
    found = await database.execute(f"select from {table} where id = %s", [after])
    if found.rowcount == 0:
        raise NotFound("after", f"there is no entry {after} to go on from")
