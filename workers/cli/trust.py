"""`scada-engine connection trust`: accept the certificate that a server shows, or list what is trusted.

Owns the commands and their words. The files are workers.opcua.security.pki, the judgement workers.opcua.security.trust.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from engine import catalog
from engine.errors import ConnectionRefused, InvalidInput
from engine.settings import Settings
from workers.cli.databases import tenant_database
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import note, print_json, print_table, printable

if TYPE_CHECKING:
    from cryptography import x509

    from engine.catalog.connection import Connection
    from workers.opcua.security.pki import Pki

_LIST_COLUMNS = ("list", "subject", "thumbprint", "valid_until", "application")


@click.command("trust", short_help="Trust a server's certificate.")
@click.argument("name", required=False)
@click.option("--thumbprint", metavar="T", help="One of the rejected certificates; its first digits will do.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--list", "as_list", is_flag=True, help="List what is trusted and what was rejected.")
@tenant_option
@json_option
@with_settings()
def trust(
    *, settings: Settings, tenant: str | None, name: str | None, thumbprint: str | None, yes: bool,
    as_list: bool, as_json: bool,
) -> None:  # fmt: skip
    """Trust the certificate that the server of connection NAME shows, after asking.

    Compare the thumbprint with the one that the server's own display or engineering tool shows. With --thumbprint the
    certificate is taken from those that were rejected, and the server is not asked. What is trusted counts from the
    engine's next attempt to connect; run this where the engine runs, or where opcua.pki_folder is its folder.
    """
    if as_list and (name or thumbprint):
        raise click.UsageError("--list goes with neither a name nor --thumbprint")
    if not as_list and not name and not thumbprint:
        raise click.UsageError("give the name of a connection, --thumbprint, or --list")
    slug, wanted = asyncio.run(_load(settings, tenant, None if thumbprint else name))
    from workers.opcua.security.pki import Pki  # noqa: PLC0415  (with asyncua half a second that --help need not wait)

    pki = Pki.of(settings.opcua, slug)
    if as_list:
        _list(pki, as_json=as_json)
        return
    if wanted is None:
        _trust(pki, pki.rejected_one(thumbprint or ""), (), yes=yes, as_json=as_json)
        return
    found = asyncio.run(_refused(settings, wanted, pki))
    if not found:
        note(f"nothing to do: the certificate of {printable(wanted.name)} is trusted already")
    for certificate, reasons in found:
        _trust(pki, certificate, reasons, yes=yes, as_json=as_json)


async def _load(settings: Settings, tenant: str | None, name: str | None) -> tuple[str, Connection | None]:
    async with tenant_database(settings, tenant) as (owner, database):
        if name is None:
            return owner.slug, None
        return owner.slug, await catalog.load_connection(
            database, owner.id, name, secrets_key=settings.secrets_key
        )


async def _refused(
    settings: Settings, wanted: Connection, pki: Pki
) -> list[tuple[x509.Certificate, tuple[str, ...]]]:
    """Ask each address of a connection for its certificate; return those that are refused, and why."""
    from workers.opcua.channel import Channel  # noqa: PLC0415
    from workers.opcua.security.trust import CertificateRefused  # noqa: PLC0415

    refused: dict[x509.Certificate, tuple[str, ...]] = {}
    unreachable: list[ConnectionRefused] = []
    for url in wanted.endpoint_urls:
        channel = Channel.for_connection(wanted, url, settings.opcua, pki)
        try:
            endpoint = await channel.choose_endpoint()
            await channel.trusted(endpoint)
        except CertificateRefused as exc:
            refused[exc.certificate] = exc.reasons
        except ConnectionRefused as exc:
            note(f"{printable(url)}: {printable(exc)}")
            unreachable.append(exc)
    if unreachable and not refused:
        kept = len(pki.rejected_certificates())
        more = f"; {kept} rejected ones are kept, see --list and --thumbprint" if kept else ""
        raise ConnectionRefused(f"no certificate was shown: {unreachable[0]}{more}")
    return list(refused.items())


def _trust(
    pki: Pki, certificate: x509.Certificate, reasons: tuple[str, ...], *, yes: bool, as_json: bool
) -> None:
    from workers.opcua.probe import certificate_facts  # noqa: PLC0415
    from workers.opcua.security.certificates import sha256_thumbprint  # noqa: PLC0415

    facts = certificate_facts(certificate) | {"thumbprint_sha256": sha256_thumbprint(certificate)}
    if not as_json:
        _show(facts, reasons)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidInput(
                "--yes", "nobody can be asked here; add it once the thumbprint is the right one"
            )
        if not click.confirm("Trust it?"):
            note("not trusted")
            raise click.exceptions.Exit(1)
    path = pki.trust(certificate)
    if as_json:
        print_json(facts | {"remarks": list(reasons), "file": str(path)})
    else:
        click.echo(f"trusted: {path}")


def _show(facts: dict[str, Any], reasons: tuple[str, ...]) -> None:
    rows = (
        ("subject", facts["subject"]),
        ("issuer", facts["issuer"] if facts["issuer"] != facts["subject"] else "itself"),
        ("application", facts["application_uri"]),
        ("hosts", ", ".join(facts["hosts"])),
        ("valid", f"{facts['not_before'][:10]} to {facts['not_after'][:10]}"),
        ("key", f"RSA, {facts['key_bits']} bits" if facts["key_bits"] else "not RSA"),
        ("thumbprint", _grouped(facts["thumbprint"])),
        ("SHA-256", _grouped(facts["thumbprint_sha256"])),
    )
    for label, text in rows:
        click.echo(f"  {label:<12} {printable(text)}")
    for reason in reasons:
        click.echo(f"  {'refused':<12} {printable(reason)}")


def _grouped(digits: str) -> str:
    """Return hexadecimal digits in groups that eyes can compare."""
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _list(pki: Pki, *, as_json: bool) -> None:
    from workers.opcua.probe import certificate_facts  # noqa: PLC0415

    lists = pki.trust_lists()
    groups = (
        ("trusted", lists.trusted),
        ("issuers", lists.issuers),
        ("rejected", tuple(pki.rejected_certificates())),
    )
    rows = [{"list": name} | certificate_facts(one) for name, group in groups for one in group]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_table(
            _LIST_COLUMNS,
            [
                (
                    row["list"],
                    row["subject"],
                    row["thumbprint"],
                    str(row["not_after"])[:10],
                    row["application_uri"],
                )
                for row in rows
            ],
        )
        note(f"revocation lists: {len(lists.revocations)}; folder: {pki.trusted.parent}")
    for name in lists.unreadable:
        note(f"not a certificate: {printable(name)}")
