"""Browsing: what three makers' servers have, with the limits, and servers that are strange or hostile."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from engine.errors import InvalidInput
from tests.servers.opcua_server import OpcuaServer
from tests.servers.running_server import running_server
from tests.servers.server_options import Limits, ServerOptions
from tests.workers.opcua.sessions import session
from workers.opcua.browsing.browse import BrowsedNode, LeftOut, Walk, WalkLimits

SERVERS = ["asyncua_server", "open62541_server", "node_opcua_server"]
OUR_TYPES = {
    "Boolean": "BOOLEAN", "SByte": "INT", "Byte": "UINT", "Int16": "INT", "UInt16": "UINT", "Int32": "INT",
    "UInt32": "UINT", "Int64": "LONG", "UInt64": "ULONG", "Float": "FLOAT", "Double": "DOUBLE", "String": "STRING",
    "DateTime": "DATETIME", "Guid": "STRING", "ByteString": "STRING", "StatusCode": "UINT",
    "LocalizedText": "STRING", "NodeId": "STRING",
}  # fmt: skip


async def walked(url: str, walk_limits: WalkLimits | None = None, start: str | None = None, **options: bool) -> tuple[
    dict[str, BrowsedNode], Walk
]:  # fmt: skip
    """Return every node of a walk by its node id, and the walk."""
    async with session(url) as channel:
        walk = Walk(channel, walk_limits, **options)
        nodes = [node async for node in walk.nodes(start)]
    found = {node.node_id: node for node in nodes}
    assert len(found) == len(nodes), "a node came twice"
    return found, walk


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest) -> OpcuaServer:
    """Each maker's server in turn."""
    server: OpcuaServer = request.getfixturevalue(request.param)
    return server


async def test_every_variable_is_found_with_its_type_and_where_it_lies(served: OpcuaServer) -> None:
    found, _ = await walked(served.endpoint, values=True)
    for variable in served.variables:
        node = found[variable.node_id]
        assert node.path.startswith("/Objects/1:")
        assert node.node_class == "Variable"
        assert found[node.parent or ""].depth == node.depth - 1
        facts = node.variable
        assert facts is not None
        assert facts.readable
        assert (facts.data_type, facts.data_type_id) == (OUR_TYPES[variable.data_type], variable.data_type)
        # 0 is an array of any dimensions, -2 anything at all, -3 one value or an array.
        ranks = {0, 1, 2} if isinstance(variable.value, list) else {-1, -2, -3}
        assert facts.value_rank in ranks
        assert facts.status is not None


async def test_a_path_names_its_node(served: OpcuaServer) -> None:
    found, _ = await walked(served.endpoint)
    node = found["ns=1;s=type.Double"]
    below, _ = await walked(served.endpoint, start=node.path)
    assert next(iter(below)) == "ns=1;s=type.Double"
    assert below["ns=1;s=type.Double"].path == node.path
    (by_uri, *_), _ = await walked(served.endpoint, start=node.node_id_by_uri)
    assert by_uri == "ns=1;s=type.Double"


async def test_units_ranges_enumerations_and_structures_are_told(served: OpcuaServer) -> None:
    found, _ = await walked(served.endpoint, start="ns=1;s=Changing")
    analog = found["ns=1;s=analog"].variable
    assert analog is not None
    assert (analog.unit, analog.range) == ("°C", (0.0, 200.0))
    kinds = {node.browse_name: node.variable.data_type for node in found.values() if node.variable}
    assert kinds["enum.State"] == kinds["enum.Mode"] == "ENUM"
    assert kinds["structure.Point"] == "STRUCT"


async def test_the_types_of_the_standard_can_be_walked_to_the_end(served: OpcuaServer) -> None:
    found, walk = await walked(served.endpoint, start="i=84")
    assert len(found) > 1_500
    assert found["i=58"].path == "/Types/ObjectTypes/BaseObjectType"
    assert walk.left_out[LeftOut.REFUSED] == 0
    assert walk.left_out[LeftOut.SERVER_OBJECT] == 1


async def test_the_servers_own_state_is_walked_when_it_is_the_start(served: OpcuaServer) -> None:
    found, _ = await walked(served.endpoint, start="i=2253")
    state = found["i=2259"]
    assert state.path == "/Objects/Server/ServerStatus/State"
    assert state.variable is not None
    assert state.variable.data_type == "ENUM"
    current_time = found["i=2258"].variable
    assert current_time is not None
    assert (current_time.data_type, current_time.data_type_id) == ("DATETIME", "UtcTime")


async def test_limits_leave_out_what_lies_deepest_and_say_so(served: OpcuaServer) -> None:
    everything, _ = await walked(served.endpoint)
    some, walk = await walked(served.endpoint, WalkLimits(nodes=10))
    assert len(some) == 10
    assert walk.left_out[LeftOut.TOO_MANY] > 0
    assert list(some) == list(everything)[:10]
    flat, walk = await walked(served.endpoint, WalkLimits(depth=1))
    assert {node.depth for node in flat.values()} == {0, 1}
    assert walk.left_out[LeftOut.DEEPER] == len(flat) - 1
    few, walk = await walked(served.endpoint, WalkLimits(references_per_node=3), start="ns=1;s=Tags")
    assert walk.left_out[LeftOut.TOO_MANY_REFERENCES] == 1
    assert set(few) <= set(everything)


async def test_variables_at_the_last_level_still_have_their_units(served: OpcuaServer) -> None:
    found, _ = await walked(served.endpoint, WalkLimits(depth=1), start="ns=1;s=Changing")
    analog = found["ns=1;s=analog"].variable
    assert analog is not None
    assert analog.unit == "°C"


async def test_properties_are_nodes_when_they_are_asked_for(served: OpcuaServer) -> None:
    without, walk = await walked(served.endpoint, start="ns=1;s=analog")
    assert len(without) == 1
    assert walk.left_out[LeftOut.PROPERTIES] >= 2
    found, _ = await walked(served.endpoint, start="ns=1;s=analog", properties=True)
    names = {node.browse_name for node in found.values() if node.is_property}
    assert {"EngineeringUnits", "EURange"} <= names


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("ns=1;s=no such node", "BadNodeIdUnknown"),
        ("nsu=urn:nowhere;s=x", "has no namespace 'urn:nowhere'"),
        ("/Objects/1:Nowhere", "BadNoMatch"),
        ("Tags", "is not a node id"),
    ],
)
async def test_a_start_that_is_not_there_is_named(served: OpcuaServer, start: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        await walked(served.endpoint, start=start)
    assert caught.value.field == "--start"


async def test_leaving_early_leaves_the_session_usable(served: OpcuaServer) -> None:
    async with session(served.endpoint) as channel:
        async with aclosing(Walk(channel).nodes("i=84")) as nodes:
            async for node in nodes:
                if node.depth == 2:
                    break
        assert len([node async for node in Walk(channel).nodes("ns=1;s=Tags")]) > 10


@pytest.mark.parametrize("maker", ["asyncua", "open62541"])
async def test_a_server_that_takes_few_nodes_at_once_is_asked_so(maker: str) -> None:
    few = ServerOptions(limits=Limits(nodes_per_read=7, nodes_per_browse=3))
    with running_server(maker, few) as server:  # type: ignore[arg-type]
        found, walk = await walked(server.endpoint, values=True)
    assert {variable.node_id for variable in server.variables} <= set(found)
    assert walk.left_out[LeftOut.REFUSED] == 0
