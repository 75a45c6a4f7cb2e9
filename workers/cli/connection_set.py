"""`scada-engine connection set`: change what was said with `connection add`, and nothing that is not named."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import click

from engine import catalog
from engine.errors import InvalidInput
from engine.settings import Settings
from workers.cli.connection_options import GroupedCommand, connection_fields, connection_options
from workers.cli.databases import all_connections, find_connection, tenant_database
from workers.cli.options import tenant_option, with_settings

_UNSETTABLE = [name.replace("_", "-") for name in catalog.ITEM_COLUMNS if not name.startswith("deadband")]


@click.command("set", cls=GroupedCommand, short_help="Change a connection.")
@click.argument("name")
@click.option("--rename", "new_name", metavar="NAME", help="Its new name.")
@click.option("--endpoint", "endpoint_url", metavar="URL", help="opc.tcp://host:port")
@click.option(
    "--failover-url", "failover_urls", multiple=True, metavar="URL", help="Its other addresses from now on."
)
@click.option("--no-failover", is_flag=True, help="It has no other address any more.")
@click.option("--description", help="For people.")
@click.option("--enable/--disable", "is_enabled", default=None, help="Connect, or do not.")
@connection_options(new=False)
@click.option("--anonymous", is_flag=True, help="Forget user name, password, certificate and key.")
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice([*_UNSETTABLE, "deadband"]),
    metavar="SETTING",
    help="Leave a setting to the engine again, such as queue-size.",
)
@tenant_option
@with_settings()
def set_connection(
    *, settings: Settings, tenant: str | None, name: str, unset: tuple[str, ...], anonymous: bool,
    no_failover: bool, new_name: str | None, **options: Any,
) -> None:  # fmt: skip
    """Change the connection NAME (or its id). What is not given stays as it is.

    The engine takes it up within seconds: it ends the session and begins a new one.
    """
    fields = connection_fields(**options) | {"name": new_name}
    own: catalog.ItemSettings = fields.pop("settings")
    changes = {field: value for field, value in fields.items() if value not in (None, ())}
    if anonymous:
        changes = dict.fromkeys(("username", "password", "user_certificate", "user_private_key")) | changes
    if no_failover:
        changes["failover_urls"] = ()
    changed = asyncio.run(_set(settings, tenant, name, changes, _Settings(own, unset)))
    click.echo(f"changed connection {changed.name} ({changed.id})")


@dataclass(frozen=True, slots=True)
class _Settings:
    """What is new of a connection's ItemSettings, and the names of those that it shall have no more."""

    own: catalog.ItemSettings
    unset: tuple[str, ...]

    def over(self, now: catalog.ItemSettings) -> catalog.ItemSettings:
        """Return the settings that hold from now on. A deadband's type and value change together."""
        gone = {name.replace("-", "_") for name in self.unset}
        if "deadband" in gone or self.own.deadband_type is not None:
            gone |= {"deadband_type", "deadband_value"}
        return self.own.over(replace(now, **dict.fromkeys(gone & set(catalog.ITEM_COLUMNS))))


async def _set(
    settings: Settings, slug: str | None, name: str, changes: dict[str, Any], own: _Settings
) -> catalog.ConnectionSummary:
    async with tenant_database(settings, slug) as (tenant, database), database.transaction():
        found = find_connection(await all_connections(database), name, field="NAME")
        wanted = own.over(found.settings)
        if wanted != found.settings:
            changes = changes | {"settings": wanted}
        if not changes:
            raise InvalidInput("NAME", f"nothing of {name!r} would change; --help lists what can")
        return await catalog.change_connection(
            database, tenant.id, found.id, changes, secrets_key=settings.secrets_key
        )
