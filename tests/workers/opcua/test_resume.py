"""What networks do to a connection, with a server whose counters show every value that is lost or comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.continuity import Continuity
from engine.gaps import Cause, Gaps
from engine.metrics import Counter
from engine.readings import RawBatch
from engine.scaling import TagTable
from engine.settings import OpcuaSettings
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.node_opcua import node_opcua_server
from tests.servers.opcua_server import OpcuaServer, free_port
from tests.servers.open62541 import open62541_server
from tests.workers.opcua.tenant import FAST, RecordingSink, Tenant, connection, until
from workers.opcua.session import Connector

NODES = ("ns=1;s=tag.0", "ns=1;s=tag.1", "ns=1;s=tag.9")
SETTINGS = replace(FAST, publishing_interval_ms=50, queue_size=200, request_timeout_s=2.0)


class Judged(RecordingSink):
    """A sink behind which continuity judges, as in a tenant's pipeline."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__(tenant.ring)
        self.continuity = Continuity(tenant.ring)
        self.tags = TagTable()
        self.values: dict[int, list[float]] = {}
        self.gaps: list[Gaps] = []
        self.repeated = 0

    def drain(self) -> RawBatch:
        raw = super().drain()
        taken = self.continuity.take(raw.slot, self.tags.scale(raw))
        for tag_id, value in zip(taken.batch.tag_id.tolist(), taken.batch.value.tolist(), strict=True):
            self.values.setdefault(tag_id, []).append(value)
        self.repeated += taken.repeated
        if len(taken.changes.recorded):
            self.gaps.append(taken.changes.recorded)
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

    async def connect(self, settings: OpcuaSettings = SETTINGS) -> None:
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
        await self.goes_on(5)

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

    def is_whole(self) -> bool:
        """Whether no step is missing and none came twice."""
        return all(
            after == before + 1 for each in self.sink.values.values() for before, after in pairwise(each)
        )

    def gaps(self) -> list[tuple[int, int]]:
        """Return tag and cause of each gap."""
        return [
            (int(tag), int(cause))
            for gaps in self.sink.gaps
            for tag, cause in zip(gaps.tag_id, gaps.cause, strict=True)
        ]

    def counted(self, counter: Counter) -> int:
        return self.tenant.counted(counter)


@pytest.fixture(scope="module")
def patient() -> Iterator[OpcuaServer]:
    """A server that grants what is asked for."""
    with open62541_server(interval_ms=20.0) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful() -> Iterator[OpcuaServer]:
    """A server that keeps the subscriptions of a session that ended."""
    with node_opcua_server() as server:
        yield server


@pytest.fixture
async def held(tenant: Tenant) -> AsyncIterator[Held]:
    """A connection to be made; its proxy leads where `target` says."""
    proxy = await CuttingProxy.start("127.0.0.1", 1)
    held = Held(tenant, proxy)
    yield held
    if held.task is not None:
        held.task.cancel()
        await asyncio.wait([held.task], timeout=5)
    await proxy.stop()


def port_of(server: OpcuaServer) -> int:
    return int(server.endpoint.rpartition(":")[2])


async def test_a_cut_of_a_second_loses_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect()
    await held.away(1.0)
    await held.goes_on()
    assert held.is_whole()
    assert held.counted(Counter.RESUMED_SESSIONS) == 1
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 0
    assert held.gaps() == []
    assert held.sink.repeated == 0


async def test_many_cuts_at_any_moment_lose_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, backoff_first_s=0.01, backoff_most_s=0.05))
    for cut in range(25):
        held.proxy.cut()
        await asyncio.sleep(0.01 * cut)
    await held.goes_on()
    assert held.is_whole()
    assert held.gaps() == []
    assert held.counted(Counter.RESUMED_SESSIONS) >= 5


async def test_messages_that_were_on_their_way_when_the_connection_broke_are_sent_again(
    patient: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect()
    held.proxy.pause()
    await asyncio.sleep(0.3)
    held.proxy.cut()
    held.proxy.resume()
    await held.goes_on()
    assert held.is_whole()
    assert held.counted(Counter.REPUBLISHED_MESSAGES) >= 1
    assert held.gaps() == []


async def test_a_half_open_connection_is_resumed_and_loses_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, request_timeout_s=0.5))
    held.proxy.pause()
    await until(lambda: not held.sink.connected)
    held.proxy.resume()
    await held.goes_on()
    assert held.is_whole()
    assert held.gaps() == []


async def test_when_the_session_is_gone_its_subscriptions_are_taken_over_and_nothing_is_lost(
    forgetful: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(forgetful))
    await held.connect(replace(SETTINGS, session_timeout_s=1.0))
    await held.away(2.5)
    await held.goes_on()
    assert held.is_whole()
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 1
    assert held.gaps() == []
    assert held.sink.repeated == 0


async def test_a_cut_on_the_way_back_starts_the_way_again_with_what_is_known(
    forgetful: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(forgetful))
    settings = replace(SETTINGS, backoff_first_s=0.02, backoff_most_s=0.05, session_timeout_s=1.0)
    await held.connect(settings)
    await held.away(2.0)
    for step in range(20):
        await asyncio.sleep(0.002 * step)
        held.proxy.cut()
    await held.goes_on()
    assert held.is_whole()
    assert held.gaps() == []


async def test_past_the_subscriptions_lifetime_they_are_made_again_and_each_tag_has_a_gap(
    patient: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, keep_alive_count=5, lifetime_count=15))
    await held.away(4.0)
    await held.goes_on()
    assert sorted(held.gaps()) == [(1, Cause.OUTAGE), (2, Cause.OUTAGE), (3, Cause.OUTAGE)]
    for values in held.sink.values.values():
        assert sum(after != before + 1 for before, after in pairwise(values)) == 1
        assert all(after > before for before, after in pairwise(values))


async def test_a_server_that_was_restarted_is_picked_up_and_each_tag_has_a_gap(held: Held) -> None:
    port = free_port()
    held.proxy.target = ("127.0.0.1", port)
    with open62541_server(port=port, interval_ms=20.0):
        await held.connect()
    with open62541_server(port=port, interval_ms=20.0):
        await until(lambda: held.sink.drain() is not None and len(held.gaps()) == 3, within_s=20.0)
    assert sorted(held.gaps()) == [(1, Cause.OUTAGE), (2, Cause.OUTAGE), (3, Cause.OUTAGE)]
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 0
