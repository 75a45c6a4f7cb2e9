"""Types that only asyncua's server lets a test make: discrete items, structures in structures, types without an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from asyncua import ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field

from tests.workers.opcua.plant import Plant
from tests.workers.opcua.sessions import session
from tests.workers.opcua.test_types import known, tags, texts
from workers.opcua.browsing.browse import Walk
from workers.opcua.browsing.types import read_types
from workers.opcua.monitoring.resolve import resolve

_STRUCTURE = ua.VariantType.ExtensionObject


class TypedPlant(Plant):
    """A plant with variables of types of its own; their names tell which."""

    async def _start(self) -> None:
        is_new = not self._nodes
        await super()._start()
        if is_new:
            await self._add_discrete_items()
            await self._add_structures()

    async def _variable(self, name: str, value: Any, **how: Any) -> Any:
        assert self._server is not None
        node_id = ua.NodeId.from_string(f"ns=1;s={name}")
        return await self._server.nodes.objects.add_variable(node_id, f"1:{name}", value, **how)

    async def _add_discrete_items(self) -> None:
        two = await self._variable("two.states", ua.Variant(True))
        await two.add_property(0, "FalseState", ua.LocalizedText("Closed"))
        await two.add_property(0, "TrueState", ua.LocalizedText("Open"))
        many = await self._variable("many.states", ua.Variant(1, ua.VariantType.UInt32))
        await many.add_property(0, "EnumStrings", [ua.LocalizedText("Off"), ua.LocalizedText("On")])
        values = [
            ua.EnumValueType(ua.Int64(number), ua.LocalizedText(ua.String(text)))
            for number, text in ((-1, "Low"), (7, "High"))
        ]
        some = await self._variable("some.states", ua.Variant(7, ua.VariantType.Int32))
        await some.add_property(0, "EnumValues", values)

    async def _add_structures(self) -> None:
        server = self._server
        assert server is not None
        mode = await new_enum(server, 1, "Mode", ["Manual", "Automatic"])
        inner, _ = await new_struct(server, 1, "Inner", [new_struct_field("depth", ua.VariantType.Float)])
        outer, _ = await new_struct(
            server,
            1,
            "Outer",
            [
                new_struct_field("mode", mode),
                new_struct_field("one", inner),
                new_struct_field("many", inner, array=True),
                new_struct_field("note", ua.VariantType.String, optional=True),
            ],
        )
        either, _ = await new_struct(
            server,
            1,
            "Either",
            [
                new_struct_field("number", ua.VariantType.Int32),
                new_struct_field("text", ua.VariantType.String),
            ],
            is_union=True,
        )
        types = await server.load_data_type_definitions()
        value = types["Outer"](
            mode=types["Mode"](1), one=types["Inner"](1.5), many=[types["Inner"](2.5)], note=None
        )
        await self._variable("outer.value", ua.Variant(value, _STRUCTURE), datatype=outer.nodeid)
        chosen = types["Either"]()
        chosen.text = "so"
        await self._variable("either.value", ua.Variant(chosen, _STRUCTURE), datatype=either.nodeid)
        await self._variable("any.value", ua.Variant(value, _STRUCTURE), datatype=ua.NodeId(ua.Int32(22)))


@pytest.fixture(scope="module")
def one_typed_plant() -> Iterator[TypedPlant]:
    """The server of this module."""
    plant = TypedPlant()
    yield plant
    plant.close()


@pytest.fixture
async def plant(one_typed_plant: TypedPlant) -> TypedPlant:
    """The running server."""
    await one_typed_plant.start()
    return one_typed_plant


async def test_discrete_items_have_names_of_their_own(plant: TypedPlant) -> None:
    wanted = tags(two_states="ENUM", many_states="ENUM", some_states="ENUM")
    async with session(plant.endpoint) as channel:
        found = await known(channel, wanted)
    assert found.problems == ()
    assert found.enum_names == {
        0: {0: "Closed", 1: "Open"},
        1: {0: "Off", 1: "On"},
        2: {-1: "Low", 7: "High"},
    }


async def test_browsing_takes_discrete_items_for_enumerations(plant: TypedPlant) -> None:
    async with session(plant.endpoint) as channel:
        nodes = {node.browse_name: node async for node in Walk(channel).nodes()}
    kinds = {name: node.variable.data_type for name, node in nodes.items() if node.variable}
    assert kinds["many.states"] == kinds["some.states"] == kinds["two.states"] == "ENUM"
    assert kinds["outer.value"] == kinds["either.value"] == "STRUCT"


async def test_structures_in_structures_unions_and_enumerations_are_read(plant: TypedPlant) -> None:
    wanted = tags(outer_value="STRUCT", either_value="STRUCT")
    async with session(plant.endpoint) as channel:
        addresses = await resolve(channel, wanted)
        found = await read_types(channel, wanted, addresses)
        node_ids, _, _ = addresses.wire(np.arange(2, dtype=np.int32))
        outer, either = await texts(channel, node_ids, found)
    assert found.problems == ()
    assert orjson.loads(outer or "") == {"mode": "Automatic", "one": {"depth": 1.5}, "many": [{"depth": 2.5}]}
    assert either == '{"text":"so"}'


async def test_a_variable_that_may_hold_any_structure_is_told(plant: TypedPlant) -> None:
    wanted = tags(any_value="STRUCT")
    async with session(plant.endpoint) as channel:
        found = await known(channel, wanted)
    assert found.problems == ("no names for i=22: a variable of this type may hold any structure",)
