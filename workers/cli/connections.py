"""`scada-engine connection add|list` and `seed`: the OPC UA servers of a tenant.

The options of `add` are in connection_options.py; other commands of the group have files of their own.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from engine import catalog
from engine.settings import Settings
from workers.cli.connection_browse import browse
from workers.cli.connection_options import GroupedCommand, connection_fields, connection_options
from workers.cli.connection_set import set_connection
from workers.cli.connection_test import test
from workers.cli.databases import all_connections, all_wells, tenant_database
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import print_json, print_table
from workers.cli.trust import trust

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SIMULATOR = "opc.tcp://127.0.0.1:4840"


@click.group(short_help="Add OPC UA connections, list and try them.")
def connection() -> None:
    """Add OPC UA connections, list and try them."""


connection.add_command(browse)
connection.add_command(set_connection)
connection.add_command(test)
connection.add_command(trust)


@connection.command(cls=GroupedCommand)
@click.argument("name")
@click.option("--endpoint", "endpoint_url", required=True, metavar="URL", help="opc.tcp://host:port")
@click.option(
    "--failover-url",
    "failover_urls",
    multiple=True,
    metavar="URL",
    help="Another address of the server, or of its redundant partner; up to 8 times.",
)
@click.option("--well", required=True, metavar="NAME", help="Its well; one of a new name is added.")
@click.option("--description", help="For people.")
@click.option("--disabled", is_flag=True, help="Do not connect yet.")
@connection_options(new=True)
@tenant_option
@json_option
@with_settings()
def add(
    *, settings: Settings, tenant: str | None, well: str, as_json: bool, disabled: bool, **options: Any
) -> None:
    """Add a connection to an OPC UA server.

    It reads nothing until `tags import` gives it tags.
    """
    parameters = connection_fields(**options) | {"is_enabled": not disabled}
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
    """List a tenant's connections and how they are doing.

    security: what is in use; in brackets, what is asked for, while it is not connected. tags: how many of all are read.
    """
    rows = asyncio.run(_list(settings, tenant))
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = (
        "name",
        "well",
        "endpoint_url",
        "security",
        "tags",
        "is_enabled",
        "last_connected_at",
        "last_error",
    )
    print_table(columns, [[(row | _cells(row))[column] for column in columns] for row in rows])


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Return what a table shows of several fields in one cell."""
    active = row["active"]
    if active is None:
        wanted = _security(row["security_mode"], row["security_policy"])
        return {"security": f"({wanted})", "tags": f"{row['monitored']}/{row['tags']}"}
    return {
        "endpoint_url": active["endpoint_url"],
        "security": _security(active["security_mode"], active["security_policy"]),
        "tags": f"{row['monitored']}/{row['tags']}",
    }


def _security(mode: str, policy: str) -> str:
    return mode if mode == policy else f"{mode} {policy}"


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
        "has_user_certificate": entry.has_user_certificate,
        "allow_deprecated_policies": entry.allow_deprecated_policies,
        "allow_plain_password": entry.allow_plain_password,
        "failover_urls": entry.failover_urls,
        "poll_interval_seconds": entry.poll_interval_seconds,
        "settings": entry.settings.chosen(),
        "tags": entry.tags,
        "monitored": 0 if entry.active is None else entry.active.monitored,
        "active": entry.active and asdict(entry.active),
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
