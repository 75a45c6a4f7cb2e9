"""Fixtures: real servers, once for a whole run, and new databases on them. tests/servers makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.servers import debian_root
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant, temporary_database
from tests.servers.embedded_postgres import embedded_postgres
from tests.servers.timescale import needs_debian_root, timescale

pytest_plugins = ["tests.servers.opcua_fixtures"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the Debian root folder now if a test will want it: it takes longer than a test may."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for_timescale = needs_debian_root() and not wanted.isdisjoint({"timescale_dsn", "any_server"})
    if session.config.option.collectonly or debian_root.is_made():
        return
    if for_timescale or not wanted.isdisjoint({"open62541_server", "secured_server"}):
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line("making the root folder for the test servers, once: a minute or two")
        # Whoever needs the folder fails with the reason.
        with suppress(debian_root.ServerMissing):
            debian_root.debian_root()


@pytest.fixture(scope="session")
def timescale_dsn() -> Iterator[str]:
    """A superuser's DSN on a TimescaleDB server. Without such a server its tests fail: they are never skipped."""
    with ExitStack() as stack:
        try:
            dsn = stack.enter_context(timescale())
        except debian_root.ServerMissing as exc:
            pytest.fail(str(exc), pytrace=False)
        yield dsn


@pytest.fixture(scope="session")
def embedded_dsn() -> Iterator[str]:
    """A superuser's DSN on the embedded PostgreSQL, which has no TimescaleDB."""
    with embedded_postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session", params=["timescale", "embedded"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn: a test that uses this runs on both."""
    return Server(request.param, request.getfixturevalue(f"{request.param}_dsn"))


@pytest.fixture
def new_database() -> Iterator[Callable[[str], str]]:
    """A function that makes a database on the server of a DSN and returns its DSN; dropped after the test."""
    with ExitStack() as stack:
        yield lambda dsn: stack.enter_context(temporary_database(dsn))


@pytest.fixture
def master_and_tenant(any_server: Server) -> Iterator[MasterAndTenant]:
    """A new migrated master that knows the new migrated tenant `acme`, on each kind of server."""
    with migrated_master_and_tenant(any_server) as databases:
        yield databases
