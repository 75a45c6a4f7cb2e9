"""What a server says about the types of tags that are enumerations or structures: names of numbers, names of fields.

Owns which tags are asked about: those of data type ENUM and STRUCT, and no others. Where names are looked for is in
enum_names.py and definitions.py. A type that cannot be read costs only its own names; `problems` says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary

from engine.errors import ConnectionRefused
from engine.structures import StructureTypes
from workers.opcua.browsing.address_space import AddressSpace
from workers.opcua.browsing.definitions import Definitions
from workers.opcua.browsing.enum_names import EnumNames, Names, Problems

if TYPE_CHECKING:
    from engine.catalog.tag_set import TagSet
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.limits import Limits
    from workers.opcua.monitoring.nodes import Addresses

# What is known without asking: the structures of namespace 0 that variables hold.
_STANDARD = StructureTypes()


@dataclass(frozen=True, slots=True)
class NodeTypes:
    """What is known of the types of one connection's tags in this session."""

    enum_names: Mapping[int, Names] = field(default_factory=dict)
    """By the tag's place; tags of one type share one dictionary."""
    text_of: Callable[[bytes], str | None] = _STANDARD.text_of
    """The text of a Variant, structures by their field names; for the compiled decoders."""
    problems: tuple[str, ...] = ()
    """Sentences about types without names, for a log or a report."""


async def read_types(
    channel: Channel, tags: TagSet, addresses: Addresses, limits: Limits | None = None
) -> NodeTypes:
    """Return the names that tags of data type ENUM and STRUCT need. Nothing is asked when there are no such tags.

    Raises ConnectionRefused only when the connection has ended.
    """
    enumerations, structures = (_nodes(tags, addresses, data_type) for data_type in ("ENUM", "STRUCT"))
    if not enumerations and not structures:
        return NodeTypes()
    space = AddressSpace(channel)
    problems = Problems(space)
    enum_names: Mapping[int, Names] = {}
    text_of = _STANDARD.text_of
    try:
        await space.prepare(limits)
        if enumerations:
            enum_names = await EnumNames(space, problems).of_variables(enumerations)
        if structures:
            text_of = (await Definitions(space, problems).of_variables(structures)).text_of
    except ConnectionRefused as exc:
        # A server without Browse still has values, and they are worth more than their names.
        if channel.lost:
            raise
        return NodeTypes(enum_names, text_of, (*problems.sentences(), f"names of types not read: {exc}"))
    return NodeTypes(enum_names, text_of, problems.sentences())


def _nodes(tags: TagSet, addresses: Addresses, data_type: str) -> dict[int, ua.NodeId]:
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
