"""Which of several servers is used, and that tags stay who they are: with two real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from asyncua import ua

from engine.catalog.connection import Connection
from engine.errors import ConnectionRefused
from tests.servers.opcua_server import free_port
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.sessions import opened, session
from tests.workers.opcua.tenant import FAST, Tenant, connection, until
from workers.opcua.channel import Channel
from workers.opcua.probe import probe
from workers.opcua.redundancy import (
    Ranked,
    level_name,
    rank,
    read_level,
    read_redundancy,
    watch_for_better,
    watch_level,
)
from workers.opcua.security.policies import Credentials, SecurityWanted

# Long enough for a machine that runs other tests beside this one.
_PATIENT = replace(FAST, request_timeout_s=5.0)


class LevelPlant(Plant):
    """A plant whose ServiceLevel a test can set."""

    async def set_level(self, level: int) -> None:
        """Let the server say how healthy it is."""
        await self._call(self._set_level(level))

    @property
    def clients(self) -> int:
        """Connections that clients have with the server."""
        assert self._server is not None
        assert self._server.bserver is not None
        return len(self._server.bserver.clients)

    async def _set_level(self, level: int) -> None:
        assert self._server is not None
        node = self._server.get_node(ua.NodeId(ua.Int32(2267)))
        await node.write_value(ua.Variant(level, ua.VariantType.Byte))


@pytest.fixture(scope="module")
def two_plants() -> Iterator[tuple[LevelPlant, LevelPlant]]:
    """Two servers."""
    plants = LevelPlant(), LevelPlant()
    yield plants
    for plant in plants:
        plant.close()


@pytest.fixture
async def plants(two_plants: tuple[LevelPlant, LevelPlant]) -> tuple[LevelPlant, LevelPlant]:
    """Two running servers, both of level 255."""
    for plant in two_plants:
        await plant.start()
        await plant.set_level(255)
    return two_plants


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (0, "Maintenance"),
        (1, "NoData"),
        (2, "Degraded"),
        (199, "Degraded"),
        (200, "Healthy"),
        (255, "Healthy"),
    ],
)
def test_levels_have_the_names_of_part_4(level: int, name: str) -> None:
    assert level_name(level) == name


async def test_the_healthiest_comes_first_and_who_does_not_answer_last(
    plants: tuple[LevelPlant, LevelPlant],
) -> None:
    first, second = plants
    await first.set_level(150)
    gone = f"opc.tcp://127.0.0.1:{free_port()}"
    ranked = await rank([gone, first.endpoint, second.endpoint], opened)
    assert ranked[:2] == [Ranked(second.endpoint, 255), Ranked(first.endpoint, 150)]
    assert (ranked[2].endpoint_url, ranked[2].service_level) == (gone, None)
    assert "refused" in (ranked[2].reason or "")
    await until(lambda: first.clients + second.clients == 0)


async def test_equals_keep_the_order_in_which_they_were_given(plants: tuple[LevelPlant, LevelPlant]) -> None:
    first, second = plants
    urls = [second.endpoint, first.endpoint]
    assert [one.endpoint_url for one in await rank(urls, opened)] == urls


async def test_one_address_is_not_asked() -> None:
    async def never(_url: str) -> Channel:
        raise AssertionError

    assert await rank(["opc.tcp://nowhere:4840"], never) == [Ranked("opc.tcp://nowhere:4840", None)]


async def test_who_says_nothing_does_not_hold_up_those_that_answer(
    plants: tuple[LevelPlant, LevelPlant],
) -> None:
    async def slow(url: str) -> Channel:
        if url == "silent":
            await asyncio.Event().wait()
        return await opened(url)

    ranked = await rank(["silent", plants[0].endpoint], slow, deadline_s=1.0)
    assert ranked == [Ranked(plants[0].endpoint, 255), Ranked("silent", None, "no answer within 1 s")]


async def test_a_level_that_falls_is_told(plants: tuple[LevelPlant, LevelPlant]) -> None:
    async with session(plants[0].endpoint) as channel:
        assert await read_level(channel) == 255
        watching = asyncio.create_task(watch_level(channel, interval_s=0.01))
        await plants[0].set_level(200)
        assert not watching.done()
        await plants[0].set_level(199)
        assert await asyncio.wait_for(watching, 10) == 199


async def test_a_partner_is_told_only_when_it_is_better(plants: tuple[LevelPlant, LevelPlant]) -> None:
    first, second = plants
    await second.set_level(10)
    async with session(first.endpoint) as channel:
        urls = [first.endpoint, second.endpoint]
        watching = asyncio.create_task(
            watch_for_better(channel, first.endpoint, urls, opened, interval_s=0.01)
        )
        await first.set_level(50)
        done, _ = await asyncio.wait([watching], timeout=0.5)
        assert not done
        await second.set_level(51)
        assert await asyncio.wait_for(watching, 10) == Ranked(second.endpoint, 51)


async def test_watching_ends_with_the_connection(plants: tuple[LevelPlant, LevelPlant]) -> None:
    async with session(plants[0].endpoint) as channel:
        watching = asyncio.create_task(watch_level(channel, interval_s=0.01))
        channel.abort(ConnectionRefused("cut by the test"))
        with pytest.raises(ConnectionRefused, match="cut by the test"):
            await asyncio.wait_for(watching, 10)


async def test_what_a_server_says_of_its_partners_is_read(plants: tuple[LevelPlant, LevelPlant]) -> None:
    await plants[0].set_level(201)
    async with session(plants[0].endpoint) as channel:
        found = await read_redundancy(channel)
    assert (found.service_level, found.support, found.server_uris) == (201, "None", ())


async def test_trying_a_connection_tells_of_a_level_that_is_low(
    plants: tuple[LevelPlant, LevelPlant],
) -> None:
    await plants[0].set_level(100)
    url = plants[0].endpoint
    steps = [step async for step in probe(Channel(url, _PATIENT), url, SecurityWanted(), Credentials(), 5.0)]
    assert "its service level is 100 (Degraded)" in steps[-1].remarks
    assert (steps[-1].facts["redundancy"], steps[-1].facts["partners"]) == ("None", [])


def active(tenant: Tenant) -> str:
    """Return the address that is in use, or nothing."""
    last = tenant.sink.reports[-1] if tenant.sink.reports else None
    return last.active.url if last is not None and last.connected and last.active is not None else ""


async def both(first: LevelPlant, second: LevelPlant, pressure: float) -> None:
    """Let each server have a value of its own."""
    await first.write("pressure", pressure)
    await second.write("pressure", -pressure)


@pytest.fixture
def redundant(plants: tuple[LevelPlant, LevelPlant]) -> Connection:
    """A connection to two servers."""
    first, second = plants
    return connection(first.endpoint, "ns=1;s=flow", "ns=1;s=pressure", failover_urls=(second.endpoint,))


async def test_the_server_with_the_higher_level_is_used(
    plants: tuple[LevelPlant, LevelPlant], redundant: Connection, tenant: Tenant
) -> None:
    first, second = plants
    await first.set_level(210)
    await second.set_level(220)
    await both(first, second, 7.0)
    tenant.connect(redundant, _PATIENT)
    await tenant.receives(-7.0)
    assert active(tenant) == second.endpoint


async def test_a_server_that_ends_is_followed_by_its_partner_with_the_same_slots(
    plants: tuple[LevelPlant, LevelPlant], redundant: Connection, tenant: Tenant
) -> None:
    first, second = plants
    await both(first, second, 1.5)
    tenant.connect(redundant, _PATIENT)
    await tenant.receives(1.5)
    assert active(tenant) == first.endpoint
    await first.stop()
    await until(lambda: active(tenant) == second.endpoint, within_s=30)
    await until(lambda: (1, -1.5) in _pairs(tenant), within_s=30)


async def test_a_degraded_server_is_left_for_a_healthier_one_and_not_before(
    plants: tuple[LevelPlant, LevelPlant], redundant: Connection, tenant: Tenant
) -> None:
    first, second = plants
    await second.set_level(90)
    await both(first, second, 2.5)
    tenant.connect(redundant, _PATIENT)
    await tenant.receives(2.5)
    await first.set_level(100)
    await both(first, second, 3.5)
    await tenant.receives(3.5)
    assert active(tenant) == first.endpoint
    await second.set_level(240)
    await until(lambda: active(tenant) == second.endpoint, within_s=40)
    await second.write("pressure", 4.5)
    await until(lambda: (1, 4.5) in _pairs(tenant), within_s=30)


def _pairs(tenant: Tenant) -> list[tuple[int, float]]:
    batch = tenant.sink.drain()
    return list(zip(batch.slot.tolist(), batch.value.tolist(), strict=True))
