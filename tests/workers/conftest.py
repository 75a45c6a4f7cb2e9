"""Below here one kind of database is enough: tests/engine and tests/end_to_end run on every kind."""

from __future__ import annotations

import pytest

from tests.servers.databases import Server


@pytest.fixture(scope="session")
def any_server(timescale_dsn: str) -> Server:
    """TimescaleDB, in place of each kind of server in turn."""
    return Server("timescale", timescale_dsn)
