"""A connection through a proxy, its rows judged as in a tenant's pipeline; for servers whose counters show a loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import numpy as np

from engine.continuity import Continuity
from engine.gaps import Cause, Gaps
from engine.metrics import Counter
from engine.readings import RawBatch
from engine.scaling import TagTable
from engine.settings import OpcuaSettings
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.opcua_server import OpcuaServer
from tests.workers.opcua.tenant import FAST, RecordingSink, Tenant, connection, until
from workers.opcua.session import Connector

NODES = ("ns=1;s=tag.0", "ns=1;s=tag.1", "ns=1;s=tag.9")
SETTINGS = replace(FAST, publishing_interval_ms=50, queue_size=200, request_timeout_s=2.0)


Gap = tuple[int, int, int, Cause]


def listed(gaps: Gaps) -> set[Gap]:
    columns = (
        gaps.tag_id.tolist(),
        gaps.from_us.tolist(),
        gaps.to_us.tolist(),
        map(Cause, gaps.cause.tolist()),
    )
    return set(zip(*columns, strict=True))


class Judged(RecordingSink):
    """A sink behind which continuity judges, as in a tenant's pipeline."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__(tenant.ring)
        self.continuity = Continuity(tenant.ring)
        self.tags = TagTable()
        self.values: dict[int, list[float]] = {}
        self.gaps: set[Gap] = set()
        self.filled: set[Gap] = set()
        self.repeated = 0

    def drain(self) -> RawBatch:
        raw = super().drain()
        taken = self.continuity.take(raw.slot, self.tags.scale(raw))
        for tag_id, value in zip(taken.batch.tag_id.tolist(), taken.batch.value.tolist(), strict=True):
            self.values.setdefault(tag_id, []).append(value)
        self.repeated += taken.repeated
        self.gaps |= listed(taken.changes.recorded)
        self.filled |= listed(taken.changes.recovered)
        return raw

    def reached(self, value: float) -> bool:
        """Take what has come; return whether every counter has come to this value."""
        self.drain()
        return len(self.values) == len(NODES) and all(each[-1] >= value for each in self.values.values())

    @property
    def last(self) -> float:
        self.drain()
        return max((each[-1] for each in self.values.values()), default=0.0)


class Held:
    """A running connection through a proxy."""

    def __init__(self, tenant: Tenant, proxy: CuttingProxy) -> None:
        self.tenant = tenant
        self.proxy = proxy
        self.sink = Judged(tenant)
        tenant.sink = self.sink
        self.task: asyncio.Task[None] | None = None

    def use_ring(self, rows: int) -> None:
        """Have another ring; before `connect`."""
        self.tenant.use_ring(rows)
        self.sink = Judged(self.tenant)
        self.tenant.sink = self.sink

    def rows_taken(self) -> int:
        """Rows that were stored, dropped as repeated, or are in the ring."""
        stored = sum(len(values) for values in self.sink.values.values())
        return stored + self.sink.repeated + len(self.tenant.ring)

    async def connect(self, settings: OpcuaSettings = SETTINGS, *, steps: int = 5) -> None:
        """Connect and wait for the first steps of the counters."""
        wanted = connection(f"opc.tcp://127.0.0.1:{self.proxy.port}", *NODES)
        slots = [self.sink.tags.slot(int(tag_id)) for tag_id in wanted.tags.tag_id]
        connector = Connector(
            wanted,
            slots=np.array(slots, np.uint32),
            ring=self.tenant.ring,
            counters=self.tenant.counters,
            settings=settings,
            sink=self.sink,
            continuity=self.sink.continuity,
        )
        self.task = asyncio.create_task(connector.run())
        await self.goes_on(steps)

    async def goes_on(self, steps: int = 10) -> None:
        """Wait for so many steps more of every counter."""
        target = self.sink.last + steps
        await until(lambda: self.sink.reached(target), within_s=20.0)

    async def away(self, seconds: float) -> None:
        """Let nobody through for so long."""
        self.proxy.refuse()
        await until(lambda: not self.sink.connected)
        await asyncio.sleep(seconds)
        await self.proxy.accept()

    def breaks(self) -> list[tuple[int, float, float]]:
        """Return where a counter did not go on by one: tag, value before, value after; late ones put in their place."""
        return [
            (tag_id, before, after)
            for tag_id, values in self.sink.values.items()
            for before, after in pairwise(sorted(values) if self.sink.filled else values)
            if after != before + 1
        ]

    def gaps(self) -> list[tuple[int, Cause]]:
        """Return tag and cause of each gap that was recorded and not filled."""
        return sorted((tag_id, cause) for tag_id, _, _, cause in self.sink.gaps - self.sink.filled)

    def counted(self, counter: Counter) -> int:
        return self.tenant.counted(counter)


def port_of(server: OpcuaServer) -> int:
    return int(server.endpoint.rpartition(":")[2])
