"""Names of the numbers of enumerations and discrete items, as a server tells them.

Owns where they are looked for: in properties of the variable itself where it is a discrete item (OPC 10000-8, 5.3.3):
EnumStrings, EnumValues, or FalseState and TrueState; else at its data type: DataTypeDefinition (OPC 10000-3, 8.50),
EnumValues, EnumStrings. Also what is told about types without names: each sentence once, and a bounded number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds

from engine.variants import storable
from workers.opcua.browsing.address_space import HAS_PROPERTY, value_of

if TYPE_CHECKING:
    from workers.opcua.browsing.address_space import AddressSpace

# Of each kind, on one connection.
TYPES_MOST = 1_000
PROPERTIES_MOST = 100
_NAMES_MOST = 8_192
_NAME_MOST_CHARACTERS = 255
_PROBLEMS_MOST = 20
# What is held at a time of the properties of variables.
_NODES_AT_ONCE = 500

_ENUM_STRINGS, _ENUM_VALUES = "EnumStrings", "EnumValues"
_FALSE_STATE, _TRUE_STATE = "FalseState", "TrueState"
_NAMING = (_ENUM_STRINGS, _ENUM_VALUES, _FALSE_STATE, _TRUE_STATE)

Names = dict[int, str]


class Problems:
    """What cannot be read of types, told once for each."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._said: dict[str, None] = {}
        self._more = 0

    def tell(self, node: ua.NodeId, why: str) -> None:
        """Take note of a type, or of a variable, without names."""
        text = f"no names for {self._space.address(node, by_uri=False)}: {why}"
        if text in self._said:
            return
        if len(self._said) < _PROBLEMS_MOST:
            self._said[text] = None
        else:
            self._more += 1

    def bounded(self, types: Iterable[ua.NodeId]) -> list[ua.NodeId]:
        """Return at most TYPES_MOST of the types, in an order that stays."""
        asked = sorted(set(types), key=lambda one: (one.NamespaceIndex, str(one.Identifier)))
        if len(asked) > TYPES_MOST:
            self.tell(asked[TYPES_MOST], f"there are {len(asked)} types; {TYPES_MOST} are looked up")
        return asked[:TYPES_MOST]

    def sentences(self) -> tuple[str, ...]:
        """Return what was told, cut to what a person reads."""
        return (*self._said, *((f"and {self._more} more without names",) if self._more else ()))


class EnumNames:
    """Asks one server for names."""

    def __init__(self, space: AddressSpace, problems: Problems) -> None:
        self._space = space
        self._problems = problems

    async def of_variables(self, nodes: Mapping[int, ua.NodeId]) -> dict[int, Names]:
        """Return the names for each place that has some."""
        types = await data_types_of(self._space, nodes)
        ours = await self._space.our_types(types.values())
        # An enumeration's names belong to its type. Discrete items are plain numbers with names of their own.
        own = {place: nodes[place] for place in nodes if ours.get(types.get(place, ua.NodeId())) != "ENUM"}
        of_variable = await self._names_in_properties(own.values())
        of_type = await self.of_types({types[place] for place in nodes if place not in own})
        found: dict[int, Names] = {}
        for place, node in nodes.items():
            names = of_variable.get(node) if place in own else of_type.get(types[place])
            if names:
                found[place] = names
            elif place in own:
                self._problems.tell(
                    node, "it is no enumeration, and has no EnumStrings, EnumValues or TrueState"
                )
        return found

    async def of_types(self, types: Iterable[ua.NodeId]) -> dict[ua.NodeId, Names]:
        """Return the names of the numbers of these data types."""
        asked = self._problems.bounded(types)
        read = await self._space.read([(one, AttributeIds.DataTypeDefinition) for one in asked])
        names = {
            one: _names_in_definition(value_of(definition))
            for one, definition in zip(asked, read, strict=True)
        }
        # Servers from before 1.04 have no DataTypeDefinition.
        names |= await self._names_in_properties([one for one in asked if not names[one]])
        for one in asked:
            if not names.get(one):
                self._problems.tell(one, "the server does not say what its numbers mean")
        return names

    async def _names_in_properties(self, nodes: Iterable[ua.NodeId]) -> dict[ua.NodeId, Names]:
        """Return the names that nodes have in properties of their own."""
        asked = list(dict.fromkeys(nodes))
        found: dict[ua.NodeId, Names] = {}
        for start in range(0, len(asked), _NODES_AT_ONCE):
            found |= await self._names_in_properties_of(asked[start : start + _NODES_AT_ONCE])
        return found

    async def _names_in_properties_of(self, asked: Sequence[ua.NodeId]) -> dict[ua.NodeId, Names]:
        below = await self._space.references(asked, reference_type=HAS_PROPERTY, most=PROPERTIES_MOST)
        properties: list[tuple[ua.NodeId, str, ua.NodeId]] = []
        for node, references in zip(asked, below, strict=True):
            for reference in references:
                target = self._space.here(reference.NodeId)
                name = reference.BrowseName.Name
                if name in _NAMING and reference.BrowseName.NamespaceIndex == 0 and target is not None:
                    properties.append((node, name, target))
        read = await self._space.read([(target, AttributeIds.Value) for *_, target in properties])
        values: dict[ua.NodeId, dict[str, Any]] = {}
        for (node, name, _), one in zip(properties, read, strict=True):
            values.setdefault(node, {})[name] = value_of(one)
        return {node: _names_in_values(of_node) for node, of_node in values.items()}


async def data_types_of(space: AddressSpace, nodes: Mapping[int, ua.NodeId]) -> dict[int, ua.NodeId]:
    """Return the DataType of each node by its place; none for a node that does not tell."""
    read = await space.read([(node, AttributeIds.DataType) for node in nodes.values()])
    types = {place: value_of(one) for place, one in zip(nodes, read, strict=True)}
    return {place: one for place, one in types.items() if isinstance(one, ua.NodeId)}


def _names_in_definition(definition: object) -> Names:
    if not isinstance(definition, ua.EnumDefinition):
        return {}
    fields: Sequence[ua.EnumField] = definition.Fields or ()
    return _kept((one.Value, _text(one.DisplayName) or one.Name) for one in fields)


def _names_in_values(values: Mapping[str, Any]) -> Names:
    strings, pairs = values.get(_ENUM_STRINGS), values.get(_ENUM_VALUES)
    if isinstance(pairs, list):
        return _kept(
            (one.Value, _text(one.DisplayName)) for one in pairs if isinstance(one, ua.EnumValueType)
        )
    if isinstance(strings, list):
        return _kept((number, _text(one)) for number, one in enumerate(strings))
    return _kept((number, _text(values.get(name))) for number, name in enumerate((_FALSE_STATE, _TRUE_STATE)))


def _kept(pairs: Iterable[tuple[object, object]]) -> Names:
    """Return the pairs that are a number and a text, at most as many as a type may have."""
    names: Names = {}
    for number, text in pairs:
        if isinstance(number, int) and isinstance(text, str) and text:
            names[number] = storable(text[:_NAME_MOST_CHARACTERS])
        if len(names) >= _NAMES_MOST:
            break
    return names


def _text(value: object) -> str | None:
    return value.Text if isinstance(value, ua.LocalizedText) else None
