"""Whose request it is. Owns the list of active tenants, as it was in the master database a few seconds ago.

Until callers have tokens, the ports are open to this machine only, and a caller says itself which tenant it means, by
its slug: how it does is the business of workers.rpc and workers.rest. Without a slug, the only active tenant is meant.
What a caller is told is the same for a tenant that is disabled and for one that never was.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from engine.database_pool import DatabasePool
from engine.errors import DatabaseError, DatabaseUnavailable
from engine.migrations import Which
from engine.migrations_newer import refuse_newer
from workers.master_database import MasterDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from engine.catalog import Tenant
    from engine.database_pool import Database
    from engine.settings import Settings

log = structlog.get_logger(__name__)

# With the master database away, the tenants' own databases can still be read. For longer than this, a tenant that was
# disabled meanwhile would go on being answered.
STALE_MOST_S = 60.0
_REFRESH_MOST_S = 15.0


class NotIdentified(Exception):
    """A request does not say, or not clearly, which tenant it is for."""


class NotAllowed(Exception):
    """The tenant that a request names is not open to its caller."""


class FirstLook:
    """Refuses a tenant's database that a newer engine has migrated; asks until it is not, and then no more."""

    def __init__(self, database: Database) -> None:
        """`database` stays the caller's."""
        self._database = database
        self._is_ours = False

    async def check(self, wait_s: float) -> None:
        """Raise DatabaseTooNew for such a database; other Database errors and TimeoutError where it does not answer."""
        if self._is_ours:
            return
        async with asyncio.timeout(wait_s), self._database.connection() as connection:
            await refuse_newer(connection, Which.TENANT)
        self._is_ours = True


class TenantDirectory:
    """The active tenants by slug; `refresh` reads them again, `tenant_of` asks nobody.

    `application` is what pg_stat_activity shows; `place` is where a request names its tenant, for messages.
    """

    def __init__(self, settings: Settings, *, application: str, place: str) -> None:
        # For the tenants' databases, too. Nobody is refused because it was away a moment ago: callers do not come again
        # by themselves.
        self.databases = DatabasePool(settings.database_connections, retry_most_s=0.0)
        self._master = MasterDatabase(settings, self.databases, application)
        self._refresh_s = settings.catalog_refresh_s
        self._place = place
        self._tenants: dict[str, Tenant] = {}
        self._read_at_s: float | None = None

    async def follow(self) -> AsyncGenerator[bool, None]:
        """Read the list every catalog_refresh_s, and yield after each try whether it is known. Has no end."""
        failing = False
        while True:
            try:
                await self.refresh()
            except DatabaseError as exc:
                if not failing:
                    log.warning("the list of tenants cannot be read", error=str(exc), will_retry=True)
                failing = True
            else:
                failing = False
            yield self.is_known()
            await asyncio.sleep(self._refresh_s)

    async def refresh(self) -> None:
        """Read the list from the master database; raises a DatabaseError and keeps the old list when that fails."""
        try:
            async with asyncio.timeout(_REFRESH_MOST_S):
                tenants = await self._master.tenants()
        except TimeoutError as exc:
            raise DatabaseUnavailable(f"the master database did not answer in {_REFRESH_MOST_S:g} s") from exc
        self._tenants = {tenant.slug: tenant for tenant in tenants}
        self._read_at_s = time.monotonic()

    async def close(self) -> None:
        """Close all connections that lie idle."""
        await self._master.close()
        await self.databases.close()

    def is_known(self) -> bool:
        """Say whether the list was read, and not too long ago."""
        return self._read_at_s is not None and time.monotonic() - self._read_at_s <= STALE_MOST_S

    def active(self) -> set[str]:
        """Return the DSNs of the active tenants."""
        return {tenant.dsn for tenant in self._tenants.values()}

    def tenant_of(self, named: Sequence[str]) -> Tenant:
        """Return the tenant that a request is for, which names these slugs: one or none.

        Raises NotIdentified, NotAllowed, and DatabaseUnavailable while the list is not known.
        """
        if not self.is_known():
            raise DatabaseUnavailable(
                "the list of tenants is not known, or too old: the master database is away"
            )
        if len(named) > 1:
            raise NotIdentified(f"{self._place} is there more than once")
        if named:
            tenant = self._tenants.get(named[0])
            if tenant is None:
                raise NotAllowed(f"the tenant that {self._place} names is not open to this caller")
            return tenant
        if len(self._tenants) != 1:
            raise NotIdentified(f"which tenant? name its slug in {self._place}")
        return next(iter(self._tenants.values()))
