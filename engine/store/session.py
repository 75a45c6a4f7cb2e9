"""A connection as the store uses it: every step has a time limit, and every error is one of ours."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine.database import translated
from engine.errors import DatabaseUnavailable
from engine.readings import READING_COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from psycopg import AsyncConnection, AsyncCursor

# A batch of 50 000 rows takes a quarter of a second; a minute means a disk that hangs, or a network that crawls.
_STATEMENT_TIMEOUT_S = 60
# Nobody locks our tables for longer but a migration, and an owner of the stream whose end has not been noticed yet.
_LOCK_TIMEOUT_S = 10
# More than the server's own limit, which gives the better message; for servers that stopped answering altogether.
_ANSWER_S = 75

# synchronous_commit, because a role or a database may have it off, and a commit means "stored for good" to our caller.
# The last one frees what is locked when this process, or the network to it, is gone.
BEGIN = (
    "begin; set local synchronous_commit = on"
    f"; set local statement_timeout = '{_STATEMENT_TIMEOUT_S}s'; set local lock_timeout = '{_LOCK_TIMEOUT_S}s'"
    f"; set local idle_in_transaction_session_timeout = '{_STATEMENT_TIMEOUT_S}s'"
)
_COPY = f"copy readings ({', '.join(READING_COLUMNS)}) from stdin (format binary)"


class Session:
    """Runs statements over one connection in autocommit mode; nothing of it stays in the server's session."""

    def __init__(self, connection: AsyncConnection[Any], what: str) -> None:
        """`what` begins every error's message, and says what was tried."""
        self._connection = connection
        self.what = what

    async def simple(self, statements: str) -> AsyncCursor[Any]:
        """Send statements without parameters as one query; return the cursor of the last one's result."""
        async with self._step():
            cursor = await self._connection.execute(statements.encode())
            while cursor.nextset():
                pass
            return cursor

    async def execute(self, statement: str, parameters: Sequence[Any]) -> AsyncCursor[Any]:
        """Send one statement."""
        async with self._step():
            return await self._connection.execute(statement.encode(), parameters)

    async def copy(self, encoded: Iterable[bytearray]) -> None:
        """Store rows, all or none, given as pieces of COPY bytes; they are in the order of the index."""
        async with self._step(), self._connection.cursor().copy(_COPY.encode()) as copy:
            # Each is made while the server takes in the ones before.
            for piece in encoded:
                await copy.write(piece)

    async def commit(self, last: str) -> None:
        """Send the last statement of a transaction and commit it."""
        said = (await self.simple(f"{last}; commit")).statusmessage
        if said != "COMMIT":
            raise DatabaseUnavailable(f"{self.what}: the answer to commit was {said}")

    @asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        try:
            with translated(self.what):
                async with asyncio.timeout(_ANSWER_S):
                    yield
        except TimeoutError as exc:
            raise DatabaseUnavailable(
                f"{self.what}: no answer in {_ANSWER_S} seconds", timed_out=True
            ) from exc
