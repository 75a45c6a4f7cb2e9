"""Claim `subscribe`: 100 000 monitored items on open62541, against the time that the server needs by itself.

Ours is `monitor`, as a worker calls it once its session is open: namespaces, a subscription, and items in batches; each
answer is read and kept. The server's own time is that of the same requests, encoded before the clock starts and sent
with as many in flight, of whose answers only the arrival is noted. Both take turns, each in a session of its own.

bytes_per_tag is what a worker keeps of one more tag while it runs: the difference between 10 000 and 100 000 tags of a
connection that is up and has had a value of each, by tracemalloc, which sees Python's and numpy's memory: TagSet,
TagTable, slots, Monitoring with its addresses, Continuity. The ring is not in it: it does not grow with tags.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import statistics
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import uvloop

from bench.large_plant import RING_ROWS, connection, large_plant
from bench.report import Progress, Report, Target, interleaved, median_ratio
from engine._fastpath import Ring, encode_create_items
from engine.catalog.records import ItemSettings
from engine.catalog.tag_set import TagSet
from engine.continuity import Continuity
from engine.errors import ConnectionRefused
from engine.metrics import MetricsPage
from engine.scaling import TagTable
from engine.settings import OpcuaSettings
from tests.servers.opcua_server import OpcuaServer
from workers.opcua.channel import Channel
from workers.opcua.monitoring.items import _IN_FLIGHT, monitor
from workers.opcua.monitoring.limits import read_limits, smaller
from workers.opcua.monitoring.resolve import resolve
from workers.opcua.monitoring.subscribe import create_subscription
from workers.opcua.monitoring.ways import ways_of
from workers.opcua.session import Connector
from workers.opcua.sink import ConnectionReport, Message

ITEMS = 100_000
FEW_ITEMS = 10_000
ROUNDS = 15
STILL_MS = 3_600_000.0  # the counters stand still
MOST_ROWS = RING_ROWS // 2
DEADLINE_S = 120.0
_CREATE_ITEMS = b"\x01\x00" + (751).to_bytes(2, "little")
_CLOSE_S = 10.0

TARGETS = (Target("vs_server_time", "<=", 1.2), Target("bytes_per_tag", "<=", 120))
MEANING = {
    "items_per_s": "monitored items a second, set up by `monitor`",
    "server_items_per_s": "the same requests, ready and sent raw",
    "vs_server_time": "our time / the server's, median of rounds",
    "core_share": "our CPU time while setting up / time",
    "bytes_per_tag": "what a worker keeps of one more tag",
}


def run(progress: Progress) -> Report:
    """Measure the claim."""
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    with (
        large_plant(ITEMS, STILL_MS) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        tags = connection(server.endpoint, ITEMS).tags
        shares: list[float] = []
        seconds = interleaved(
            ROUNDS,
            {
                "ours": lambda: runner.run(_ours(server, tags, shares)),
                "server": lambda: runner.run(_raw(server, tags)),
            },
            progress,
        )
        # The first time, modules and caches are loaded that stay whatever the number of tags.
        _, few, many = (runner.run(_kept_bytes(server, count)) for count in (FEW_ITEMS, FEW_ITEMS, ITEMS))
    figures = {
        "items_per_s": ITEMS / statistics.median(seconds["ours"]),
        "server_items_per_s": ITEMS / statistics.median(seconds["server"]),
        "vs_server_time": median_ratio(seconds["ours"], seconds["server"]),
        "core_share": statistics.median(shares),
        "bytes_per_tag": (many - few) / (ITEMS - FEW_ITEMS),
    }
    return Report("subscribe", figures, TARGETS, MEANING)


async def _ours(server: OpcuaServer, tags: TagSet, shares: list[float]) -> float:
    """Return the seconds that it takes us to monitor all tags."""
    settings = OpcuaSettings()
    channel = Channel(server.endpoint, settings)
    try:
        await channel.open()
        limits = await read_limits(channel)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        monitoring = await monitor(channel, tags, ItemSettings(), settings, limits, MOST_ROWS)
        took_s = time.perf_counter() - began_s
        shares.append((time.process_time() - cpu_s) / took_s)
    finally:
        await channel.close(_CLOSE_S)
    if monitoring.monitored != len(tags):
        raise ConnectionRefused(f"not every tag is monitored: {monitoring.missing()}")
    return took_s


async def _raw(server: OpcuaServer, tags: TagSet) -> float:
    """Return the seconds that the server takes for the same requests."""
    settings = OpcuaSettings()
    channel = Channel(server.endpoint, settings)
    try:
        await channel.open()
        limits = await read_limits(channel)
        addresses = await resolve(channel, tags, limits)
        (way,), _ = ways_of(tags, ItemSettings(), settings)
        most = smaller(settings.items_per_call, limits.items_per_call)
        subscription = await create_subscription(channel, settings, MOST_ROWS, way.interval_ms)
        bodies: deque[bytes] = deque()
        for first in range(0, len(tags), most):
            part = np.arange(first, min(first + most, len(tags)), dtype=np.int32)
            node_ids, ranges, _ = addresses.wire(part)
            bodies.append(
                encode_create_items(
                    subscription.subscription_id,
                    way.timestamps,
                    part.astype(np.uint32),
                    node_ids,
                    ranges,
                    way.parameters,
                )
            )

        async def lane() -> None:
            while bodies:
                await channel.protocol.request(_CREATE_ITEMS, bodies.popleft())

        began_s = time.perf_counter()
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            for _ in range(_IN_FLIGHT):
                group.create_task(lane())
        return time.perf_counter() - began_s
    finally:
        await channel.close(_CLOSE_S)


class Flusher:
    """The owner of the ring: takes batches out as the pipeline does, and drops them where it would store them."""

    def __init__(self, ring: Ring, table: TagTable, continuity: Continuity, wanted: int) -> None:
        self.every_tag_had_a_value = asyncio.Event()
        self._ring = ring
        self._table = table
        self._continuity = continuity
        self._wanted = wanted

    accepting = True

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Never change."""
        return lambda: None

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Take out what came."""
        if message is not None:
            message.durable(message.position)
        raw = self._ring.drain(self._ring.capacity_rows)
        self._continuity.take(raw.slot, self._table.scale(raw))
        self._wanted -= rows
        if self._wanted <= 0:
            self.every_tag_had_a_value.set()

    async def wait_for_space(self) -> None:
        """Never wanted: the ring is empty after each message."""

    def report(self, report: ConnectionReport) -> None:
        """Nobody asks."""


async def _kept_bytes(server: OpcuaServer, count: int) -> int:
    """Return the memory of all that is kept while a connection with so many tags is up."""
    page = MetricsPage.create(1)
    counters = page.shard(0).tenant("bench")
    ring = Ring(RING_ROWS)
    gc.collect()
    tracemalloc.start()
    try:
        wanted = connection(server.endpoint, count)
        table, continuity = TagTable(), Continuity(ring)
        tags = wanted.tags
        slots = table.slots(tags.tag_id, scaling_factor=tags.scaling_factor, offset=tags.offset)
        flusher = Flusher(ring, table, continuity, count)
        connector = Connector(
            wanted,
            slots=slots,
            ring=ring,
            counters=counters,
            settings=OpcuaSettings(),
            sink=flusher,
            continuity=continuity,
        )
        running = asyncio.create_task(connector.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await flusher.every_tag_had_a_value.wait()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    finally:
        tracemalloc.stop()
        page.close()
