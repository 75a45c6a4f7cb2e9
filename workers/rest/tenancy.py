"""The caller's tenant, and the connections to its database: opened when wanted, closed when the tenant is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from engine.query import Readings
from engine.query.connections import QueryConnections
from workers.identity import FirstLook
from workers.rest.answers import Busy

if TYPE_CHECKING:
    from engine.catalog import Tenant
    from engine.database_pool import DatabasePool
    from engine.settings import Settings

# What pg_stat_activity shows of our connections.
APPLICATION = "scada-engine rest"
# One tenant can use a quarter of the requests that run at once; the others always find some free.
REQUESTS_PER_TENANT_MOST = 16
_CATALOG_CONNECTIONS_MOST = 2
_CONNECTION_WAIT_S = 10.0


class Tenancy:
    """What a request needs of its tenant: who it is, its readings, and connections for its catalog."""

    def __init__(self, tenant: Tenant, settings: Settings, databases: DatabasePool) -> None:
        self.tenant = tenant
        self.settings = settings
        self._database = databases.database(tenant.dsn, APPLICATION)
        self._first_look = FirstLook(self._database)
        self.readings = Readings(self._database, settings)
        self.catalog = QueryConnections(
            self._database, most=_CATALOG_CONNECTIONS_MOST, wait_s=_CONNECTION_WAIT_S
        )
        self._running = 0

    @asynccontextmanager
    async def request(self) -> AsyncGenerator[None, None]:
        """Count a request while it runs; raises Busy when there are too many, and DatabaseTooNew."""
        if self._running >= REQUESTS_PER_TENANT_MOST:
            raise Busy(
                f"{REQUESTS_PER_TENANT_MOST} requests of this tenant are running; try again when one has ended"
            )
        self._running += 1
        try:
            await self._first_look.check(_CONNECTION_WAIT_S)
            yield
        finally:
            self._running -= 1

    async def close(self) -> None:
        """Close the connections; requests that use them end as they would have."""
        await self._database.close()


class Tenancies:
    """One Tenancy for each tenant that was asked for."""

    def __init__(self, settings: Settings, databases: DatabasePool) -> None:
        self._settings = settings
        self._databases = databases
        self._of_dsn: dict[str, Tenancy] = {}

    def of(self, tenant: Tenant) -> Tenancy:
        """Return the tenant's."""
        found = self._of_dsn.get(tenant.dsn)
        if found is None or found.tenant.id != tenant.id:
            found = self._of_dsn[tenant.dsn] = Tenancy(tenant, self._settings, self._databases)
        return found

    async def forget_all_but(self, dsns: Collection[str]) -> None:
        """Close the connections to all other databases."""
        for dsn in self._of_dsn.keys() - dsns:
            await self._of_dsn.pop(dsn).close()

    async def close(self) -> None:
        """Close the connections."""
        await self.forget_all_but(())
