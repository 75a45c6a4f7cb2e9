"""Lists the catalog: tenants from the master database; wells, connections and tags from a tenant's.

Every list is ordered, bounded by `limit`, and goes on after the last entry of the page before. Deleted rows are left
out. A secret that does not open costs only the tenant or connection that it belongs to.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from psycopg.rows import class_row, dict_row

from engine import secrets
from engine.catalog.records import (
    ITEM_COLUMNS,
    NO_SETTINGS,
    ActiveConnection,
    ConnectionSummary,
    Durability,
    ItemSettings,
    Tag,
    Tenant,
    Well,
)
from engine.database import translated, with_database
from engine.errors import ConfigurationError, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg import AsyncConnection, AsyncCursor

    from engine.settings import Settings

log = structlog.get_logger(__name__)

MOST_ROWS_PER_PAGE = 10_000
_MOST_TAG_ID = 2**31 - 1

TAG_COLUMNS = f"""
    tag_id, id, connection_id, well_id, tag_name, opc_node_id, data_type, unit,
    coalesce(scaling_factor, 1)::float8 as scaling_factor, coalesce("offset", 0)::float8 as "offset",
    {", ".join(ITEM_COLUMNS)}
"""
_SUMMARY = f"""
    select c.id, c.well_id, c.name, c.description, c.endpoint_url, c.security_mode, c.security_policy, c.username,
        c.poll_interval_seconds, c.is_enabled, c.failover_urls, c.user_certificate is not null as has_user_certificate,
        c.allow_deprecated_policies, c.allow_plain_password, c.last_connected_at, c.last_error,
        (select count(*) from tag_mappings t where t.connection_id = c.id and t.deleted_at is null) as tags,
        c.active_endpoint_url, c.active_security_mode, c.active_security_policy, c.monitored_tags,
        c.revised_publishing_interval_ms, c.revised_lifetime_ms, {", ".join(f"c.{name}" for name in ITEM_COLUMNS)}
    from scada_connections c
"""


def tag_row(_: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Tag]:
    """Make a Tag of each row of TAG_COLUMNS; a row factory of psycopg."""
    own = len(ITEM_COLUMNS)

    def made(values: Sequence[Any]) -> Tag:
        settings = dict(zip(ITEM_COLUMNS, values[-own:], strict=True))
        any_set = any(value is not None for value in settings.values())
        return Tag(*(*values[:-own], ItemSettings(**settings) if any_set else NO_SETTINGS))

    return made


def _summary_row(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], ConnectionSummary]:
    """Make a ConnectionSummary of each row of _SUMMARY."""
    names = [column.name for column in cursor.description or ()]

    def made(values: Sequence[Any]) -> ConnectionSummary:
        row = dict(zip(names, values, strict=True))
        active = ActiveConnection(
            endpoint_url=row.pop("active_endpoint_url"),
            security_mode=row.pop("active_security_mode"),
            security_policy=row.pop("active_security_policy"),
            monitored=row.pop("monitored_tags"),
            revised_publishing_interval_ms=row.pop("revised_publishing_interval_ms"),
            revised_lifetime_ms=row.pop("revised_lifetime_ms"),
        )
        settings = ItemSettings(**{name: row.pop(name) for name in ITEM_COLUMNS})
        row["failover_urls"] = tuple(row["failover_urls"])
        return ConnectionSummary(
            **row, settings=settings, active=None if active.endpoint_url is None else active
        )

    return made


async def list_tenants(
    master: AsyncConnection[Any],
    settings: Settings,
    *,
    include_disabled: bool = False,
    older_master: bool = False,
) -> list[Tenant]:
    """Return the tenants in the order of their slugs.

    A tenant whose DSN cannot be opened with settings.secrets_key is left out, and named once in the log. A master that
    an older engine has migrated raises DatabaseNotMigrated, unless `older_master`, for those who are going to migrate.
    """
    durability = "to_jsonb(tenants) ->> 'durability'" if older_master else "durability"
    with translated("cannot list the tenants"):
        async with master.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"""
                select id, slug, name, status, database_name, dsn_sealed, {durability} as durability from tenants
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
        kept = Durability(row["durability"] or Durability.DISK)
        tenants.append(Tenant(row["id"], row["slug"], row["name"], row["status"], dsn, kept))
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
        async with database.cursor(row_factory=_summary_row) as cursor:
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
        async with database.cursor(row_factory=_summary_row) as cursor:
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
        async with database.cursor(row_factory=tag_row) as cursor:
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
