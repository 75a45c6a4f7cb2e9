"""One tenant as workers.opcua sees it: a ring, counters, a sink that records, and its running connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np

from engine._fastpath import Ring
from engine.catalog.connection import Connection
from engine.catalog.records import Tag
from engine.catalog.tag_set import TagSet
from engine.metrics import Counter, DropReason, MetricsPage, TenantSlots
from engine.readings import RawBatch
from engine.settings import OpcuaSettings
from tests.workers.opcua.plant import SOURCE_TIME
from workers.opcua.session import Connector
from workers.opcua.sink import ConnectionReport, Message

FAST = OpcuaSettings(
    publishing_interval_ms=20,
    sampling_interval_ms=10,
    queue_size=100,
    keep_alive_count=5,
    lifetime_count=3_000,
    request_timeout_s=1.0,
    backoff_first_s=0.05,
    backoff_most_s=0.2,
)


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (conditions are about other threads and processes, too)
            await asyncio.sleep(0.005)


class RecordingSink:
    """The owner of the ring: keeps what was reported and drains only when asked.

    What is stored is durable at once; with `keeps_waiting` only when `sync` is called.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.rows = 0
        self.waits = 0
        self.reports: list[ConnectionReport] = []
        self.keeps_waiting = False
        self.messages: list[Message] = []
        self._accepting = True
        self._told: list[Callable[[], None]] = []
        self._freed = asyncio.Event()

    @property
    def accepting(self) -> bool:
        return self._accepting

    def accept(self, accepting: bool) -> None:
        """Be a journal that takes readings, or one that is full."""
        self._accepting = accepting
        for call in list(self._told):
            call()

    @property
    def listeners(self) -> int:
        return len(self._told)

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:
        self._told.append(call)
        return lambda: self._told.remove(call)

    def stored(self, rows: int, message: Message | None = None) -> None:
        self.rows += rows
        if message is not None:
            self.messages.append(message)
        if not self.keeps_waiting:
            self.sync()

    def sync(self, most: int | None = None) -> None:
        """Make the oldest messages durable: all, or so many."""
        durable = self.messages[:most]
        del self.messages[:most]
        for message in durable:
            message.durable(message.position)

    async def wait_for_space(self) -> None:
        self.waits += 1
        self._freed.clear()
        await self._freed.wait()

    def report(self, report: ConnectionReport) -> None:
        self.reports.append(report)

    def drain(self) -> RawBatch:
        batch = self.ring.drain(self.ring.capacity_rows)
        self._freed.set()
        return batch

    @property
    def connected(self) -> bool:
        return bool(self.reports) and self.reports[-1].connected

    @property
    def error(self) -> str:
        return (self.reports[-1].error or "") if self.reports else ""


class Tenant:
    """One tenant's ring, counters and running connections."""

    def __init__(self, counters: TenantSlots, page: MetricsPage) -> None:
        self.counters = counters
        self._page = page
        self.ring = Ring(10_000)
        self.sink = RecordingSink(self.ring)
        self._tasks: list[asyncio.Task[None]] = []

    def use_ring(self, rows: int) -> None:
        self.ring = Ring(rows)
        self.sink = RecordingSink(self.ring)

    def connect(self, wanted: Connection, settings: OpcuaSettings = FAST, **more: Any) -> asyncio.Task[None]:
        """Run a Connector; slot i is tag i. `more` is what a Connector may be given besides."""
        connector = Connector(
            wanted,
            slots=np.arange(len(wanted.tags), dtype=np.uint32),
            ring=self.ring,
            counters=self.counters,
            settings=settings,
            sink=self.sink,
            **more,
        )
        task = asyncio.create_task(connector.run())
        self._tasks.append(task)
        return task

    async def receives(self, value: float) -> None:
        """Drain the ring until the value was in it."""
        await until(lambda: value in self.sink.drain().value)

    def counted(self, counter: Counter) -> int:
        return self._page.snapshot().tenants["test"].counters[counter]

    def dropped(self, reason: DropReason) -> int:
        return self._page.snapshot().tenants["test"].dropped[reason]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def connection(endpoint: str, *node_ids: str, **changes: Any) -> Connection:
    """Return a connection with a tag T0, T1, ... for each node id."""
    this = uuid4()
    well = uuid4()
    tags = TagSet.of(
        Tag(place + 1, uuid4(), this, well, f"T{place}", node_id, "DOUBLE", None, 1.0, 0.0)
        for place, node_id in enumerate(node_ids)
    )
    plain = Connection(
        id=this,
        well_id=well,
        name="plant",
        endpoint_url=endpoint,
        security_mode="None",
        security_policy="None",
        username=None,
        password=None,
        poll_interval_seconds=60,
        is_enabled=True,
        updated_at=SOURCE_TIME,
        tags=tags,
    )
    return replace(plain, **changes)
