"""Pytest fixtures of the OPC UA servers, one of each for a whole run. tests/conftest.py loads this module."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.servers.asyncua_server import asyncua_server as run_asyncua
from tests.servers.debian_root import ServerMissing
from tests.servers.identities import Identity, make_identity
from tests.servers.node_opcua import node_opcua_server as run_node_opcua
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server as run_open62541
from tests.servers.running_server import MAKERS, running_server
from tests.servers.server_options import Limits, ServerOptions
from tests.servers.simulator import simulator as run_simulator
from workers.opcua.security.pki import Pki


@contextmanager
def _or_fail(server: AbstractContextManager[OpcuaServer]) -> Iterator[OpcuaServer]:
    """Fail the tests that need a server which cannot be had here; they are never skipped."""
    try:
        started = server.__enter__()
    except ServerMissing as exc:
        pytest.fail(str(exc), pytrace=False)
    try:
        yield started
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def simulator() -> Iterator[OpcuaServer]:
    """Our simulator of two wells, ten samples a second."""
    with run_simulator() as server:
        yield server


@pytest.fixture(scope="session")
def open62541_server() -> Iterator[OpcuaServer]:
    """An open62541 server with ten counters at ten steps a second, and a fixed value of each type."""
    with _or_fail(run_open62541()) as server:
        yield server


@pytest.fixture(scope="session")
def node_opcua_server() -> Iterator[OpcuaServer]:
    """A node-opcua server with ten counters at ten steps a second, and a fixed value of each type."""
    with _or_fail(run_node_opcua()) as server:
        yield server


@pytest.fixture(scope="session")
def asyncua_server() -> Iterator[OpcuaServer]:
    """asyncua's server with ten counters at ten steps a second, and a fixed value of each type."""
    with run_asyncua() as server:
        yield server


USER, PASSWORD = "operator", "secret-42"


@pytest.fixture(scope="session")
def server_identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The certificate that the secured servers show."""
    return make_identity(tmp_path_factory.mktemp("server-identity"), "server")


@pytest.fixture(scope="session")
def user_identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The only user certificate that the secured servers let in."""
    return make_identity(tmp_path_factory.mktemp("user-identity"), "user")


@pytest.fixture(scope="session", params=MAKERS)
def secured_server(
    request: pytest.FixtureRequest, server_identity: Identity, user_identity: Identity
) -> Iterator[OpcuaServer]:
    """Each maker's server in turn, with all it has: every policy, users, history, and small limits."""
    options = ServerOptions(
        identity=server_identity,
        deprecated=True,
        users=((USER, PASSWORD),),
        user_certificate=user_identity,
        limits=Limits(items_per_call=20, nodes_per_read=15, nodes_per_browse=10),
        history_page=10,
    )
    with _or_fail(running_server(request.param, options)) as server:
        yield server


@pytest.fixture(scope="session")
def pki_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where our own certificate is made once; a test adds a tenant of its own, who trusts nobody yet."""
    return tmp_path_factory.mktemp("pki")


@pytest.fixture
def pki(pki_folder: Path) -> Pki:
    """Our own certificate, and a tenant that trusts nobody yet."""
    return Pki(pki_folder, f"t{secrets.token_hex(4)}")


@pytest.fixture
def trusting(pki: Pki, server_identity: Identity) -> Pki:
    """A tenant that trusts the secured servers."""
    pki.trust(x509.load_der_x509_certificate(server_identity.der))
    return pki
