"""The databases that a command works on: the master, and the one of the tenant that --tenant means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from engine import catalog
from engine.database import connect
from engine.errors import InvalidInput, NotFound
from engine.migrations import Which
from engine.migrations_newer import refuse_newer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.settings import Settings

APPLICATION = "scada-engine command line"
_PAGE_ROWS = 1_000
_TAGS_PER_PAGE = 10_000

Entry = TypeVar("Entry", catalog.Well, catalog.ConnectionSummary)


@asynccontextmanager
async def master_database(settings: Settings, *, newer: bool = False) -> AsyncIterator[AsyncConnection]:
    """Open the master database; the catalog's commands commit by themselves.

    One that a newer engine has migrated is refused (DatabaseTooNew), unless `newer`, for those who look at that.
    """
    async with await connect(settings.database_url, application=APPLICATION, autocommit=True) as connection:
        if not newer:
            await refuse_newer(connection, Which.MASTER)
        yield connection


@asynccontextmanager
async def tenant_database(
    settings: Settings, slug: str | None
) -> AsyncIterator[tuple[catalog.Tenant, AsyncConnection]]:
    """Open the database of the tenant that `find_tenant` finds; one of a newer engine is refused (DatabaseTooNew)."""
    async with master_database(settings) as master:
        tenant = await find_tenant(master, settings, slug)
    async with await connect(tenant.dsn, application=APPLICATION, autocommit=True) as connection:
        await refuse_newer(connection, Which.TENANT)
        yield tenant, connection


async def find_tenant(
    master: AsyncConnection, settings: Settings, slug: str | None, *, older_master: bool = False
) -> catalog.Tenant:
    """Return the tenant of that slug, or the only active one when none is named."""
    tenants = await catalog.list_tenants(
        master, settings, include_disabled=slug is not None, older_master=older_master
    )
    if slug is not None:
        for tenant in tenants:
            if tenant.slug == slug:
                return tenant
        raise NotFound("--tenant", f"there is no tenant {slug!r}; `scada-engine tenant list` shows them")
    if not tenants:
        raise NotFound("--tenant", "there is no active tenant yet; add one: scada-engine tenant add SLUG")
    if len(tenants) > 1:
        names = ", ".join(tenant.slug for tenant in tenants[:10]) + (", ..." if len(tenants) > 10 else "")
        raise InvalidInput("--tenant", f"there are {len(tenants)} active tenants, say which one: {names}")
    return tenants[0]


async def all_wells(database: AsyncConnection) -> list[catalog.Well]:
    """Return every well of the tenant, in the order of their names."""
    return await _all(partial(catalog.list_wells, database))


async def find_well(database: AsyncConnection, text: str) -> UUID:
    """Return the id of the well with this name, or the id itself; raises NotFound."""
    with suppress(ValueError):
        return UUID(text)
    for well in await all_wells(database):
        if well.name == text:
            return well.id
    raise NotFound("--well", f"there is no well {text!r}")


async def all_connections(database: AsyncConnection) -> list[catalog.ConnectionSummary]:
    """Return every connection of the tenant, in the order of their names."""
    return await _all(partial(catalog.list_connections, database))


def find_connection(
    connections: Sequence[catalog.ConnectionSummary], wanted: str, *, field: str = "--connection"
) -> catalog.ConnectionSummary:
    """Return the one with this name or id; raises NotFound, or InvalidInput where several have the name."""
    fitting = [entry for entry in connections if wanted in (entry.name, str(entry.id))]
    if not fitting:
        raise NotFound(field, f"there is no connection {wanted!r}; `connection list` shows them")
    if len(fitting) > 1:
        ids = ", ".join(str(entry.id) for entry in fitting)
        raise InvalidInput(field, f"{len(fitting)} have the name {wanted!r}, give the id: {ids}")
    return fitting[0]


async def _all(page: Callable[..., Awaitable[list[Entry]]]) -> list[Entry]:
    entries: list[Entry] = []
    while True:
        more = await page(limit=_PAGE_ROWS, after=entries[-1].id if entries else None)
        entries += more
        if len(more) < _PAGE_ROWS:
            return entries


async def all_tags(database: AsyncConnection, *, connection_id: UUID | None = None) -> list[catalog.Tag]:
    """Return every tag of the tenant or of one connection, in the order of their tag ids."""
    return [tag async for page in tag_pages(database, connection_id=connection_id) for tag in page]


async def tag_pages(
    database: AsyncConnection, *, connection_id: UUID | None = None, after: int | None = None
) -> AsyncIterator[list[catalog.Tag]]:
    """Yield the tags of the tenant or of one connection behind `after`, page by page, in the order of their tag ids."""
    while True:
        page = await catalog.list_tags(
            database, connection_id=connection_id, limit=_TAGS_PER_PAGE, after=after
        )
        if page:
            yield page
            after = page[-1].tag_id
        if len(page) < _TAGS_PER_PAGE:
            return
