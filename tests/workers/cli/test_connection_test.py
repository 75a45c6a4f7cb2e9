"""connection test and connection trust, against a real server with security."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import orjson
import pytest

from tests.servers.asyncua_server import asyncua_server
from tests.servers.identities import Identity
from tests.servers.opcua_fixtures import PASSWORD, USER
from tests.servers.opcua_server import OpcuaServer
from tests.servers.server_options import ServerOptions

from .conftest import Cli


@pytest.fixture(scope="module")
def plant(server_identity: Identity) -> Iterator[OpcuaServer]:
    """A server with security, which wants a user name."""
    options = ServerOptions(identity=server_identity, users=((USER, PASSWORD),), anonymous=False)
    with asyncua_server(options=options) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Site:
    """A tenant with the connection RTU to the plant, and a folder for certificates."""

    cli: Cli
    dsn: str
    folder: Path

    def run(self, *arguments: str, stdin: str = "") -> CompletedProcess[str]:
        return self.cli(
            "connection",
            *arguments,
            stdin=stdin,
            DATABASE_URL=self.dsn,
            SCADA_OPCUA__PKI_FOLDER=str(self.folder),
            SCADA_SECRETS_KEY="QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=",
        )


@pytest.fixture
def site(
    embedded_dsn: str, new_database: Callable[[str], str], cli: Cli, plant: OpcuaServer, tmp_path: Path
) -> Site:
    """A tenant that trusts nobody yet."""
    dsn = new_database(embedded_dsn)
    slug = "acme_" + dsn.rpartition("_")[2]
    site = Site(cli, dsn, tmp_path / "pki")
    for command in (["migrate", "up"], ["tenant", "add", slug, "--name", "Acme Oil"]):
        assert cli(*command, DATABASE_URL=dsn).returncode == 0
    added = site.run(
        "add", "RTU", "--endpoint", plant.endpoint, "--well", "Well 7", "--username", USER, "--password-file",
        "-", stdin=PASSWORD,
    )  # fmt: skip
    assert (added.returncode, added.stderr) == (0, "")
    return site


def steps(done: CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in orjson.loads(done.stdout)["steps"]}


def test_a_connection_is_tried_refused_trusted_and_tried_again(
    site: Site, server_identity: Identity, plant: OpcuaServer
) -> None:
    thumbprint = server_identity.thumbprint.upper()
    refused = site.run("test", "RTU")
    assert (refused.returncode, refused.stderr) == (5, "")
    assert refused.stdout.startswith(f"{plant.endpoint}\n  ok  TCP ")
    assert "SignAndEncrypt/Aes256_Sha256_RsaPss is taken, the strongest of them" in refused.stdout
    assert f"no  certificate  the server's certificate is refused: it is not trusted (CN=server, thumbprint {thumbprint}" in refused.stdout  # fmt: skip  # noqa: E501
    assert "scada-engine connection trust RTU" in refused.stdout

    asked = site.run("trust", "RTU")
    assert asked.returncode == 3
    assert "nobody can be asked here" in asked.stderr
    accepted = site.run("trust", "RTU", "--yes")
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert thumbprint in accepted.stdout.replace(" ", "")
    assert "refused      it is not trusted" in accepted.stdout
    assert "nothing to do" in site.run("trust", "RTU", "--yes").stderr

    works = site.run("test", "RTU", "--json")
    assert works.returncode == 0
    found = steps(works)
    assert list(found) == ["TCP", "endpoints", "certificate", "session", "server"]
    assert found["endpoints"]["chosen"]["security_policy"] == "Aes256_Sha256_RsaPss"
    assert found["certificate"]["thumbprint"] == thumbprint
    assert (found["session"]["security_mode"], found["session"]["user"]) == ("SignAndEncrypt", "user name")
    assert found["server"]["state"] == "Running"
    assert PASSWORD not in works.stdout


def test_what_is_trusted_and_rejected_is_listed_and_taken_by_its_thumbprint(
    site: Site, server_identity: Identity
) -> None:
    thumbprint = server_identity.thumbprint.upper()
    assert site.run("test", "RTU").returncode == 5
    rows = [orjson.loads(line) for line in site.run("trust", "--list", "--json").stdout.splitlines()]
    assert [(row["list"], row["thumbprint"]) for row in rows] == [("rejected", thumbprint)]
    assert site.run("trust", "--thumbprint", "00ff00ff", "--yes").returncode == 3
    accepted = site.run("trust", "--thumbprint", thumbprint[:10].lower(), "--yes", "--json")
    assert orjson.loads(accepted.stdout)["file"].endswith(f"trusted/{thumbprint}.der")
    listed = site.run("trust", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["list", "trusted"]
    assert site.run("test", "RTU").returncode == 0


def test_an_address_is_tried_without_a_connection_or_a_database(cli: Cli, plant: OpcuaServer) -> None:
    done = cli("connection", "test", "--url", plant.endpoint, "--json")
    assert done.returncode == 5
    found = steps(done)
    assert len(found["endpoints"]["offered"]) >= 6
    assert found["endpoints"]["text"] == (
        "the server does not accept anonymous users; it accepts: certificate, user name"
    )
    shown = cli("connection", "test", "--url", plant.endpoint)
    assert "SignAndEncrypt  Aes256_Sha256_RsaPss   certificate, user name" in shown.stdout


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("opc.tcp://127.0.0.1:1", "no  TCP          connection refused (127.0.0.1:1)"),
        ("opc.tcp://no-such-host.invalid", "no  TCP          the host name is not known"),
    ],
)
def test_an_address_that_cannot_be_reached_says_why(cli: Cli, url: str, words: str) -> None:
    done = cli("connection", "test", "--url", url)
    assert done.returncode == 5
    assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["test"], "give the name of a connection, or --url"),
        (["test", "RTU", "--username", "x"], "options for them go with --url"),
        (["trust"], "give the name of a connection, --thumbprint, or --list"),
        (["trust", "RTU", "--list"], "--list goes with neither"),
    ],
)
def test_usage_that_makes_no_sense_is_refused(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli("connection", *arguments, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 2
    assert words in done.stderr


def test_security_without_a_tenant_has_no_trust_lists(cli: Cli, plant: OpcuaServer) -> None:
    done = cli("connection", "test", "--url", plant.endpoint, "--security-mode", "Sign")
    assert done.returncode == 3
    assert "say whose trust lists count" in done.stderr
