"""A connection over several lives of its process, behind a journal that only this test looks into.

A life has a ring, a Continuity and a Connector of its own. What outlives it: the journal (rows and positions that were
synced) and the folder of remembered sessions. `kill` is what a SIGKILL leaves of the rest: nothing.
"""

from __future__ import annotations

import asyncio
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from engine._fastpath import Ring
from engine.catalog.connection import Connection
from engine.continuity import Continuity
from engine.metrics import Counter, MetricsPage
from engine.readings import Batch
from engine.scaling import TagTable
from engine.settings import OpcuaSettings
from tests.servers.cutting_proxy import CuttingProxy
from tests.workers.opcua.held import Gap, listed
from tests.workers.opcua.tenant import RecordingSink, until
from workers.opcua.remembered import Remembered
from workers.opcua.session import Connector

if TYPE_CHECKING:
    pass

_SYNC_S = 0.02


class Journaled:
    """What is durable: rows by tag, gaps, and how far each subscription came."""

    def __init__(self) -> None:
        self.values: dict[int, list[float]] = {}
        self.newest: dict[int, tuple[int, int, float, int]] = {}
        self.gaps: set[Gap] = set()
        self.positions: dict[tuple[UUID, int], int] = {}
        self.repeated = 0

    @property
    def breaks(self) -> list[tuple[int, float, float]]:
        """Where a counter did not go on by one: tag, value before, value after."""
        return [
            (tag_id, before, after)
            for tag_id, values in self.values.items()
            for before, after in pairwise(values)
            if after != before + 1
        ]


class JournalingSink(RecordingSink):
    """Journals what the ring holds, all of it or nothing, whenever it is synced."""

    def __init__(self, journal: Journaled) -> None:
        super().__init__(Ring(10_000))
        self.keeps_waiting = True
        self.journal = journal
        self.tags = TagTable()
        self.continuity = Continuity(self.ring)

    def sync(self, most: int | None = None) -> None:
        assert most is None
        raw = self.drain()
        taken = self.continuity.take(raw.slot, self.tags.scale(raw))
        batch, journal = taken.batch, self.journal
        journal.repeated += taken.repeated
        journal.gaps |= listed(taken.changes.recorded)
        columns = (batch.tag_id, batch.ts_us, batch.status, batch.value, batch.kind)
        for tag_id, *reading in zip(*(column.tolist() for column in columns), strict=True):
            journal.values.setdefault(tag_id, []).append(reading[2])
            journal.newest[tag_id] = tuple(reading)
        for message in self.messages:
            position = message.position
            journal.positions[position.connection_id, position.subscription_id] = position.sequence_number
        super().sync()


class Lives:
    """One connection through a proxy, from life to life."""

    def __init__(self, page: MetricsPage, proxy: CuttingProxy, folder: Path) -> None:
        self.proxy = proxy
        self.folder = folder / "sessions"
        self.journal = Journaled()
        self.sink = JournalingSink(self.journal)
        self._page = page
        self._counters = page.shard(0).tenant("test")
        self._life: list[asyncio.Task[None]] = []
        self._connector: Connector | None = None

    def begin(self, wanted: Connection, settings: OpcuaSettings, *, sync: bool = True, **more: Any) -> None:
        """Start a process: it knows the catalog, the journal and the folder."""
        sink = self.sink = JournalingSink(self.journal)
        slots = np.array([sink.tags.slot(int(tag_id)) for tag_id in wanted.tags.tag_id], np.uint32)
        known = [
            (slot, self.journal.newest[tag])
            for tag, slot in zip(wanted.tags.tag_id.tolist(), slots, strict=True)
            if tag in self.journal.newest
        ]
        if known:
            ts_us, status, value, kind = zip(*(newest for _, newest in known), strict=True)
            sink.continuity.know(
                np.array([slot for slot, _ in known], np.uint32),
                Batch(
                    ts_us=np.array(ts_us, np.int64),
                    tag_id=np.zeros(len(known), np.int32),
                    status=np.array(status, np.uint32),
                    value=np.array(value, np.float64),
                    kind=np.array(kind, np.uint8),
                ),
            )
        self._connector = Connector(
            wanted,
            slots=slots,
            ring=sink.ring,
            counters=self._counters,
            settings=settings,
            sink=sink,
            continuity=sink.continuity,
            remembered=Remembered(self.folder, wanted, dict(self.journal.positions)),
            **more,
        )
        self._life = [asyncio.create_task(self._connector.run())]
        if sync:
            self._life.append(asyncio.create_task(self._sync(sink)))

    async def _sync(self, sink: JournalingSink) -> None:
        while True:
            await asyncio.sleep(_SYNC_S)
            sink.sync()

    async def kill(self) -> None:
        """End the process without a word to the server; what was not journaled is gone."""
        self.proxy.refuse()
        left = self.folder.with_name("left")
        shutil.copytree(self.folder, left, dirs_exist_ok=True)
        await self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
        left.rename(self.folder)
        await self.proxy.accept()

    async def stop(self) -> None:
        """End the process as SIGTERM does: the session stays, and what is in the ring is journaled."""
        sink = self.sink
        await self._end()
        sink.sync()

    async def remove(self) -> None:
        """End the connection as one that the catalog has not any more."""
        if self._connector is not None:
            self._connector.discard()
        await self._end()

    async def _end(self) -> None:
        for task in self._life:
            task.cancel()
        if self._life:
            await asyncio.wait(self._life, timeout=10)
        self._life = []

    async def remembered(self) -> None:
        """Wait until the session is remembered."""
        await until(lambda: self.files)

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.name.endswith(".new")]

    @property
    def last(self) -> float:
        return max((values[-1] for values in self.journal.values.values()), default=0.0)

    async def goes_on(self, steps: int = 10) -> None:
        """Wait until every counter has so many steps more."""
        target = self.last + steps

        def reached() -> bool:
            return bool(self.journal.values) and all(v[-1] >= target for v in self.journal.values.values())

        await until(reached, within_s=20.0)

    def counted(self, counter: Counter) -> int:
        return self._page.snapshot().tenants["test"].counters[counter]
