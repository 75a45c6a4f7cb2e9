"""Fixtures of the end-to-end tests: databases of one kind, where the kind makes no difference to what is tested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant


@pytest.fixture
def databases(timescale_dsn: str) -> Iterator[MasterAndTenant]:
    """A new master and tenant on TimescaleDB."""
    with migrated_master_and_tenant(Server("timescale", timescale_dsn)) as made:
        yield made


@pytest.fixture
def plain_databases(embedded_dsn: str) -> Iterator[MasterAndTenant]:
    """A new master and tenant on PostgreSQL alone: made in half the time."""
    with migrated_master_and_tenant(Server("embedded", embedded_dsn)) as made:
        yield made
