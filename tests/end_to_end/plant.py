"""A tenant that reads from a test server: its well, connection and tags, and what its database then holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from engine import catalog
from engine.database import connect
from engine.settings import Settings
from tests.servers.databases import MasterAndTenant, run
from tests.servers.opcua_server import ServedVariable


@dataclass(frozen=True)
class Plant:
    """One tenant of `databases` with one well and one connection."""

    databases: MasterAndTenant
    well_id: UUID
    connection_id: UUID

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what a query on the tenant's database says."""
        with psycopg.connect(self.databases.tenant_dsn) as connection:
            return connection.execute(query, parameters).fetchall()

    def values(self, node_id: str) -> list[tuple[float | None, str | None, int]]:
        """Return (value, text_value, status) of a tag's readings, oldest first."""
        return self.rows(
            "select value, text_value, status from readings join tag_mappings using (tag_id)"
            " where opc_node_id = %s order by ts",
            node_id,
        )

    def tags_with_readings(self) -> set[str]:
        """Return the node ids that have at least one reading."""
        found = self.rows(
            "select opc_node_id from tag_mappings t where exists (select from readings r where r.tag_id = t.tag_id)"
        )
        return {row[0] for row in found}

    def count(self) -> int:
        """Return the number of readings."""
        return int(self.rows("select count(*) from readings")[0][0])

    def gaps(self, node_id: str) -> list[tuple[datetime, datetime, str]]:
        """Return (from, to, cause) of a tag's gaps, oldest first."""
        return self.rows(
            'select "from", "to", cause from reading_gaps join tag_mappings using (tag_id)'
            ' where opc_node_id = %s order by "from"',
            node_id,
        )

    def last_error(self) -> str | None:
        """Return what the catalog says of the connection."""
        error: str | None = self.rows(
            "select last_error from scada_connections where id = %s", self.connection_id
        )[0][0]
        return error


def build_plant(
    databases: MasterAndTenant, endpoint_url: str, variables: Sequence[ServedVariable], **more: Any
) -> Plant:
    """Add a well and a connection with a tag for every variable; `more` are fields of the connection."""
    return run(_build(databases, endpoint_url, variables, more))


async def _build(
    databases: MasterAndTenant, endpoint_url: str, variables: Sequence[ServedVariable], more: dict[str, Any]
) -> Plant:
    settings = Settings(database_url=databases.master_dsn)
    async with await connect(databases.master_dsn, application="tests") as master:
        tenants = await catalog.list_tenants(master, settings)
    (tenant,) = [tenant for tenant in tenants if tenant.slug == databases.slug]
    async with await connect(databases.tenant_dsn, application="tests") as database:
        well = await catalog.add_well(database, tenant.id, "Well 1")
        connection = await catalog.add_connection(
            database, tenant.id, catalog.NewConnection(well.id, "Server 1", endpoint_url, **more)
        )
        tags = [catalog.NewTag(variable.node_id, variable.node_id) for variable in variables]
        await catalog.add_tags(database, tenant.id, connection.id, tags)
    return Plant(databases, well.id, connection.id)
