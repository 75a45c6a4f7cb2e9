"""Tags that are read again and again: against real servers, into the ring, with its back-pressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine._fastpath import Ring
from engine.catalog.records import ItemSettings
from engine.metrics import Counter, MissingReason
from engine.readings import Kind, RawBatch
from tests.servers.opcua_server import OpcuaServer
from tests.servers.running_server import running_server
from tests.servers.server_options import Limits as ServerLimits
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.cell import SETTINGS
from tests.workers.opcua.growing_plant import GrowingPlant
from tests.workers.opcua.plant import SOURCE_TIME, Plant
from tests.workers.opcua.sessions import PATIENT, session
from tests.workers.opcua.tenant import Tenant, connection, until
from workers.opcua.channel import Channel
from workers.opcua.monitoring.items import monitor
from workers.opcua.monitoring.limits import Limits, read_limits
from workers.opcua.monitoring.outcome import Monitoring
from workers.opcua.monitoring.poll import Poller

POLLED = ItemSettings(read_mode="poll")
SERVERS = ["asyncua_server", "open62541_server", "node_opcua_server"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> OpcuaServer:
    """Each of the servers."""
    served: OpcuaServer = request.getfixturevalue(request.param)
    return served


async def polled(channel: Channel, *node_ids: str, limits: Limits | None = None) -> Monitoring:
    tags = connection("opc.tcp://plant", *node_ids).tags
    limits = await read_limits(channel) if limits is None else limits
    return await monitor(channel, tags, POLLED, PATIENT, limits, 1_000)


@asynccontextmanager
async def polling(
    tenant: Tenant, channel: Channel, monitoring: Monitoring, *, interval_s: float = 0.05
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a poller; slot i is tag i."""
    poller = Poller(
        channel=channel,
        monitoring=monitoring,
        ring=tenant.ring,
        slots=np.arange(len(monitoring), dtype=np.uint32),
        counters=tenant.counters,
        settings=PATIENT,
        sink=tenant.sink,
        interval_s=interval_s,
    )
    task = asyncio.create_task(poller.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Rows:
    """What has come out of the ring, by slot."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.batches: list[RawBatch] = []

    def drain(self) -> Rows:
        batch = self._tenant.sink.drain()
        if len(batch):
            self.batches.append(batch)
        return self

    def values(self, slot: int) -> list[float]:
        return [value for batch in self.batches for value in batch.value[batch.slot == slot].tolist()]

    def texts(self, slot: int) -> list[str | None]:
        return [
            batch.texts.get(row)
            for batch in self.batches
            for row in np.flatnonzero(batch.slot == slot).tolist()
        ]

    @property
    def slots(self) -> set[int]:
        return {slot for batch in self.batches for slot in batch.slot.tolist()}


async def test_polled_tags_are_read_again_and_again_and_only_those_that_are_there(
    tenant: Tenant, server: OpcuaServer
) -> None:
    node_ids = (
        "ns=1;s=tag.0",
        "ns=1;s=gone",
        "ns=1;s=type.String",
        "ns=1;s=type.Double.array[1]",
        "nonsense",
    )
    rows = Rows(tenant)
    async with session(server.endpoint) as channel:
        monitoring = await polled(channel, *node_ids)
        assert monitoring.subscriptions == ()
        assert monitoring.monitored == 3
        assert monitoring.missing() == {MissingReason.UNKNOWN_NODE: 1, MissingReason.INVALID_NODE_ID: 1}
        async with polling(tenant, channel, monitoring):
            await until(lambda: len(set(rows.drain().values(0))) >= 3)
    assert rows.slots == {0, 2, 3}
    counted = rows.values(0)
    assert all(after >= before for before, after in pairwise(counted))
    assert set(rows.texts(2)) == {"tank € 7"}
    assert set(rows.values(3)) == {2.0}
    assert tenant.sink.rows == sum(map(len, rows.batches))


async def test_a_node_that_appears_is_found_by_the_next_round_and_one_that_fails_later_is_stored(
    tenant: Tenant, plant: Plant
) -> None:
    rows = Rows(tenant)
    async with session(plant.endpoint) as channel:
        monitoring = await polled(channel, "ns=1;s=pressure", "ns=1;s=flow")
        await plant.write("flow", 1.5, status=0x808A_0000)  # BadNotConnected: a reading like others
        async with polling(tenant, channel, monitoring):
            await until(lambda: len(rows.drain().values(0)) >= 2)
    batch = rows.batches[-1]
    assert monitoring.missing() == {}
    assert set(batch.status[batch.slot == 1].tolist()) == {0x808A_0000}
    assert int(batch.ts_us[batch.slot == 1][0]) == int(SOURCE_TIME.timestamp() * 1e6)


async def test_a_full_ring_holds_the_poller_back_and_nothing_is_lost(tenant: Tenant, plant: Plant) -> None:
    tenant.use_ring(4)
    async with session(plant.endpoint) as channel:
        monitoring = await polled(channel, "ns=1;s=pressure", "ns=1;s=flow", "ns=1;s=running")
        async with polling(tenant, channel, monitoring):
            await until(lambda: tenant.sink.waits >= 1)
            assert len(tenant.ring) == tenant.sink.rows <= 4
            drained = 0
            for waits in (2, 3):
                drained += len(tenant.sink.drain())
                await until(lambda: tenant.sink.waits >= waits)  # noqa: B023
    assert tenant.counted(Counter.BACKPRESSURE_PAUSES) >= 3
    assert drained + len(tenant.ring) == tenant.sink.rows


@pytest.fixture(scope="module")
def small_server() -> Iterator[OpcuaServer]:
    """A server that reads eight nodes at once."""
    options = ServerOptions(limits=ServerLimits(nodes_per_read=8))
    with running_server("open62541", options, variables=30) as served:
        yield served


@pytest.mark.parametrize("announced", [True, False])
async def test_reads_are_as_large_as_the_server_takes(
    tenant: Tenant, small_server: OpcuaServer, announced: bool
) -> None:
    node_ids = [one.node_id for one in small_server.moving]
    rows = Rows(tenant)
    async with session(small_server.endpoint) as channel:
        monitoring = await polled(channel, *node_ids, limits=None if announced else Limits())
        assert monitoring.nodes_per_read <= 8
        assert monitoring.missing() == {}
        if not announced:
            # It may also come to want less while it is polled.
            monitoring.nodes_per_read = 1_000
        async with polling(tenant, channel, monitoring):
            await until(lambda: all(len(rows.drain().values(slot)) >= 2 for slot in range(30)))
    assert monitoring.nodes_per_read <= 8
    counts = [len(rows.values(slot)) for slot in range(30)]
    assert max(counts) - min(counts) <= 1


async def test_a_connection_that_polls_is_connected_and_says_what_it_reads(
    tenant: Tenant, server: OpcuaServer
) -> None:
    wanted = connection(
        server.endpoint, "ns=1;s=tag.0", "ns=1;s=gone", settings=POLLED, poll_interval_seconds=1
    )
    tenant.connect(wanted, SETTINGS)
    await until(lambda: tenant.sink.connected and tenant.sink.rows >= 2)
    report = tenant.sink.reports[-1]
    assert (report.monitored, report.wanted) == (1, 2)
    assert report.missing == {MissingReason.UNKNOWN_NODE: 1}
    batch = tenant.sink.drain()
    assert set(batch.slot.tolist()) == {0}
    assert (batch.kind & Kind.NUMBER).all()


async def test_a_polled_tag_that_appears_is_reported_as_there(growing: GrowingPlant, tenant: Tenant) -> None:
    nodes = ("ns=1;s=pressure", "ns=1;s=later")
    tenant.connect(connection(growing.endpoint, *nodes, settings=POLLED, poll_interval_seconds=1), SETTINGS)
    await until(lambda: tenant.sink.connected and tenant.sink.reports[-1].monitored == 1)
    await growing.add("later")
    await until(lambda: tenant.sink.reports[-1].monitored == 2)
    assert tenant.sink.error == ""
    assert tenant.counted(Counter.RECONNECTS) == 0


async def test_a_session_that_only_polls_is_kept_alive_between_two_rounds(
    tenant: Tenant, plant: Plant
) -> None:
    tenant.ring = Ring(100)
    wanted = connection(plant.endpoint, "ns=1;s=pressure", settings=POLLED, poll_interval_seconds=4)
    tenant.connect(wanted, replace(SETTINGS, session_timeout_s=1.0))
    await until(lambda: tenant.sink.rows >= 2, within_s=20.0)
    assert tenant.counted(Counter.RECONNECTS) == 0
    assert len(tenant.sink.reports) == 1
