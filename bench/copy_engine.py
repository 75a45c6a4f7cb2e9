"""The engine's way into the database, as the committer goes it: two commits on their way, made in their order."""

from __future__ import annotations

import asyncio
import time
import uuid

import uvloop

from bench.copy_feed import parts_of
from engine.database_pool import DatabasePool
from engine.frames import Frame, sequence_of
from engine.gaps import GapChanges
from engine.readings import Batch
from engine.store import Commit, Lane, Store

# Of the pool's connections a quarter is not lent as somebody's second one.
_CONNECTIONS = 4


class Engine:
    """The owner of a new stream: makes frames of batches, and commits them behind each other."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._pool = DatabasePool(_CONNECTIONS, retry_most_s=0.0)
        self._store = Store(self._pool.database(dsn, "scada-engine bench"))
        self._stream = uuid.uuid4()
        claim = self._runner.run(self._store.claim(self._stream, 1))
        self._epoch = claim.epoch
        (self._lane,) = claim.lanes
        self._count = 0

    def measure(self, batches: list[Batch]) -> float:
        """Return the seconds to commit the batches; making their frames is not counted."""
        commits = [self._commit(batch) for batch in batches]
        return self._runner.run(self._measure(commits))

    async def _measure(self, commits: list[Commit]) -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            flying = group.create_task(self._store.commit(commits[0]))
            for commit in commits[1:]:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                following = group.create_task(self._store.commit(commit, before=turn))
                await flying
                turn.set_result(None)
                flying = following
        return time.perf_counter() - began

    def _commit(self, batch: Batch) -> Commit:
        """Return the commit of a batch, behind the last one."""
        frames = [self._frame(part) for part in parts_of(batch)]
        lane = self._lane
        self._lane = Lane(lane.after, frames[-1].sequence)
        return Commit(self._stream, self._epoch, lane, frames, frames[-1].sequence)

    def _frame(self, batch: Batch) -> Frame:
        self._count += 1
        sequence = sequence_of(self._epoch, self._count)
        return Frame(sequence, sequence - 1, int(batch.ts_us.max()), batch, GapChanges(), (), nbytes=0)

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._pool.close())
        self._runner.close()
