"""Claim `receive`: values per second out of an open62541 server into the ring, and the share of a core that takes.

Ours is what an ingest worker runs, on its event loop: a Connector with its channel, subscription, publish pump and
decoder, into a Ring that a reader empties. What came is kept until the clock has stopped, and then held to the server's
counters: every variable goes up by one a step, so a value that is missing or doubled shows.

The baseline is asyncua's own client with its own subscription to as many variables of the same server program, which
counts more slowly there, as asyncua cannot bear more. It is measured in the same run, after ours: both would not fit on
two processors beside their servers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import uvloop
from asyncua import ua
from asyncua.client.client import Client
from numpy.typing import NDArray

from bench.large_plant import RING_ROWS, connection, cpu_s, large_plant
from bench.report import Progress, Report, Target
from engine._fastpath import Ring
from engine.errors import ConnectionRefused
from engine.metrics import Counter, MetricsPage
from engine.settings import OpcuaSettings
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import hold_counters, release_counters
from workers.opcua.session import Connector
from workers.opcua.sink import ConnectionReport, Message

VARIABLES = 50_000
# 526 316 values/s on paper; a busy machine makes the server late.
INTERVAL_MS = 95.0
BASELINE_INTERVAL_MS = 4_000.0  # 12 500 values/s
PUBLISHING_MS = 100.0
SETTLE_S = 2.0
MEASURE_S = 10.0
BASELINE_MEASURE_S = 12.0  # three of its steps
READY_DEADLINE_S = 120.0
# What the pipeline takes out for one batch at the most.
READ_ROWS = 50_000
QUEUE_SIZE = 50
BASELINE_ITEMS_PER_CALL = 1_000

TARGETS = (
    Target("values_per_s", ">=", 400_000, timed=True),
    Target("core_share", "<=", 0.6, timed=True),
    Target("speedup", ">=", 100),
    Target("lost_values", "<=", 0),
    Target("missed_messages", "<=", 0),
)
MEANING = {
    "values_per_s": "values into the ring a second",
    "core_share": "CPU time of our process / time",
    "ns_per_value": "our CPU time a value, with all that it takes",
    "us_per_message": "our CPU time a message",
    "values_per_message": "values a message",
    "lost_values": "steps of the counters that are missing or doubled",
    "missed_messages": "gaps in the sequence numbers",
    "server_core_share": "CPU time of the server / time",
    "baseline_values_per_s": "values that reached asyncua's handler a second",
    "baseline_core_share": "CPU time of its process / time",
    "baseline_ns_per_value": "its CPU time a value",
    "speedup": "baseline_ns_per_value / ns_per_value",
}


@dataclass(frozen=True, slots=True)
class Window:
    """What happened while the clock ran; CPU times are of this process and of the server."""

    took_s: float
    cpu_s: float
    server_cpu_s: float
    values: int

    @property
    def ns_per_value(self) -> float:
        """CPU time a value."""
        return self.cpu_s / max(self.values, 1) * 1e9


def run(progress: Progress) -> Report:
    """Measure the claim."""
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    progress(0, 2)
    with (
        large_plant(VARIABLES, INTERVAL_MS) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(_ours(server))
    progress(1, 2)
    with large_plant(VARIABLES, BASELINE_INTERVAL_MS) as server, asyncio.Runner() as runner:
        figures |= runner.run(_baseline(server))
    progress(2, 2)
    figures["speedup"] = figures["baseline_ns_per_value"] / figures["ns_per_value"]
    return Report("receive", figures, TARGETS, MEANING)


async def _window(server: OpcuaServer, values: Callable[[], int], seconds: float) -> Window:
    """Let the clock run."""
    process = psutil.Process(server.process.pid)
    began_s, ours_s, theirs_s, before = time.perf_counter(), time.process_time(), cpu_s(process), values()
    await asyncio.sleep(seconds)
    return Window(
        time.perf_counter() - began_s,
        time.process_time() - ours_s,
        cpu_s(process) - theirs_s,
        values() - before,
    )


class Reader:
    """The owner of the ring: empties it as the pipeline would, and keeps what there was while `keeping`."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.values = 0
        self.keeping = False
        self.kept: list[tuple[NDArray[np.uint32], NDArray[np.float64]]] = []
        self.report_is_there = asyncio.Event()
        self.last_report: ConnectionReport | None = None

    accepting = True

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Never change."""
        return lambda: None

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Count rows; take a batch out when there is one."""
        if message is not None:
            message.durable(message.position)
        self.values += rows
        if len(self.ring) >= READ_ROWS:
            self.read()

    def read(self) -> None:
        """Take out what is in the ring."""
        batch = self.ring.drain(self.ring.capacity_rows)
        if self.keeping:
            self.kept.append((batch.slot, batch.value))

    async def wait_for_space(self) -> None:
        """Make space."""
        self.read()

    def report(self, report: ConnectionReport) -> None:
        """Take note of the connection's state."""
        self.last_report = report
        self.report_is_there.set()


