"""Frames and commits for tests of the store: a stream whose frames are numbered as a journal would."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np
import psycopg

from engine._fastpath import encode_copy
from engine.frames import Frame, sequence_of
from engine.gaps import GapChanges
from engine.readings import READING_COLUMNS, Batch, Kind
from engine.store import Claim, Commit, Committed, Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

    from engine.frames import Loss
    from engine.store import Store

BASE_US = 1_780_000_000_000_000


def batch_of(rows: int, **columns: Any) -> Batch:
    """Return rows of tag 1 with the values 0, 1, 2, ..., a microsecond apart; `columns` replaces some of them."""
    made: dict[str, Any] = {
        "ts_us": BASE_US + np.arange(rows, dtype=np.int64),
        "tag_id": np.ones(rows, np.int32),
        "status": np.zeros(rows, np.uint32),
        "value": np.arange(rows, dtype=np.float64),
        "kind": np.full(rows, Kind.NUMBER, np.uint8),
    }
    return Batch(**(made | columns))


def text_batch(*texts: str) -> Batch:
    """Return a row of tag 1 for each text."""
    return batch_of(len(texts), kind=np.full(len(texts), Kind.TEXT, np.uint8), texts=dict(enumerate(texts)))


def put_readings(dsn: str, batch: Batch) -> None:
    """Copy rows into readings, whatever they hold, outside of any stream."""
    encoded = encode_copy(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, batch.texts)
    statement = f"copy readings ({', '.join(READING_COLUMNS)}) from stdin (format binary)"
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement.encode()) as copy:
        copy.write(encoded)


class Stream:
    """The owner of a stream, over one store: numbers frames, commits them, and keeps what it was told."""

    def __init__(self, store: Store | None, stream: UUID | None = None) -> None:
        self._store = store
        self.id = stream or uuid4()
        self.claimed: Claim | None = None
        self.lanes: tuple[Lane, ...] = ()
        self.count = 0

    @property
    def store(self) -> Store:
        """Where it is committed."""
        assert self._store is not None, "frames without a store cannot be committed"
        return self._store

    async def claim(self, at_least_epoch: int = 1) -> Claim:
        """Become the owner; the first frame is number 1 again."""
        self.claimed = await self.store.claim(self.id, at_least_epoch)
        self.lanes = self.claimed.lanes
        self.count = 0
        return self.claimed

    @property
    def epoch(self) -> int:
        """The epoch of the last claim, 1 before the first."""
        return self.claimed.epoch if self.claimed is not None else 1

    def sequence(self, count: int) -> int:
        """Return the sequence of this owner's frame of that number."""
        return sequence_of(self.epoch, count)

    def frame(self, batch: Batch, gaps: GapChanges | None = None, journaled_us: int = BASE_US) -> Frame:
        """Return the next frame."""
        self.count += 1
        sequence = self.sequence(self.count)
        return Frame(
            sequence, sequence - 1, journaled_us, batch, gaps or GapChanges(), positions=(), nbytes=0
        )

    def commit_of(self, frames: Sequence[Frame], losses: Sequence[Loss] = (), lane: int = 0) -> Commit:
        """Return the commit of some frames into a lane."""
        end = max([frame.sequence for frame in frames] + [loss.until - 1 for loss in losses])
        return Commit(self.id, self.epoch, self.lanes[lane], frames, end, losses=losses)

    async def commit(self, commit: Commit) -> Committed:
        """Commit, and keep what the answer says."""
        committed = await self.store.commit(commit)
        self.lanes = committed.lanes
        return committed

    async def store_batch(self, *batches: Batch, gaps: GapChanges | None = None) -> Committed:
        """Commit each batch as a frame, all at once; the gaps are of the first."""
        if self.claimed is None:
            await self.claim()
        frames = [self.frame(batch, None if place else gaps) for place, batch in enumerate(batches)]
        return await self.commit(self.commit_of(frames))


def into_new_lane(commit: Commit, after: int) -> Commit:
    """Return the commit as one that opens a lane behind `after`."""
    return replace(commit, lane=Lane(after, after), opens=True)


async def until_waiting(server: AsyncConnection[Any]) -> None:
    """Return once the store of the test waits for a lock; `server` is a connection in autocommit mode."""
    query = """
        select from pg_stat_activity where application_name = 'test store' and wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while (await server.execute(query)).rowcount == 0:  # noqa: ASYNC110  (another process decides)
            await asyncio.sleep(0.01)
