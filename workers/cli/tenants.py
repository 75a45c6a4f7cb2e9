"""`scada-engine tenant add|set|list|disable`: who the engine works for."""

from __future__ import annotations

import asyncio

import click

from engine import catalog
from engine.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseTooNew,
    MigrationError,
    ScadaError,
)
from engine.migrations import (
    DEFAULT_PARALLEL,
    Outcome,
    ProgressCallback,
    State,
    Which,
    migrate_database,
    status,
)
from engine.settings import Settings
from workers.cli.databases import master_database
from workers.cli.migrate_progress import shown_progress
from workers.cli.options import json_option, with_settings
from workers.cli.output import note, print_json, print_table
from workers.cli.take_over import take_over, take_over_catalog
from workers.cli.tenant_storage import storage

_DURABILITIES = click.Choice([str(kind) for kind in catalog.Durability])


@click.group(short_help="Add, change, list and disable tenants.")
def tenant() -> None:
    """Add, change, list and disable tenants.

    The durability of a tenant says where its readings are kept until its database has them:

    \b
    disk    In a journal on disk. A reading is acknowledged to the OPC UA server
            only when it is there. Nothing is lost when the engine is killed.
    memory  In memory only. This is weaker: what the engine holds is lost when
            its process dies, readings already acknowledged included.
    """


@tenant.command()
@click.argument("slug")
@click.option("--name", help="The company's name; without it, the slug.")
@click.option(
    "--dsn", metavar="URL", help="Its database, if not a new one on the master's server. Kept sealed."
)
@click.option(
    "--durability",
    type=_DURABILITIES,
    default=str(catalog.Durability.DISK),
    show_default=True,
    help="Where readings are kept until its database has them: in a journal on disk, or in memory, which is weaker: "
    "what the engine holds is lost when its process dies, readings already acknowledged included.",
)
@json_option
@with_settings()
def add(
    *, settings: Settings, slug: str, name: str | None, dsn: str | None, durability: str, as_json: bool
) -> None:
    """Add a tenant: create its database, migrate it, register it.

    A running engine takes it up within catalog_refresh_s seconds.
    """
    wanted = catalog.Durability(durability)
    with shown_progress() as progress:
        added = asyncio.run(
            add_tenant(settings, slug, name or slug, dsn=dsn, durability=wanted, progress=progress)
        )
    if as_json:
        print_json(_shown(added))
    else:
        click.echo(f"added tenant {added.slug} ({added.id})")


async def add_tenant(
    settings: Settings,
    slug: str,
    name: str,
    *,
    dsn: str | None = None,
    durability: catalog.Durability = catalog.Durability.DISK,
    progress: ProgressCallback | None = None,
) -> catalog.Tenant:
    """Create, migrate and register a tenant; warnings of the migrations go to stderr, `progress` is of them."""

    moved_aside = False

    async def prepare(tenant_dsn: str) -> Outcome:
        nonlocal moved_aside
        outcome = await migrate_database(tenant_dsn, Which.TENANT, label=slug, progress=progress)
        moved_aside = bool(outcome.moved_aside)
        for warning in outcome.warnings:
            note(f"{slug}: warning: {warning}")
        return outcome

    async with master_database(settings) as master:
        tenant = await catalog.add_tenant(
            master, settings, slug, name, dsn=dsn, durability=durability, prepare=prepare
        )
    if moved_aside:
        await take_over_catalog(tenant)
    return tenant


@tenant.command("set")
@click.argument("slug")
@click.option(
    "--durability",
    type=_DURABILITIES,
    required=True,
    help="Where readings are kept until its database has them; memory is weaker than disk.",
)
@with_settings()
def set_tenant(*, settings: Settings, slug: str, durability: str) -> None:
    """Change a tenant.

    A running engine takes it up within catalog_refresh_s seconds: it stores what it holds of this tenant and begins
    anew.

    With --durability memory, what the engine holds is lost when its process dies (a crash, a kill, no memory left, a
    power cut), readings that were already acknowledged to the OPC UA server included. What is lost that way is
    recorded as gaps, where it can be noticed. With disk, the default, none of this loses an acknowledged reading.
    """
    wanted = catalog.Durability(durability)
    asyncio.run(_set(settings, slug, wanted))
    click.echo(f"tenant {slug} now keeps its readings {_WHERE[wanted]} until its database has them")


_WHERE = {catalog.Durability.DISK: "on disk", catalog.Durability.MEMORY: "in memory only"}


async def _set(settings: Settings, slug: str, durability: catalog.Durability) -> None:
    async with master_database(settings) as master:
        await catalog.set_durability(master, slug, durability)


@tenant.command("list")
@click.option(
    "--check", is_flag=True, help="Ask each tenant's database whether this engine can work with it."
)
@json_option
@with_settings()
def list_all(*, settings: Settings, check: bool, as_json: bool) -> None:
    """List all tenants, disabled ones included.

    With --check, the column database says "ok", or what is wrong: it cannot be reached, is not migrated, or a newer
    engine has migrated it. An engine that runs goes on with all the others. The exit status is 4 when an active
    tenant's database is not ok.
    """
    tenants, found = asyncio.run(_list(settings, check=check))
    shown = [_shown(entry) for entry in tenants]
    columns = ["slug", "name", "status", "durability", "id"]
    if check:
        columns.append("database")
        for row, said in zip(shown, found, strict=True):
            row["database"] = str(said or "ok")
    if as_json:
        for row in shown:
            print_json(row)
    else:
        print_table(columns, [[row[column] for column in columns] for row in shown])
    bad = [
        entry.slug for entry, said in zip(tenants, found, strict=False) if said and entry.status == "active"
    ]
    if bad:
        raise MigrationError(f"not in order: {', '.join(bad[:20])}")


async def _list(settings: Settings, *, check: bool) -> tuple[list[catalog.Tenant], list[ScadaError | None]]:
    async with master_database(settings) as master:
        tenants = await catalog.list_tenants(master, settings, include_disabled=True)
    if not check:
        return tenants, []
    limit = asyncio.Semaphore(DEFAULT_PARALLEL)

    async def one(tenant: catalog.Tenant) -> ScadaError | None:
        async with limit:
            return await _problem(tenant)

    return tenants, await asyncio.gather(*map(one, tenants))


async def _problem(tenant: catalog.Tenant) -> ScadaError | None:
    """Return why the engine cannot work with a tenant's database; None if it can."""
    try:
        lines = await status(tenant.dsn, Which.TENANT)
        for line in lines:
            if line.state is State.UNKNOWN:
                return DatabaseTooNew(
                    f"migration {line.version:04}_{line.name} of engine {line.engine_version} is newer than this engine"
                )
        if pending := sum(line.state is State.PENDING for line in lines):
            return DatabaseNotMigrated(f"{pending} migrations are missing: scada-engine migrate up")
    except (ConfigurationError, DatabaseError, MigrationError) as exc:
        return exc
    return None


@tenant.command()
@click.argument("slug")
@with_settings()
def disable(*, settings: Settings, slug: str) -> None:
    """Stop working for a tenant; its database stays as it is."""
    asyncio.run(_disable(settings, slug))
    click.echo(f"disabled tenant {slug}; its readings are kept")


async def _disable(settings: Settings, slug: str) -> None:
    async with master_database(settings) as master:
        await catalog.disable_tenant(master, slug)


def _shown(tenant: catalog.Tenant) -> dict[str, object]:
    return {
        "id": tenant.id,
        "slug": tenant.slug,
        "name": tenant.name,
        "status": tenant.status,
        "durability": str(tenant.durability),
    }


tenant.add_command(take_over)
tenant.add_command(storage)
