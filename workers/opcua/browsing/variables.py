"""What a server says about its variables: type, rank, access, unit, range and, if wanted, the value; read in batches.

Owns how that becomes our words: the data type by its standard supertype, ENUM where the variable names its numbers, the
unit as people write it. A fact that cannot be read is None, and no error.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIdNames
from asyncua.ua.ua_binary import variant_to_binary
from asyncua.ua.uaerrors import UaError

from engine.structures import StructureTypes
from engine.variants import storable
from workers.opcua.browsing.address_space import value_of
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from workers.opcua.browsing.address_space import AddressSpace

# No limit in the standard; what a person can still read.
_SHOWN_MOST_CHARACTERS = 200
_UNIT, _RANGE = "EngineeringUnits", "EURange"
# Discrete items say here what their numbers mean (OPC 10000-8, 5.3.3): they are enumerations to us.
_NAMES_OF_NUMBERS = frozenset({"EnumStrings", "EnumValues", "TrueState"})
_FACTS = (
    AttributeIds.DataType,
    AttributeIds.ValueRank,
    AttributeIds.ArrayDimensions,
    AttributeIds.AccessLevel,
)
# Structures of the standard are shown by their fields.
_STANDARD = StructureTypes()


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableFacts:
    """What the server says about a variable; None where it says nothing."""

    data_type: str | None
    """Our word: DOUBLE, ENUM, STRUCT, ...; None for a variable that may hold anything."""
    data_type_id: str
    value_rank: int | None
    """-1: one value; 1 and up: an array of that many dimensions; others: either (OPC 10000-3, 5.6.2)."""
    array_dimensions: tuple[int, ...] = ()
    readable: bool | None = None
    unit: str | None = None
    range: tuple[float, float] | None = None
    value: str | None = None
    """As text; only where values were asked for."""
    status: str | None = None


async def read_variables(
    space: AddressSpace,
    nodes: Sequence[ua.NodeId],
    properties: Sequence[Mapping[str, ua.NodeId]],
    *,
    values: bool,
) -> list[VariableFacts]:
    """Return what the server says about each variable. Raises ConnectionRefused.

    `properties` are the ids of each one's properties by name; `values` reads the values, too.
    """
    attributes = (*_FACTS, AttributeIds.Value) if values else _FACTS
    wanted = [(node, attribute) for node in nodes for attribute in attributes]
    extra = [
        (place, name, known[name])
        for place, known in enumerate(properties)
        for name in (_UNIT, _RANGE)
        if name in known
    ]
    read = await space.read(wanted + [(node_id, AttributeIds.Value) for *_, node_id in extra])
    more = {
        (place, name): value_of(one) for (place, name, _), one in zip(extra, read[len(wanted) :], strict=True)
    }
    of_each = [read[start : start + len(attributes)] for start in range(0, len(wanted), len(attributes))]
    types = [value_of(one[0]) for one in of_each]
    data_types = [one if isinstance(one, ua.NodeId) else ua.NodeId() for one in types]
    ours = await space.our_types(data_types)
    return [
        VariableFacts(
            data_type="ENUM" if not _NAMES_OF_NUMBERS.isdisjoint(properties[place]) else ours[data_type],
            data_type_id=type_name(space, data_type),
            unit=_unit(more.get((place, _UNIT))),
            range=_range(more.get((place, _RANGE))),
            **_facts(of_each[place][1:]),
        )
        for place, data_type in enumerate(data_types)
    ]


def _facts(read: list[ua.DataValue | None]) -> dict[str, Any]:
    rank, dimensions, access = (value_of(one) for one in read[:3])
    facts: dict[str, Any] = {
        "value_rank": rank if isinstance(rank, int) else None,
        "array_dimensions": tuple(dimensions[:16]) if isinstance(dimensions, list) else (),
        # Bit 0 of AccessLevel: CurrentRead (OPC 10000-3, 8.57).
        "readable": bool(access & 1) if isinstance(access, int) else None,
    }
    if len(read) > 3:
        value = read[3]
        status = None if value is None or value.StatusCode is None else value.StatusCode.value
        facts["status"] = "unreadable" if value is None else "Good" if not status else status_name(status)
        facts["value"] = _shown(value.Value) if value is not None and value.Value is not None else None
    return facts


def _shown(value: ua.Variant) -> str | None:
    """Return a value's text, in characters that can be shown and cut to what a person can read."""
    try:
        text = _STANDARD.text_of(variant_to_binary(value))
    except (UaError, ValueError, TypeError, AttributeError, struct.error):
        # asyncua cannot write everything that it can read.
        text = str(value.Value)
    if text is None:
        return None
    text = storable(text)
    if len(text) <= _SHOWN_MOST_CHARACTERS:
        return text
    return f"{text[: _SHOWN_MOST_CHARACTERS - 1]}…"


def type_name(space: AddressSpace, node_id: ua.NodeId) -> str:
    """Return a standard type's name, or the node id of a type that the server brings along."""
    number = node_id.Identifier
    if node_id.NamespaceIndex == 0 and isinstance(number, int):
        name: str | None = ObjectIdNames.get(number)
        if name is not None:
            return name
    return str(space.address(node_id, by_uri=False))


def _unit(value: object) -> str | None:
    """Return the unit as people write it: the display name, as OPC 10000-8, 5.6.3 means it; else the description."""
    if not isinstance(value, ua.EUInformation):
        return None
    for text in (value.DisplayName, value.Description):
        if isinstance(text, ua.LocalizedText) and text.Text and text.Text.strip():
            return str(text.Text).strip()[:_SHOWN_MOST_CHARACTERS]
    return None


def _range(value: object) -> tuple[float, float] | None:
    return (float(value.Low), float(value.High)) if isinstance(value, ua.Range) else None
