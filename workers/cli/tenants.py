"""`scada-engine tenant add|list|disable`: who the engine works for."""

from __future__ import annotations

import asyncio

import click

from engine import catalog
from engine.migrations import Outcome, Which, migrate_database
from engine.settings import Settings
from workers.cli.databases import master_database
from workers.cli.options import json_option, with_settings
from workers.cli.output import note, print_json, print_table


@click.group(short_help="Add, list and disable tenants.")
def tenant() -> None:
    """Add, list and disable tenants."""


@tenant.command()
@click.argument("slug")
@click.option("--name", help="The company's name; without it, the slug.")
@click.option(
    "--dsn", metavar="URL", help="Its database, if not a new one on the master's server. Kept sealed."
)
@json_option
@with_settings()
def add(*, settings: Settings, slug: str, name: str | None, dsn: str | None, as_json: bool) -> None:
    """Add a tenant: create its database, migrate it, register it.

    A running engine takes it up within catalog_refresh_s seconds.
    """
    added = asyncio.run(add_tenant(settings, slug, name or slug, dsn=dsn))
    if as_json:
        print_json(_shown(added))
    else:
        click.echo(f"added tenant {added.slug} ({added.id})")


async def add_tenant(settings: Settings, slug: str, name: str, *, dsn: str | None = None) -> catalog.Tenant:
    """Create, migrate and register a tenant; warnings of the migrations go to stderr."""

    async def prepare(tenant_dsn: str) -> Outcome:
        outcome = await migrate_database(tenant_dsn, Which.TENANT, label=slug)
        for warning in outcome.warnings:
            note(f"{slug}: warning: {warning}")
        return outcome

    async with master_database(settings) as master:
        return await catalog.add_tenant(master, settings, slug, name, dsn=dsn, prepare=prepare)


@tenant.command("list")
@json_option
@with_settings()
def list_all(*, settings: Settings, as_json: bool) -> None:
    """List all tenants, disabled ones included."""
    tenants = asyncio.run(_list(settings))
    if as_json:
        for entry in tenants:
            print_json(_shown(entry))
    else:
        print_table(("slug", "name", "status", "id"), [(t.slug, t.name, t.status, t.id) for t in tenants])


async def _list(settings: Settings) -> list[catalog.Tenant]:
    async with master_database(settings) as master:
        return await catalog.list_tenants(master, settings, include_disabled=True)


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
    return {"id": tenant.id, "slug": tenant.slug, "name": tenant.name, "status": tenant.status}
