"""Changes the list of tenants in the master database.

Adding a tenant goes in an order that a crash cannot spoil: create the database and mark it as "being added", let the
caller prepare it (migrations), and only then register it. What was left half-made is not in the list, so nobody uses
it, and the same command takes it up again. A database of somebody else is never taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from psycopg import errors, sql

from engine import secrets
from engine.catalog.plain_rules import check_text
from engine.catalog.queries import list_tenants
from engine.catalog.records import Durability, Tenant
from engine.catalog.rules import check_slug
from engine.database import connect, place, translated, with_database
from engine.errors import ConfigurationError, InvalidInput, NotFound

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.settings import Settings

_APPLICATION = "scada-engine catalog"
_DATABASE_PREFIX = "scada_"
# PostgreSQL cuts longer names without an error (NAMEDATALEN - 1).
_MOST_NAME_BYTES = 63


async def add_tenant(
    master: AsyncConnection[Any],
    settings: Settings,
    slug: str,
    name: str,
    *,
    dsn: str | None = None,
    durability: Durability = Durability.DISK,
    prepare: Callable[[str], Awaitable[object]] | None = None,
) -> Tenant:
    """Add a tenant with a database of its own, new on the master's server unless `dsn` names one; commits.

    `prepare` is awaited with the database's DSN before the tenant is registered: it makes the tables. Raises
    InvalidInput for a slug, name or database that does not fit or is taken, and Database errors.
    """
    check_slug(slug)
    check_text("name", name, most=255)
    await _check_free(master, settings, slug, dsn)
    database_name = None if dsn else _database_name(slug)
    if database_name is not None:
        await _create_database(settings, database_name, slug)
    tenant_dsn = dsn or with_database(settings.database_url, database_name or "")
    if prepare is not None:
        await prepare(tenant_dsn)
    tenant_id = uuid4()
    sealed = secrets.seal(dsn, key=settings.secrets_key, tenant_id=tenant_id).encode() if dsn else None
    tenant = Tenant(tenant_id, slug, name, "active", tenant_dsn, durability)
    await _register(master, tenant, database_name=database_name, dsn_sealed=sealed)
    if database_name is not None:
        await _mark(settings, database_name, _owner_mark(slug))
    return tenant


async def set_durability(master: AsyncConnection[Any], slug: str, durability: Durability) -> None:
    """Say where a tenant's readings are kept until its database has them. Commits. Raises NotFound."""
    with translated("cannot change the tenant"):
        async with master.transaction():
            changed = await master.execute(
                "update tenants set durability = %s, updated_at = now() where slug = %s", [durability, slug]
            )
            if changed.rowcount == 0:
                raise NotFound("slug", f"there is no tenant {slug!r}")


async def disable_tenant(master: AsyncConnection[Any], slug: str) -> None:
    """Stop reading and answering for a tenant; its database stays as it is. Commits. Raises NotFound."""
    with translated("cannot disable the tenant"):
        async with master.transaction():
            changed = await master.execute(
                "update tenants set status = 'disabled', updated_at = now() where slug = %s", [slug]
            )
            if changed.rowcount == 0:
                raise NotFound("slug", f"there is no tenant {slug!r}")


async def _check_free(master: AsyncConnection[Any], settings: Settings, slug: str, dsn: str | None) -> None:
    """Refuse a slug that is taken, and a database that already belongs to somebody."""
    with translated("cannot read the tenants"):
        # The slug alone first: list_tenants leaves out tenants whose DSN cannot be opened.
        if (await master.execute("select from tenants where slug = %s", [slug])).rowcount:
            raise InvalidInput("slug", f"there is already a tenant {slug!r}")
    if dsn is None:
        return
    try:
        wanted = place(dsn)
    except ConfigurationError as exc:
        raise InvalidInput("dsn", str(exc)) from None
    # Fails here, before anything is made, when there is no key.
    secrets.seal(dsn, key=settings.secrets_key, tenant_id=UUID(int=0))
    if wanted == place(settings.database_url):
        raise InvalidInput("dsn", f"{wanted} is the master database")
    for other in await list_tenants(master, settings, include_disabled=True):
        if place(other.dsn) == wanted:
            raise InvalidInput("dsn", f"{wanted} is already the database of tenant {other.slug!r}")


def _database_name(slug: str) -> str:
    name = _DATABASE_PREFIX + slug.replace("-", "_")
    if len(name) > _MOST_NAME_BYTES:
        most = _MOST_NAME_BYTES - len(_DATABASE_PREFIX)
        raise InvalidInput(
            "slug", f"{slug!r} has {len(slug)} characters; at most {most} fit into a database's name"
        )
    return name


async def _create_database(settings: Settings, name: str, slug: str) -> None:
    """Create the database, or take up one that is empty or that an earlier `add_tenant` left half-made."""
    # CREATE DATABASE cannot be in a transaction, so it needs a connection of its own.
    async with await connect(settings.database_url, application=_APPLICATION, autocommit=True) as server:
        with translated(f'cannot create the database "{name}"'):
            # Made and marked in two steps: a crash in between leaves an empty one, which is taken up as well.
            with suppress(errors.DuplicateDatabase):
                await server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            cursor = await server.execute(
                "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", [name]
            )
            found = await cursor.fetchone()
    if found is not None and found[0] == _half_made_mark(slug):
        return
    await _check_empty(settings, name)
    await _mark(settings, name, _half_made_mark(slug))


async def _check_empty(settings: Settings, name: str) -> None:
    dsn = with_database(settings.database_url, name)
    async with await connect(dsn, application=_APPLICATION, autocommit=True) as database:
        with translated(f'cannot look into the database "{name}"'):
            cursor = await database.execute(
                """
                select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind in ('r', 'p', 'v', 'm', 'f')
                    and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%%'
                    -- What came with an extension in the template is nobody's data.
                    and not exists (
                        select from pg_depend d
                        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
                    )
                order by 1 limit 1
                """
            )
            found = await cursor.fetchone()
    if found is not None:
        raise InvalidInput(
            "slug",
            f'the database "{name}" exists and holds tables such as "{found[0]}"; '
            "name another slug, or give its DSN to use it as it is",
        )


async def _register(
    master: AsyncConnection[Any],
    tenant: Tenant,
    *,
    database_name: str | None,
    dsn_sealed: bytes | None,
) -> None:
    with translated("cannot register the tenant"):
        async with master.transaction():
            added = await master.execute(
                """
                insert into tenants (id, slug, name, database_name, dsn_sealed, durability)
                values (%s, %s, %s, %s, %s, %s)
                on conflict do nothing
                """,
                [tenant.id, tenant.slug, tenant.name, database_name, dsn_sealed, tenant.durability],
            )
    if added.rowcount == 0:
        raise InvalidInput(
            "slug", f"{tenant.slug!r} or its database was given to another tenant in the meantime"
        )


async def _mark(settings: Settings, name: str, mark: str) -> None:
    async with await connect(settings.database_url, application=_APPLICATION, autocommit=True) as server:
        with translated(f'cannot mark the database "{name}"'):
            await server.execute(
                sql.SQL("comment on database {} is {}").format(sql.Identifier(name), sql.Literal(mark))
            )


def _half_made_mark(slug: str) -> str:
    return f"scada-engine: tenant {slug} is being added"


def _owner_mark(slug: str) -> str:
    return f"scada-engine: tenant {slug}"
