"""How many queries of one kind a tenant may run at once, and how long one waits for its turn.

Owns these two only: connections are the pool's (engine.database_pool), which caps them over all tenants. A failure to
connect reaches the caller at once and as it is, with the server's reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.database_pool import Database


class QueryConnections:
    """At most `most` connections to `database`, each waited for at most `wait_s`; single event loop."""

    def __init__(self, database: Database, *, most: int, wait_s: float) -> None:
        self._database = database
        self._most = most
        self._wait_s = wait_s
        self._free = asyncio.Semaphore(most)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a connection in autocommit mode; raises DatabaseUnavailable when none can be had."""
        loop = asyncio.get_running_loop()
        waits_until_s = loop.time() + self._wait_s
        try:
            async with asyncio.timeout_at(waits_until_s):
                await self._free.acquire()
        except TimeoutError as exc:
            raise DatabaseUnavailable(
                f"all {self._most} connections for queries were busy for {self._wait_s} seconds"
            ) from exc
        try:
            wait_s = max(0.0, waits_until_s - loop.time())
            async with self._database.connection(wait_s=wait_s) as connection:
                yield connection
        finally:
            self._free.release()
