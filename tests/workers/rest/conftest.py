"""A REST process over a master with several tenants, on each kind of server; `acme` has readings of every sort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from engine import catalog, database
from engine.settings import Settings
from tests.end_to_end.engine_process import free_port
from tests.servers.databases import MasterAndTenant, run
from tests.workers.rest.rest_process import RunningRest, running_rest
from tests.workers.rpc.conftest import World, world

__all__ = ["ACME", "World", "settings_for", "world"]

ACME = {"X-Tenant": "acme"}
SECRETS_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def settings_for(master_dsn: str, **changes: Any) -> Settings:
    """Return settings for a REST process on a free port."""
    settings = Settings(
        database_url=master_dsn,
        rest_port=free_port(),
        catalog_refresh_s=0.1,
        log_level="debug",
        secrets_key=SECRETS_KEY,
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def rest(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRest]:
    """A REST process over the world."""
    # The readings are of 2025, and some tests ask for all until now.
    settings = settings_for(world.databases.master_dsn, max_query_days=3_650)
    with running_rest(settings, tmp_path_factory.mktemp("rest")) as running:
        running.wait_ready()
        yield running


@dataclass(frozen=True, slots=True)
class Plant:
    """One tenant with a well, and a REST process for it."""

    rest: RunningRest
    databases: MasterAndTenant
    tenant_id: UUID
    well_id: UUID

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the tenant's database."""
        with psycopg.connect(self.databases.tenant_dsn) as tenant:
            return tenant.execute(query.encode()).fetchall()


@pytest.fixture
def plant(master_and_tenant: MasterAndTenant, tmp_path: Path) -> Iterator[Plant]:
    """The only tenant of its master."""

    async def added(tenant_id: UUID) -> UUID:
        async with await database.connect(master_and_tenant.tenant_dsn, application="test") as tenant:
            return (await catalog.add_well(tenant, tenant_id, "Permian Basin Well 1")).id

    with psycopg.connect(master_and_tenant.master_dsn) as master:
        found = master.execute("select id from tenants").fetchone()
        assert found is not None
    with running_rest(settings_for(master_and_tenant.master_dsn), tmp_path) as running:
        running.wait_ready()
        yield Plant(running, master_and_tenant, found[0], run(added(found[0])))
