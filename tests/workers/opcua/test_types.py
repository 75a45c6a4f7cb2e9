"""Names of enumerations and fields of structures, as three makers' servers tell them."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import orjson
import pytest

from engine._fastpath import Ring, decode_read, encode_read
from engine.catalog.records import Tag
from engine.catalog.tag_set import TagSet
from tests.servers.opcua_server import OpcuaServer
from tests.workers.opcua.sessions import session
from workers.opcua.browsing.types import NodeTypes, read_types
from workers.opcua.channel import Channel
from workers.opcua.monitoring.resolve import resolve

SERVERS = ["asyncua_server", "open62541_server", "node_opcua_server"]
STATES = {0: "Stopped", 1: "Running", 2: "Fault"}
MODES = {10: "Manual", 20: "Automatic"}


def tags(**data_types: str) -> TagSet:
    """Return a set of tags: each keyword is the data type of a node id, `_` in it standing for a dot."""
    connection, well = uuid4(), uuid4()
    return TagSet.of(
        Tag(place + 1, uuid4(), connection, well, name, node_id, data_type, None, 1.0, 0.0)
        for place, (name, data_type) in enumerate(data_types.items())
        for node_id in ["ns=1;s=" + name.replace("_", ".", 1)]
    )


async def known(channel: Channel, wanted: TagSet) -> NodeTypes:
    """Return what is known of the types of these tags."""
    return await read_types(channel, wanted, await resolve(channel, wanted))


@pytest.mark.parametrize("server", SERVERS)
async def test_an_enumerations_numbers_have_the_names_that_its_type_says(
    request: pytest.FixtureRequest, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    wanted = tags(type_Double="DOUBLE", enum_State="ENUM", enum_Mode="ENUM")
    async with session(served.endpoint) as channel:
        found = await known(channel, wanted)
    assert found.enum_names == {1: STATES, 2: MODES}
    assert found.problems == ()


@pytest.mark.parametrize("server", SERVERS)
async def test_what_is_no_enumeration_costs_only_its_own_names(
    request: pytest.FixtureRequest, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    wanted = tags(type_Double="ENUM", enum_State="ENUM", no_such_node="ENUM")
    async with session(served.endpoint) as channel:
        found = await known(channel, wanted)
    assert found.enum_names == {1: STATES}
    assert found.problems[0] == (
        "no names for ns=1;s=type.Double: it is no enumeration, and has no EnumStrings, EnumValues or TrueState"
    )


@pytest.mark.parametrize("server", SERVERS)
async def test_a_structure_is_read_by_the_names_of_its_fields(
    request: pytest.FixtureRequest, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    wanted = tags(structure_Point="STRUCT", type_Double="STRUCT")
    async with session(served.endpoint) as channel:
        addresses = await resolve(channel, wanted)
        found = await read_types(channel, wanted, addresses)
        (text,) = await texts(channel, addresses.wire(np.array([0], np.int32))[0], found)
    assert text == '{"x":1.5,"y":-2.5,"name":"valve"}'
    assert found.problems == ("no names for ns=1;s=type.Double: it is no structure",)


async def test_structures_of_the_standard_need_no_question(asyncua_server: OpcuaServer) -> None:
    async with session(asyncua_server.endpoint) as channel:
        # BuildInfo; its NodeId with the number in one byte has no room for 2260.
        (text,) = await texts(channel, [b"\x01\x00\xd4\x08"], NodeTypes())
    assert orjson.loads(text or "").keys() >= {"ProductUri", "SoftwareVersion", "BuildDate"}


async def texts(channel: Channel, node_ids: list[bytes], types: NodeTypes) -> list[str | None]:
    """Read values as the engine does, and return their texts."""
    answer = await channel.call(631, encode_read(node_ids, None, 2), doing="values not read")
    ring = Ring(16)
    slots = np.arange(len(node_ids), dtype=np.uint32)
    assert decode_read(answer, ring, slots, 0, text_of=types.text_of).rows == len(node_ids)
    batch = ring.drain(16)
    return [batch.texts.get(row) for row in range(len(batch))]


async def test_nothing_is_asked_for_plain_numbers(asyncua_server: OpcuaServer) -> None:
    wanted = tags(type_Double="DOUBLE", type_Int32="INT")
    async with session(asyncua_server.endpoint) as channel:
        addresses = await resolve(channel, wanted)
    # The session has ended: a request would be refused.
    assert await read_types(channel, wanted, addresses) == NodeTypes()
