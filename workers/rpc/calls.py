"""The calls of all services: whose each is, how many of a tenant run at once, and the connections that they use.

A call that ends early gives its place back, and its connection; the front waits for `idle` before it ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from engine.query import Readings
from engine.query.connections import QueryConnections
from workers.identity import FirstLook
from workers.rpc.identity import APPLICATION, tenant_of
from workers.rpc.status import Refusal, answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from engine.catalog import Tenant
    from engine.database_pool import DatabasePool
    from engine.settings import Settings
    from workers.identity import TenantDirectory
    from workers.rpc.status import Call

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# One tenant can use an eighth of the front's calls; the others always find some free.
CALLS_PER_TENANT_MOST = 32
UNARY_MOST_S = 60.0
# Gaps and the quarantine are asked for by people, not by dashboards.
_OTHER_CONNECTIONS_MOST = 2
_CONNECTION_WAIT_S = 30.0


class Tenancy:
    """What a call may use of its tenant: the readings, and connections for what lies beside them."""

    def __init__(self, tenant: Tenant, settings: Settings, databases: DatabasePool) -> None:
        self._database = databases.database(tenant.dsn, APPLICATION)
        self.first_look = FirstLook(self._database)
        self.readings = Readings(self._database, settings)
        self.others = QueryConnections(
            self._database, most=_OTHER_CONNECTIONS_MOST, wait_s=_CONNECTION_WAIT_S
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()


class Calls:
    """Answers for all tenants; keeps one Tenancy for each tenant that was asked for."""

    def __init__(self, directory: TenantDirectory, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._tenancies: dict[str, Tenancy] = {}
        self._running: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def answer(self, context: Context, method: str) -> AsyncIterator[tuple[Call, Tenancy]]:
        """Find the caller's tenant and count its calls; what goes wrong inside becomes the call's status."""
        async with answered(context, method) as call:
            tenant = tenant_of(self._directory, context.invocation_metadata() or ())
            call.tenant = tenant.slug
            if self._running[tenant.slug] >= CALLS_PER_TENANT_MOST:
                raise Refusal(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{CALLS_PER_TENANT_MOST} calls of this tenant are running; try again when one has ended",
                )
            self._running[tenant.slug] += 1
            self._idle.clear()
            try:
                tenancy = self._tenancy_of(tenant)
                await tenancy.first_look.check(_CONNECTION_WAIT_S)
                yield call, tenancy
            finally:
                self._running[tenant.slug] -= 1
                self._running += Counter()  # drops the zeros
                if not self._running:
                    self._idle.set()

    def _tenancy_of(self, tenant: Tenant) -> Tenancy:
        tenancy = self._tenancies.get(tenant.dsn)
        if tenancy is None:
            tenancy = self._tenancies[tenant.dsn] = Tenancy(tenant, self._settings, self._directory.databases)
        return tenancy

    async def idle(self) -> None:
        """Wait until no call is running."""
        await self._idle.wait()

    async def forget_all_but(self, dsns: Collection[str]) -> None:
        """Close the connections to all other databases; calls that use them end as they would have."""
        for dsn in self._tenancies.keys() - dsns:
            await self._tenancies.pop(dsn).close()

    async def close(self) -> None:
        """Close the connections."""
        await self.forget_all_but(())
