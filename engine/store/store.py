"""The Store: a tenant's database as those see it who write to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine.database_pool import Priority
from engine.errors import DatabaseNotMigrated
from engine.store.append_order import AppendOrder
from engine.store.claims import claim_stream
from engine.store.commits import Committed, Transaction
from engine.store.marks import MarkMoved
from engine.store.modes import StorageMode, detect_mode
from engine.store.newest import NEWEST_TAGS, fill_newest, nothing_known
from engine.store.session import Session
from engine.store.turns import NotItsTurn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray
    from psycopg import AsyncConnection

    from engine.breaker import Breaker
    from engine.database_pool import Database
    from engine.readings import Batch
    from engine.store.marks import Claim
    from engine.store.plans import Commit


class Store:
    """Writes one tenant's frames. Each call borrows a connection for itself; several may be under way."""

    def __init__(
        self, database: Database, *, ahead_most_s: float = 86_400.0, late_after_s: float = 300.0
    ) -> None:
        """`ahead_most_s`: a reading's time may be so much later than its frame was written.

        `late_after_s`: one that is so much earlier than its frame counts as late.
        """
        self.mode: StorageMode | None = None
        self._database = database
        self._ahead_most_s = ahead_most_s
        self._late_after_s = late_after_s
        self._database_id: UUID | None = None
        self._running: set[int] = set()
        self._append_order = AppendOrder()

    @property
    def breaker(self) -> Breaker:
        """Whether the database is away, and when it makes sense to try again."""
        return self._database.breaker

    async def check(self, connection: AsyncConnection[Any] | None = None) -> None:
        """Learn the storage mode anew: migrations change it. Over `connection`, where the caller has one anyway.

        Raises DatabaseUnavailable, and DatabaseNotMigrated when tables are missing.
        """
        if connection is not None:
            self.mode = await _found_mode(connection)
            return
        self.mode = None
        async with self._connected(Priority.READ):
            pass

    async def newest(self, tag_ids: NDArray[np.int32]) -> Batch:
        """Return the newest stored reading of each tag, in the order given; ts_us is int64's least where none is.

        Texts are left out: `kind` says that there is one. Raises DatabaseUnavailable or DatabaseNotMigrated.
        """
        newest = nothing_known(tag_ids)
        newest_us = newest.ts_us.copy()
        order = self._append_order
        with order.asking():
            holder: tuple[UUID | None, int] | None = None
            for first in range(0, len(tag_ids), NEWEST_TAGS):
                end = first + NEWEST_TAGS
                async with self._connected(Priority.READ) as connection:
                    session = Session(connection, "cannot read the newest readings")
                    holder = holder or await order.holder(session)
                    newest_us[first:end] = await fill_newest(session, newest.part(first, end))
            if holder is not None:
                order.told(tag_ids, newest_us, *holder)
        return newest

    async def claim(self, stream: UUID, at_least_epoch: int) -> Claim:
        """Become the owner of a stream: its epoch goes up, and nobody with a lower one can commit any more.

        The new epoch is `at_least_epoch` or higher. Raises DatabaseUnavailable, also when the last owner is in the
        middle of a commit for too long, and DatabaseNotMigrated.
        """
        async with self._connected(Priority.WRITE) as connection:
            claim = await claim_stream(Session(connection, "cannot claim the stream"), stream, at_least_epoch)
        self._database_id = claim.database_id
        self._append_order.claimed(stream)
        return claim

    async def commit(self, commit: Commit, *, before: asyncio.Future[None] | None = None) -> Committed:
        """Store frames with all that belongs to them, whole or not at all; returns when they are stored for good.

        Exactly once: when an error leaves open whether they are stored, commit the same again.

        `before` is the commit that this one follows, of the same lane or another: it is done when that one is made,
        and has failed or is cancelled when that one is not. This one copies its rows meanwhile and is made after it;
        its `lane` is what the one before leaves. The caller sees to it that `before` ends.

        Raises
            DatabaseUnavailable, DatabaseNotMigrated    try again; see is_timeout and is_conflict
            DatabaseRejected                            a person has to look: not a few rows are refused, or no row is
            MarkMoved                                   the database has lost commits: what it has now is in the error
            StreamTakenOver                             another process owns the stream
            NotItsTurn                                  the commit before is not made; nothing of this one is stored
            NoSpareConnection                           `before` is given, and the pool has no second connection now
        """
        priority = Priority.WRITE if before is None else Priority.SPARE
        async with self._connected(priority) as connection:
            assert self.mode is not None
            session = Session(
                connection, f"cannot store {sum(len(frame.batch) for frame in commit.frames)} readings"
            )
            transaction = Transaction(
                session,
                append_order=self._append_order if self.mode is StorageMode.COLUMNSTORE else None,
                database_id=self._database_id,
                ahead_most_s=self._ahead_most_s,
                late_after_s=self._late_after_s,
                running=self._running,
            )
            try:
                return await transaction.run(commit, before)
            except MarkMoved:
                self._append_order.forget()
                raise
            except NotItsTurn as exc:
                # Not through the block: nothing is wrong with the connection.
                early = exc
        raise early

    @asynccontextmanager
    async def _connected(self, priority: Priority) -> AsyncIterator[AsyncConnection[Any]]:
        """Borrow a connection; learn the storage mode unless it is known."""
        async with self._database.connection(priority) as connection:
            if self.mode is None:
                self.mode = await _found_mode(connection)
            try:
                yield connection
            except DatabaseNotMigrated:
                self.mode = None
                raise


async def _found_mode(connection: AsyncConnection[Any]) -> StorageMode:
    return await detect_mode(Session(connection, "cannot find out the storage mode"))
