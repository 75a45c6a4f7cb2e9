"""`scada-engine connection test`: what works between here and an OPC UA server, step by step.

Owns the command and how steps are shown. The steps are workers.opcua.probe.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from engine import catalog
from engine.catalog.rules import check_slug
from engine.errors import ConfigurationError, InvalidInput
from engine.settings import Settings
from workers.cli import exit_of
from workers.cli.databases import tenant_database
from workers.cli.options import NO_DATABASE, json_option, tenant_option, with_settings
from workers.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from engine.errors import ScadaError
    from workers.opcua.channel import Channel
    from workers.opcua.probe import Step
    from workers.opcua.security.policies import Credentials, SecurityWanted

_COLUMNS = ("", "mode", "policy", "users", "level", "url")


@dataclass(frozen=True, slots=True)
class _Target:
    """One address, and how to reach it."""

    url: str
    channel: Channel
    wanted: SecurityWanted
    credentials: Credentials


@click.command("test", short_help="Try a connection step by step.")
@click.argument("name", required=False)
@click.option("--url", metavar="URL", help="A server that is no connection yet.")
@click.option(
    "--security-mode",
    type=click.Choice(catalog.SECURITY_MODES),
    help="With --url.  [default: None; Auto with --tenant]",
)
@click.option(
    "--security-policy", type=click.Choice(catalog.SECURITY_POLICIES), help="With --url.", metavar="POLICY"
)
@click.option("--username", help="With --url.")
@click.option(
    "--password-file",
    type=click.File("r"),
    metavar="FILE",
    help="With --url: its password; - reads it from stdin.",
)
@tenant_option
@json_option
@with_settings(database=False)
def test(
    *,
    settings: Settings,
    tenant: str | None,
    name: str | None,
    url: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Try connection NAME, or the server at --url: TCP, endpoints, certificate, session, and what the server is.

    Nothing is subscribed or changed. With --url, --tenant says whose trust lists count; without it no certificate is
    trusted. Ends with status 5 when an address does not work.
    """
    from workers import logs  # noqa: PLC0415  (a tenth of a second that --help need not wait)

    if (name is None) == (url is None):
        raise click.UsageError("give the name of a connection, or --url")
    if name is not None and any(options.values()):
        raise click.UsageError("security and user are the connection's; options for them go with --url")
    logs.configure(settings, process="command", index=0)
    errors = asyncio.run(_test(settings, tenant, name, url, options, as_json=as_json))
    if errors:
        # The steps have said why.
        raise click.exceptions.Exit(exit_of(errors[0]))


async def _test(
    settings: Settings, slug: str | None, name: str | None, url: str | None, options: dict[str, Any], *,
    as_json: bool,
) -> list[ScadaError]:  # fmt: skip
    from workers.opcua.probe import probe  # noqa: PLC0415

    if name is not None:
        targets = await _of_connection(settings, slug, name)
    else:
        targets = [await _of_url(settings, slug, url or "", **options)]
    errors = []
    for target in targets:
        steps = probe(
            target.channel, target.url, target.wanted, target.credentials, settings.opcua.request_timeout_s
        )
        shown = []
        if not as_json:
            click.echo(click.style(printable(target.url), bold=True))
        async for step in steps:
            if not as_json:
                _show(step)
            shown.append(_facts(step))
            if step.error is not None:
                errors.append(step.error)
        if as_json:
            print_json({"url": target.url, "works": all(step["works"] for step in shown), "steps": shown})
    return errors


async def _of_connection(settings: Settings, slug: str | None, name: str) -> list[_Target]:
    from workers.opcua.channel import Channel  # noqa: PLC0415
    from workers.opcua.security.pki import Pki  # noqa: PLC0415

    if not settings.database_url:
        raise ConfigurationError(NO_DATABASE)
    async with tenant_database(settings, slug) as (owner, database):
        wanted = await catalog.load_connection(database, owner.id, name, secrets_key=settings.secrets_key)
    pki = Pki.of(settings.opcua, owner.slug)
    targets = []
    for url in wanted.endpoint_urls:
        channel = Channel.for_connection(wanted, url, settings.opcua, pki)
        targets.append(_Target(url, channel, channel.wanted, channel.credentials))
    return targets


async def _of_url(
    settings: Settings, slug: str | None, url: str, *, security_mode: str | None, security_policy: str | None,
    username: str | None, password_file: IO[str] | None,
) -> _Target:  # fmt: skip
    from workers.opcua.channel import Channel  # noqa: PLC0415
    from workers.opcua.security.pki import Pki  # noqa: PLC0415
    from workers.opcua.security.policies import AUTO, NONE, Credentials, SecurityWanted  # noqa: PLC0415

    if slug is not None:
        check_slug(slug)
    elif security_mode not in (None, NONE) or security_policy not in (None, NONE):
        raise InvalidInput("--tenant", "say whose trust lists count, as security is asked for")
    usual = NONE if slug is None else AUTO
    # None with any policy, and any mode with None, are None.
    mode, policy = security_mode or usual, security_policy or usual
    if NONE in (mode, policy) and (security_mode is None or security_policy is None):
        mode = policy = NONE
    password = password_file.readline().rstrip("\r\n") if password_file else None
    wanted, credentials = SecurityWanted(mode, policy), Credentials(username, password)
    pki = None if slug is None else Pki.of(settings.opcua, slug)
    return _Target(
        url,
        Channel(url, settings.opcua, credentials=credentials, security=wanted, pki=pki),
        wanted,
        credentials,
    )


def _show(step: Step) -> None:
    mark = click.style("ok", fg="green") if step.error is None else click.style("no", fg="red", bold=True)
    click.echo(f"  {mark}  {step.name:<12} {printable(step.text)}")
    for remark in step.remarks:
        click.echo(f"      {'':<12} {click.style('note:', fg='yellow')} {printable(remark)}")
    if step.endpoints:
        print_table(
            _COLUMNS,
            [
                (
                    "->" if endpoint == step.chosen else "",
                    endpoint.mode,
                    endpoint.policy_name,
                    ", ".join(dict.fromkeys(token.kind for token in endpoint.tokens)),
                    endpoint.security_level,
                    endpoint.url,
                )
                for endpoint in step.endpoints
            ],
        )


def _facts(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "works": step.error is None,
        "text": step.text,
        "remarks": list(step.remarks),
        **step.facts,
    }
