"""The list of tenants, from the master database, at whatever address works: where the address comes from a file, the
file is read again each time, and what it says is taken as soon as the server accepts it.

So a password is rotated in any order, in PostgreSQL first or in the file first, and a new server is followed too. Until
the new address works, the one before is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from engine import catalog
from engine.errors import ConfigurationError, DatabaseError
from engine.migrations import Which
from engine.migrations_newer import refuse_newer
from engine.settings import read_again

if TYPE_CHECKING:
    from engine.breaker import Breaker
    from engine.database_pool import Database, DatabasePool
    from engine.settings import Settings

log = structlog.get_logger(__name__)


class MasterDatabase:
    """Reads the tenants; their DSNs follow the master's. `application` is what pg_stat_activity shows."""

    def __init__(self, settings: Settings, databases: DatabasePool, application: str) -> None:
        self._settings = settings
        self._databases = databases
        self._application = application
        self._database = databases.database(settings.database_url, application)
        self._looked_at = False
        # What was said last of an address that does not work, so that it is not said at every refresh.
        self._said: str | None = None

    @property
    def breaker(self) -> Breaker:
        """Whether the master database is away."""
        return self._database.breaker

    async def tenants(self) -> list[catalog.Tenant]:
        """Return the active tenants; raises a DatabaseError, or ConfigurationError for a DSN that cannot be parsed.

        DatabaseTooNew comes where an address is used for the first time: one that is followed already is followed on.
        """
        renewed = self._read_again()
        if renewed != self._settings and (tenants := await self._tried(renewed)) is not None:
            return tenants
        tenants = await _listed(self._database, self._settings, first=not self._looked_at)
        self._looked_at = True
        return tenants

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    def _read_again(self) -> Settings:
        try:
            return read_again(self._settings)
        except ConfigurationError as exc:
            self._say("the address of the master database cannot be read again; the one before is kept", exc)
            return self._settings

    async def _tried(self, renewed: Settings) -> list[catalog.Tenant] | None:
        """Take another address if it works; None if it does not."""
        database = self._databases.database(renewed.database_url, self._application)
        try:
            tenants = await _listed(database, renewed, first=True)
        except (ConfigurationError, DatabaseError) as exc:
            self._say("the new address of the master database does not work; the one before is kept", exc)
            await database.close()
            return None
        await self._database.close()
        self._database, self._settings, self._said = database, renewed, None
        self._looked_at = True
        log.info("the master database has a new address, from its file")
        return tenants

    def _say(self, event: str, error: Exception) -> None:
        if self._said != str(error):
            self._said = str(error)
            log.warning(event, error=str(error), will_retry=True)


async def _listed(database: Database, settings: Settings, *, first: bool) -> list[catalog.Tenant]:
    async with database.connection() as master:
        if first:
            await refuse_newer(master, Which.MASTER)
        return await catalog.list_tenants(master, settings)
