"""Whose request it is. Owns the list of active tenants, as it was in the master database a few seconds ago.

Until callers have tokens, the port is open to this machine only, and a caller says itself which tenant it means: by the
request metadata `x-tenant: SLUG`. Without it, the only active tenant is meant. What a caller is told is the same for a
tenant that is disabled and for one that never was.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc

from engine import catalog, database
from engine.errors import DatabaseUnavailable
from workers.rpc.status import TENANT, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import AsyncConnection

    from engine.catalog import Tenant
    from engine.settings import Settings

# With the master database away, the tenants' own databases can still be read. For longer than this, a tenant that was
# disabled meanwhile would go on being answered.
STALE_MOST_S = 60.0
_REFRESH_MOST_S = 15.0
# What pg_stat_activity shows of our connections.
APPLICATION = "scada-engine front"


class TenantDirectory:
    """The active tenants by slug; `refresh` reads them again, `tenant_of` asks nobody."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._master: AsyncConnection[Any] | None = None
        self._tenants: dict[str, Tenant] = {}
        self._read_at_s: float | None = None

    async def refresh(self) -> None:
        """Read the list from the master database; raises a DatabaseError and keeps the old list when that fails."""
        try:
            async with asyncio.timeout(_REFRESH_MOST_S):
                if self._master is None:
                    self._master = await database.connect(
                        self._settings.database_url, application=APPLICATION, autocommit=True
                    )
                tenants = await catalog.list_tenants(self._master, self._settings)
        except TimeoutError as exc:
            await self.close()
            raise DatabaseUnavailable(f"the master database did not answer in {_REFRESH_MOST_S:g} s") from exc
        except BaseException:
            await self.close()
            raise
        self._tenants = {tenant.slug: tenant for tenant in tenants}
        self._read_at_s = time.monotonic()

    async def close(self) -> None:
        """Close the connection to the master database; `refresh` opens another."""
        if self._master is not None:
            master, self._master = self._master, None
            await master.close()

    def is_known(self) -> bool:
        """Say whether the list was read, and not too long ago."""
        return self._read_at_s is not None and time.monotonic() - self._read_at_s <= STALE_MOST_S

    def active(self) -> set[str]:
        """Return the DSNs of the active tenants."""
        return {tenant.dsn for tenant in self._tenants.values()}

    def tenant_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> Tenant:
        """Return the tenant that a request is for.

        Raises Refusal (UNAUTHENTICATED, PERMISSION_DENIED), and DatabaseUnavailable while the list is not known.
        """
        if not self.is_known():
            raise DatabaseUnavailable(
                "the list of tenants is not known, or too old: the master database is away"
            )
        named = [value for key, value in metadata if key == TENANT]
        if len(named) > 1:
            raise Refusal(
                grpc.StatusCode.UNAUTHENTICATED, f"the request metadata names {TENANT} more than once"
            )
        if named:
            tenant = self._tenants.get(str(named[0]))
            if tenant is None:
                raise Refusal(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"the tenant that {TENANT} names is not open to this caller",
                )
            return tenant
        if len(self._tenants) != 1:
            raise Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                f"which tenant? name its slug in the request metadata {TENANT}",
            )
        return next(iter(self._tenants.values()))