async def _ours(server: OpcuaServer) -> dict[str, float]:
    ring = Ring(RING_ROWS)
    reader = Reader(ring)
    page = MetricsPage.create(1)
    settings = replace(
        OpcuaSettings(),
        publishing_interval_ms=PUBLISHING_MS,
        sampling_interval_ms=PUBLISHING_MS,
        queue_size=QUEUE_SIZE,
    )

    def counted(counter: Counter) -> int:
        return page.snapshot().tenants["bench"].counters[counter]

    connector = Connector(
        connection(server.endpoint, VARIABLES),
        slots=np.arange(VARIABLES, dtype=np.uint32),
        ring=ring,
        counters=page.shard(0).tenant("bench"),
        settings=settings,
        sink=reader,
    )
    running = asyncio.create_task(connector.run())
    try:
        await _connected(reader)
        await asyncio.sleep(SETTLE_S)
        reader.read()
        reader.keeping = True
        messages = counted(Counter.MESSAGES)
        window = await _window(server, lambda: reader.values, MEASURE_S)
        messages = counted(Counter.MESSAGES) - messages
        reader.read()
        missed = counted(Counter.MISSED_MESSAGES)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        page.close()
    return {
        "values_per_s": window.values / window.took_s,
        "core_share": window.cpu_s / window.took_s,
        "ns_per_value": window.ns_per_value,
        "us_per_message": window.cpu_s / max(messages, 1) * 1e6,
        "values_per_message": window.values / max(messages, 1),
        "lost_values": float(lost_values(reader.kept)),
        "missed_messages": float(missed),
        "server_core_share": window.server_cpu_s / window.took_s,
    }


async def _connected(reader: Reader) -> None:
    """Wait until every variable is monitored. Raises ConnectionRefused with the reason if not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_DEADLINE_S):
            await reader.report_is_there.wait()
    report = reader.last_report
    if report is None or not report.connected or report.monitored != VARIABLES:
        raise ConnectionRefused(f"not every variable is monitored: {report}")


def lost_values(kept: list[tuple[NDArray[np.uint32], NDArray[np.float64]]]) -> int:
    """Return by how many steps the counters, each by itself, did not go up by one from value to value."""
    slot = np.concatenate([batch for batch, _ in kept] or [np.zeros(0, np.uint32)])
    value = np.concatenate([batch for _, batch in kept] or [np.zeros(0)])
    order = np.argsort(slot, kind="stable")
    slot, value = slot[order], value[order]
    steps = np.diff(value)[slot[1:] == slot[:-1]]
    return int(np.abs(steps - 1.0).sum())


class Handler:
    """asyncua's handler, as small as it can be."""

    def __init__(self, first_values: int) -> None:
        self.values = 0
        self.first_values_are_here = asyncio.Event()
        self._first_values = first_values

    def datachange_notification(self, _node: object, _value: object, _data: object) -> None:
        """Count a value."""
        self.values += 1
        if self.values == self._first_values:
            self.first_values_are_here.set()


async def _baseline(server: OpcuaServer) -> dict[str, float]:
    handler = Handler(VARIABLES)
    # asyncua's number types are int and float at run time, and distinct to a type checker.
    number: Any = int
    milliseconds: Any = PUBLISHING_MS
    # Its watchdog gives up when its own handlers keep it busy for longer than this.
    async with Client(server.endpoint, timeout=30, watchdog_intervall=60.0) as client:
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=milliseconds,
            # It takes a subscription for stale while its own handlers keep it busy for longer than a keep-alive.
            RequestedLifetimeCount=number(3_000),
            RequestedMaxKeepAliveCount=number(1_000),
            MaxNotificationsPerPublish=number(10_000),
            PublishingEnabled=True,
        )
        subscription = await client.create_subscription(parameters, handler)
        # Values while items are made would be more than it bears.
        hold_counters(server)
        nodes = [client.get_node(f"ns=1;s=tag.{tag}") for tag in range(VARIABLES)]
        for first in range(0, VARIABLES, BASELINE_ITEMS_PER_CALL):
            await subscription.subscribe_data_change(
                nodes[first : first + BASELINE_ITEMS_PER_CALL],
                queuesize=number(QUEUE_SIZE),
                sampling_interval=milliseconds,
            )
        async with asyncio.timeout(READY_DEADLINE_S):
            await handler.first_values_are_here.wait()
        release_counters(server)
        window = await _window(server, lambda: handler.values, BASELINE_MEASURE_S)
    return {
        "baseline_values_per_s": window.values / window.took_s,
        "baseline_core_share": window.cpu_s / window.took_s,
        "baseline_ns_per_value": window.ns_per_value,
    }
