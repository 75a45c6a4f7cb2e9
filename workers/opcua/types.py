"""What a server says about the types of tags that are enumerations or structures: names of numbers, names of fields.

Owns what is asked, for tags of data type ENUM and STRUCT only, and where names are looked for:

    ENUM    properties of the variable itself (discrete items, OPC 10000-8, 5.3.3): EnumStrings, EnumValues, or
            FalseState and TrueState; else of its data type: DataTypeDefinition (OPC 10000-3, 8.50), EnumValues,
            EnumStrings
    STRUCT  DataTypeDefinition of the data type and of all types of its fields, and the ids of their binary encodings

Memory and time are bounded: a type has at most _NAMES_MOST names or fields, a connection _TYPES_MOST types. A type that
cannot be read costs only its own names; `problems` says so, once for each type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_from_binary

from engine.variants import storable
from workers.opcua.address_space import HAS_PROPERTY, AddressSpace, value_of

if TYPE_CHECKING:
    from engine.catalog.tag_set import TagSet
    from workers.opcua.channel import Channel
    from workers.opcua.limits import Limits
    from workers.opcua.nodes import Addresses

_HAS_ENCODING = ua.NodeId(ua.Int32(ObjectIds.HasEncoding))
_DEFAULT_BINARY = "Default Binary"
_TYPES_MOST = 1_000
_NAMES_MOST = 10_000
_NAME_MOST_CHARACTERS = 255
_PROPERTIES_MOST = 100
_PROBLEMS_MOST = 20
# Structures in structures; more than any real type, and an end for types that hold each other.
_NESTING_MOST = 16

_ENUM_STRINGS, _ENUM_VALUES = "EnumStrings", "EnumValues"
_FALSE_STATE, _TRUE_STATE = "FalseState", "TrueState"
_NAMING = (_ENUM_STRINGS, _ENUM_VALUES, _FALSE_STATE, _TRUE_STATE)

Names = dict[int, str]


@dataclass(frozen=True, slots=True)
class NodeTypes:
    """What is known of the types of one connection's tags in this session."""

    enum_names: Mapping[int, Names] = field(default_factory=dict)
    """By the tag's place; tags of one type share one dictionary."""
    problems: tuple[str, ...] = ()
    """Sentences about types without names, for a log or a report."""


async def read_types(
    channel: Channel, tags: TagSet, addresses: Addresses, limits: Limits | None = None
) -> NodeTypes:
    """Return the names that tags of data type ENUM and STRUCT need. Raises ConnectionRefused.

    Nothing is asked when there are no such tags.
    """
    enums, structures = (_named(tags, addresses, kind) for kind in ("ENUM", "STRUCT"))
    if not enums and not structures:
        return NodeTypes()
    space = AddressSpace(channel)
    await space.prepare(limits)
    reader = _Reader(space)
    enum_names = await reader.enum_names(enums)
    return NodeTypes(enum_names, reader.problems())


def _named(tags: TagSet, addresses: Addresses, data_type: str) -> dict[int, ua.NodeId]:
    """Return the nodes of the tags of this type by place; those that have none in this session are left out."""
    places = tags.places_typed(data_type)
    if not len(places):
        return {}
    wire, _, missing = addresses.wire(places)
    return {
        place: nodeid_from_binary(Buffer(wire[at]))
        for at, place in enumerate(places.tolist())
        if at not in missing
    }


class _Reader:
    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._problems: dict[str, None] = {}

    def problems(self) -> tuple[str, ...]:
        """Return what could not be read, cut to what a person reads."""
        said = list(self._problems)
        more = len(said) - _PROBLEMS_MOST
        return (*said[:_PROBLEMS_MOST], *((f"and {more} more types without names",) if more > 0 else ()))

    async def enum_names(self, nodes: Mapping[int, ua.NodeId]) -> dict[int, Names]:
        """Return the names for each place that has some."""
        types = await self._data_types(nodes)
        ours = await self._space.our_types(types.values())
        # An enumeration's names belong to its type. Discrete items are plain numbers with names of their own.
        own = {place: nodes[place] for place in nodes if ours.get(types.get(place, ua.NodeId())) != "ENUM"}
        of_variable = await self._names_in_properties(own.values())
        of_type = await self._names_of_types({types[place] for place in nodes if place not in own})
        found: dict[int, Names] = {}
        for place, node in nodes.items():
            names = of_variable.get(node) if place in own else of_type.get(types[place])
            if names:
                found[place] = names
            elif place in own:
                self._tell(node, "it is no enumeration, and has no EnumStrings, EnumValues or TrueState")
        return found

    async def _data_types(self, nodes: Mapping[int, ua.NodeId]) -> dict[int, ua.NodeId]:
        read = await self._space.read([(node, AttributeIds.DataType) for node in nodes.values()])
        types = {place: value_of(one) for place, one in zip(nodes, read, strict=True)}
        return {place: one for place, one in types.items() if isinstance(one, ua.NodeId)}

    async def _names_of_types(self, types: Iterable[ua.NodeId]) -> dict[ua.NodeId, Names]:
        asked = self._bounded(types)
        read = await self._space.read([(one, AttributeIds.DataTypeDefinition) for one in asked])
        names = {
            one: _names_in_definition(value_of(definition))
            for one, definition in zip(asked, read, strict=True)
        }
        # Servers from before 1.04 have no DataTypeDefinition.
        names |= await self._names_in_properties([one for one in asked if not names[one]])
        for one in asked:
            if not names.get(one):
                self._tell(one, "the server does not say what its numbers mean")
        return names

    async def _names_in_properties(self, nodes: Iterable[ua.NodeId]) -> dict[ua.NodeId, Names]:
        """Return the names that nodes have in properties of their own."""
        asked = list(dict.fromkeys(nodes))
        found = await self._space.references(asked, reference_type=HAS_PROPERTY, most=_PROPERTIES_MOST)
        properties: list[tuple[ua.NodeId, str, ua.NodeId]] = []
        for node, references in zip(asked, found, strict=True):
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

    def _bounded(self, types: Iterable[ua.NodeId]) -> list[ua.NodeId]:
        asked = sorted(set(types), key=str)
        for one in asked[_TYPES_MOST:]:
            self._tell(one, f"there are more than {_TYPES_MOST} types")
        return asked[:_TYPES_MOST]

    def _tell(self, node: ua.NodeId, why: str) -> None:
        self._problems[f"no names for {self._space.address(node, by_uri=False)}: {why}"] = None


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
