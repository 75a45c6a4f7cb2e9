"""What a test asks of a server by ServerOptions is what an ordinary client finds, whoever made the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from asyncua import ua

from tests.servers.opcua_server import OpcuaServer
from tests.servers.running_server import MAKERS, running_server
from tests.servers.server_options import Limits, ServerOptions
from tests.servers.watching import WATCH_DEADLINE_S, connected, read

MAX_NODES_PER_READ, MAX_ITEMS_PER_CALL = "i=11705", "i=11714"
SERVICE_LEVEL = "i=2267"


@pytest.fixture(scope="module", params=MAKERS)
def asked(request: pytest.FixtureRequest) -> Iterator[OpcuaServer]:
    """Each maker's server in turn, with options that are not the defaults."""
    options = ServerOptions(
        limits=Limits(items_per_call=12, nodes_per_read=30),
        history_page=5,
        namespace_before=True,
        service_level=199,
    )
    with running_server(request.param, options, variables=3, interval_ms=20) as server:
        yield server


async def test_limits_are_announced_where_there_are_some(asked: OpcuaServer) -> None:
    reads, items = await read(asked.endpoint, [MAX_NODES_PER_READ, MAX_ITEMS_PER_CALL])
    # asyncua's server announces what nobody reaches.
    expected = (10_000, 10_000) if asked.maker == "asyncua" else (30, 12)
    assert (reads.value, items.value) == expected


async def test_the_service_level_can_be_changed(asked: OpcuaServer) -> None:
    assert (await read(asked.endpoint, [SERVICE_LEVEL]))[0].value == 199
    asked.set_service_level(10)
    await _until(asked, SERVICE_LEVEL, lambda value: value == 10)
    asked.set_service_level(199)
    await _until(asked, SERVICE_LEVEL, lambda value: value == 199)


async def test_variables_can_be_written_from_outside(asked: OpcuaServer) -> None:
    for name, value in (("analog", 12.5), ("plain", -3.0), ("enum.State", 2.0)):
        asked.write(name, value)
        await _until(asked, f"ns=1;s={name}", value.__eq__)


async def test_the_moving_namespace_comes_after_another(asked: OpcuaServer) -> None:
    async with connected(asked.endpoint) as client:
        namespaces = await client.get_namespace_array()
        moving = namespaces.index("urn:scada-engine:moving")
        assert namespaces[moving - 1] == "urn:scada-engine:in-between"
        assert await client.get_node(f"ns={moving};s=moved").read_value() >= 0


async def test_counters_can_be_held_and_released_and_keep_their_history(asked: OpcuaServer) -> None:
    node = "ns=1;s=tag.0"
    await _until(asked, node, lambda value: float(str(value)) >= 20)
    asked.hold()
    before = -1.0
    while before != (before := float(str((await read(asked.endpoint, [node]))[0].value))):
        pass
    async with connected(asked.endpoint) as client:
        kept = await client.get_node(node).read_raw_history(
            ua.DateTime(2020, 1, 1), ua.DateTime(2100, 1, 1), 10_000
        )
    values = [found.Value.Value for found in kept if found.Value is not None]
    # open62541 says first that there is nothing at the beginning of the interval.
    steps = [value for value in values if value is not None]
    # One page of it: node-opcua's pages are as long as a client asks for.
    assert len(values) == 5 or (asked.maker == "node-opcua" and steps[-1] == before)
    assert all(after == earlier + 1 for earlier, after in pairwise(steps))
    asked.release()
    await _until(asked, node, lambda value: float(str(value)) > before)


async def _until(server: OpcuaServer, node_id: str, holds: Callable[[object], bool]) -> None:
    async with asyncio.timeout(WATCH_DEADLINE_S), connected(server.endpoint) as client:
        while not holds(await client.get_node(node_id).read_value()):  # noqa: ASYNC110  (a server in a process)
            await asyncio.sleep(0.02)
