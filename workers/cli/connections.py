"""`scada-engine connection add|list` and `seed`: the OPC UA servers of a tenant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from engine import catalog
from engine.settings import Settings
from workers.cli.databases import all_connections, all_wells, tenant_database
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import print_json, print_table

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SIMULATOR = "opc.tcp://127.0.0.1:4840"


@click.group(short_help="Add and list OPC UA connections.")
def connection() -> None:
    """Add and list OPC UA connections."""


@connection.command()
@click.argument("name")
@click.option("--endpoint", "endpoint_url", required=True, metavar="URL", help="opc.tcp://host:port")
@click.option("--well", required=True, metavar="NAME", help="Its well; one of a new name is added.")
@click.option("--description", help="For people.")
@click.option(
    "--security-mode",
    type=click.Choice(catalog.SECURITY_MODES),
    default="None",
    show_default=True,
    help="OPC UA's.",
)
@click.option(
    "--security-policy",
    type=click.Choice(catalog.SECURITY_POLICIES),
    default="None",
    show_default=True,
    help="OPC UA's.",
)
@click.option("--username", help="For servers that want one.")
@click.option(
    "--password-file", type=click.File("r"), help="Its password, kept sealed; - reads it from stdin."
)
@click.option("--disabled", is_flag=True, help="Do not connect yet.")
@tenant_option
@json_option
@with_settings()
def add(*, settings: Settings, tenant: str | None, well: str, password_file: Any, as_json: bool, disabled: bool,
        **values: str | None) -> None:  # fmt: skip
    """Add a connection to an OPC UA server.

    It reads nothing until `tags import` gives it tags.
    """
    password = password_file.readline().rstrip("\r\n") if password_file else None
    parameters: dict[str, Any] = values | {"password": password, "is_enabled": not disabled}
    added = asyncio.run(_add(settings, tenant, well, parameters))
    if as_json:
        print_json(_shown(added, well))
    else:
        click.echo(f"added connection {added.name} ({added.id})")


async def _add(
    settings: Settings, slug: str | None, well: str, parameters: dict[str, Any]
) -> catalog.ConnectionSummary:
    async with tenant_database(settings, slug) as (tenant, database), database.transaction():
        well_id = await _well_id(database, tenant.id, well)
        new = catalog.NewConnection(well_id=well_id, **parameters)
        return await catalog.add_connection(database, tenant.id, new, secrets_key=settings.secrets_key)


async def _well_id(database: AsyncConnection, tenant_id: UUID, name: str) -> UUID:
    for well in await all_wells(database):
        if name in (well.name, str(well.id)):
            return well.id
    return (await catalog.add_well(database, tenant_id, name)).id


@connection.command("list")
@tenant_option
@json_option
@with_settings()
def list_all(*, settings: Settings, tenant: str | None, as_json: bool) -> None:
    """List a tenant's connections and how they are doing."""
    rows = asyncio.run(_list(settings, tenant))
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = (
        "name",
        "well",
        "endpoint_url",
        "security_mode",
        "tags",
        "is_enabled",
        "last_connected_at",
        "last_error",
    )
    print_table(columns, [[row[column] for column in columns] for row in rows])


async def _list(settings: Settings, slug: str | None) -> list[dict[str, Any]]:
    async with tenant_database(settings, slug) as (_, database):
        wells = {well.id: well.name for well in await all_wells(database)}
        return [_shown(entry, wells.get(entry.well_id, "")) for entry in await all_connections(database)]


def _shown(entry: catalog.ConnectionSummary, well: str) -> dict[str, Any]:
    connected_at = entry.last_connected_at
    return {
        "id": entry.id,
        "name": entry.name,
        "well": well,
        "endpoint_url": entry.endpoint_url,
        "security_mode": entry.security_mode,
        "security_policy": entry.security_policy,
        "username": entry.username,
        "tags": entry.tags,
        "is_enabled": entry.is_enabled,
        "last_connected_at": connected_at and connected_at.isoformat(timespec="seconds"),
        "last_error": entry.last_error,
    }


@click.command(short_help="Fill a tenant with two wells, two connections, ten tags.")
@click.option(
    "--endpoint", default=SIMULATOR, show_default=True, metavar="URL", help="The simulator's address."
)
@tenant_option
@with_settings()
def seed(*, settings: Settings, tenant: str | None, endpoint: str) -> None:
    """Fill a tenant with two wells, two connections, ten tags.

    They are what `scada-engine simulate` serves. Done again, it adds what is missing and sets the endpoint.
    """
    slug = asyncio.run(seed_tenant(settings, tenant, endpoint))
    click.echo(f"tenant {slug} has the two simulated wells, at {endpoint}")


async def seed_tenant(settings: Settings, slug: str | None, endpoint: str) -> str:
    """Seed a tenant; return its slug."""
    async with tenant_database(settings, slug) as (tenant, database):
        await catalog.seed(database, tenant.id, endpoint)
        return tenant.slug
