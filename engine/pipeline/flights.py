"""Flights: commits that are on their way, two at most, which land in their order.

While the first is being copied, the second is sorted, encoded and copied over another connection. It is committed only
when the first has been, and has been counted: its task then waits for `turn` (Store.commit). So the database's work of
two batches overlaps, and everything else is as if there were one at a time.

    first    |---- COPY ----|-commit-|
    second        |---- COPY ----|   .-commit-|          its turn comes where the dot is
    third                             |---- COPY ----|

Invariants:
- A second one is never committed before its turn has come, and never after it was abandoned.
- What a second one answers before its turn is not believed: it was decided beside another commit. It is committed
  again in its turn, and answers once more.
- No first waits for a second for long. One that is in the first's way in the database, as by the lock of a chunk that
  both need and it made, is abandoned after GIVE_WAY_S; then, as after any early answer, flights go one at a time for
  ALONE_S.
- A second has a connection at once or not at all (Priority.SPARE), and gives it back when it is abandoned.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from engine.cancelling import cancel_all
from engine.database_pool import NoSpareConnection

if TYPE_CHECKING:
    from uuid import UUID

    from engine.pipeline.batches import Batch
    from engine.store import Committed, Store

log = structlog.get_logger(__name__)

# A batch takes less than half a second (BatchRows). Well below the ten seconds after which a lock is given up.
GIVE_WAY_S = 3.0
# What made a second one fail may be there for a while, such as a server that has no second connection for us.
ALONE_S = 30.0
# A second one whose turn will not come rolls back at once, unless it waits for the database.
_ROLLBACK_S = 0.5


class Flight:
    """One commit on its way."""

    def __init__(self, batch: Batch, task: asyncio.Task[Committed], turn: asyncio.Future[None]) -> None:
        """Use Flights.begin or Flights.follow."""
        self.batch = batch
        self.task = task
        self.turn = turn
        self.started_s = time.monotonic()

    async def abandon(self) -> None:
        """End it without a commit; its connection is given back, or closed, then."""
        self.turn.cancel()
        await asyncio.wait({self.task}, timeout=_ROLLBACK_S)
        await cancel_all(self.task)


class Flights:
    """One stream's commits that are on their way."""

    def __init__(self, store: Store, stream: UUID, epoch: int) -> None:
        self.first: Flight | None = None
        self.second: Flight | None = None
        self._store = store
        self._stream = stream
        self._epoch = epoch
        self._alone_until_s = 0.0

    @property
    def may_follow(self) -> bool:
        """Whether a second one may begin now."""
        return (
            self.first is not None
            and self.second is None
            and not self._store.breaker.is_open
            and time.monotonic() >= self._alone_until_s
        )

    def begin(self, batch: Batch) -> Flight:
        """Send a batch that waits for nobody."""
        commit = batch.commit(self._stream, self._epoch)
        task = asyncio.create_task(self._store.commit(commit))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn.set_result(None)
        self.first = Flight(batch, task, turn)
        return self.first

    def follow(self, batch: Batch) -> None:
        """Send a batch that is committed after the first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commit = batch.commit(self._stream, self._epoch)
        task = asyncio.create_task(self._store.commit(commit, before=turn))
        self.second = Flight(batch, task, turn)

    async def wait(self) -> None:
        """Return when the first has an outcome; a second that is in its way for too long is abandoned."""
        assert self.first is not None
        while not self.first.task.done():
            waits_s = GIVE_WAY_S if self.may_follow or self.second is not None else None
            await asyncio.wait({self.first.task}, timeout=waits_s)
            if not self.first.task.done() and waits_s is not None:
                self._go_alone()
                await self._abandon_second()

    def landed(self) -> Exception | None:
        """Have the second one be the first, whose turn it is; return what it answered too early, if it was an error.

        Call it when the first is committed and counted.
        """
        self.first, self.second = self.second, None
        if self.first is None:
            return None
        flight = self.first
        if not flight.task.done():
            flight.turn.set_result(None)
            return None
        early = flight.task.exception()
        self.begin(flight.batch)
        if early is None or isinstance(early, NoSpareConnection) or not isinstance(early, Exception):
            return None
        self._go_alone()
        log.warning(
            "a batch that was sent behind another failed; it is sent again in its turn",
            error=repr(early),
            sqlstate=getattr(early, "sqlstate", None),
            alone_s=ALONE_S,
        )
        return early

    async def abandon(self) -> None:
        """End the second one: the first is not committed, or perhaps not, and has to be sent or planned again."""
        self.first = None
        await self._abandon_second()

    async def close(self) -> None:
        """End whatever is on its way; what the database has committed of it by then stays."""
        flights = [flight for flight in (self.first, self.second) if flight is not None]
        for flight in flights:
            flight.turn.cancel()
        await cancel_all(*(flight.task for flight in flights))

    async def _abandon_second(self) -> None:
        if self.second is not None:
            second, self.second = self.second, None
            await second.abandon()

    def _go_alone(self) -> None:
        self._alone_until_s = time.monotonic() + ALONE_S
