"""A few connections to one tenant's database for queries: opened when wanted, kept a while, closed when idle.

Owns how many there may be. A front serves hundreds of tenants, so a tenant that nobody asks about costs the server no
connection. A failure to connect reaches the caller at once and as it is, with the server's reason. A connection whose
user failed is closed, never given to the next one.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from engine.database import connect
from engine.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Longer than a page of a dashboard takes to ask its next question, shorter than anybody would count idle ones.
_IDLE_S = 60.0


class QueryConnections:
    """At most `most` connections to `dsn`; single event loop."""

    def __init__(self, dsn: str, application: str, *, most: int, wait_s: float) -> None:
        self._dsn = dsn
        self._application = application
        self._most = most
        self._wait_s = wait_s
        self._free = asyncio.Semaphore(most)
        # (connection, since when idle); the newest last, so that a small load keeps the old ones idle.
        self._idle: deque[tuple[AsyncConnection[Any], float]] = deque()
        self._closed = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a connection in autocommit mode; raises DatabaseUnavailable when none can be had."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as exc:
            raise DatabaseUnavailable(
                f"all {self._most} connections for queries were busy for {self._wait_s} seconds"
            ) from exc
        try:
            connection = await self._take()
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            await self._give_back(connection)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close the idle connections, and every other one when it comes back."""
        self._closed = True
        while self._idle:
            await self._idle.pop()[0].close()

    async def _take(self) -> AsyncConnection[Any]:
        while self._idle:
            connection, _ = self._idle.pop()
            if _usable(connection):
                return connection
            await connection.close()
        return await connect(self._dsn, application=self._application, autocommit=True)

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        if self._closed:
            await connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        loop.call_later(_IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        # Half a second of grace: a timer may fire a little early.
        before = asyncio.get_running_loop().time() - _IDLE_S + 0.5
        while self._idle and self._idle[0][1] < before:
            # What AsyncConnection.close does; here, in a timer, nothing can be awaited.
            self._idle.popleft()[0].pgconn.finish()


def _usable(connection: AsyncConnection[Any]) -> bool:
    """Tell whether a connection that lay idle still stands, as far as this end knows; asks nobody.

    Nothing is sent to an idle connection but a goodbye, or news of a changed server setting.
    """
    if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return False
    waiting = select.poll()
    waiting.register(connection.pgconn.socket, select.POLLIN)
    return not waiting.poll(0)
