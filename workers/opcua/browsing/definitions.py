"""Structures as a server defines them: DataTypeDefinition attributes, into what engine/structures.py reads values by.

Owns the search: from the data types of variables to those of the fields inside, level by level, with the ids of their
binary encodings and the names of their enumerations. A type that cannot be known costs only itself: its values keep
their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from engine.structures import STRUCTURE, StructureDefinition, StructureField, StructureKind, StructureTypes
from workers.opcua.browsing.address_space import value_of
from workers.opcua.browsing.enum_names import PROPERTIES_MOST, TYPES_MOST, EnumNames, Problems, data_types_of

if TYPE_CHECKING:
    from workers.opcua.browsing.address_space import AddressSpace

    Standard = Mapping[ua.NodeId, int | None]

_HAS_ENCODING = ua.NodeId(ua.Int32(ObjectIds.HasEncoding))
_DEFAULT_BINARY = "Default Binary"
# Structures in structures; more than any real type, and an end for types that hold each other.
_NESTING_MOST = 16
_STRUCTURE = ua.NodeId(ua.Int32(ObjectIds.Structure))
_STRUCTURE_TYPE, _ENUMERATION_TYPE = 22, 29
# What a field has on the wire whose type is abstract: a Variant for numbers (OPC 10000-6, 5.2.2.16); an enumeration
# is an Int32 (5.2.4).
_ON_THE_WIRE = {26: 24, 27: 24, 28: 24, 29: 6}


class Definitions:
    """Asks one server for the structures that some variables need."""

    def __init__(self, space: AddressSpace, problems: Problems) -> None:
        self._space = space
        self._problems = problems
        self._names = EnumNames(space, problems)
        self._found = StructureTypes()

    async def of_variables(self, nodes: Mapping[int, ua.NodeId]) -> StructureTypes:
        """Return what is needed to read the structures of these nodes, and all that are inside of them."""
        types = await data_types_of(self._space, nodes)
        standard = await self._space.standard_types(types.values())
        for place, node in nodes.items():
            if standard.get(types.get(place, ua.NodeId())) != _STRUCTURE_TYPE:
                self._problems.tell(node, "it is no structure")
        wanted = _those(standard, _STRUCTURE_TYPE)
        known: set[ua.NodeId] = set()
        enumerations: set[ua.NodeId] = set()
        for _ in range(_NESTING_MOST):
            wanted = {one for one in wanted - known if self._found.with_data_type(self._text(one)) is None}
            if not wanted or len(known) >= TYPES_MOST:
                break
            known |= wanted
            inside = await self._add(self._problems.bounded(wanted))
            wanted = _those(inside, _STRUCTURE_TYPE) - {_STRUCTURE}
            enumerations |= _those(inside, _ENUMERATION_TYPE)
        for one in wanted - known:
            if self._found.with_data_type(self._text(one)) is None:
                self._problems.tell(one, "it lies too deep in other structures")
        await self._add_enumerations(enumerations)
        return self._found

    async def _add(self, asked: Sequence[ua.NodeId]) -> Standard:
        """Add the definitions of these types; return the types of their fields with their standard types."""
        read = await self._space.read([(one, AttributeIds.DataTypeDefinition) for one in asked])
        names = await self._space.read([(one, AttributeIds.BrowseName) for one in asked])
        encodings = await self._space.references(asked, reference_type=_HAS_ENCODING, most=PROPERTIES_MOST)
        definitions = [value_of(one) for one in read]
        standard = await self._space.standard_types(
            each.DataType
            for definition in definitions
            if isinstance(definition, ua.StructureDefinition)
            for each in definition.Fields or ()
        )
        for place, one in enumerate(asked):
            definition = definitions[place]
            if one == _STRUCTURE:
                self._problems.tell(one, "a variable of this type may hold any structure")
            elif not isinstance(definition, ua.StructureDefinition):
                self._problems.tell(
                    one, "the server does not say which fields it has (no DataTypeDefinition)"
                )
            else:
                self._add_one(one, value_of(names[place]), definition, encodings[place], standard)
        return standard

    def _add_one(
        self,
        data_type: ua.NodeId,
        name: object,
        definition: ua.StructureDefinition,
        encodings: Iterable[ua.ReferenceDescription],
        standard: Standard,
    ) -> None:
        text = self._text(data_type)
        try:
            made = StructureDefinition(
                name=str(name.Name) if isinstance(name, ua.QualifiedName) and name.Name else text,
                kind=StructureKind(int(definition.StructureType)),
                fields=tuple(
                    self._field(each, standard.get(each.DataType)) for each in definition.Fields or ()
                ),
                data_type=text,
            )
            encoding_ids = {self._text(one) for one in self._encoding_ids(definition, encodings)}
            # Without an encoding of its own it comes inside of others only.
            for encoding_id in encoding_ids or {""}:
                self._found.add(encoding_id, made)
        except ValueError as exc:
            self._problems.tell(data_type, str(exc))

    def _encoding_ids(
        self, definition: ua.StructureDefinition, references: Iterable[ua.ReferenceDescription]
    ) -> Iterator[ua.NodeId]:
        if not definition.DefaultEncodingId.is_null():
            yield definition.DefaultEncodingId
        for reference in references:
            target = self._space.here(reference.NodeId)
            if reference.BrowseName.Name == _DEFAULT_BINARY and target is not None:
                yield target

    def _field(self, each: ua.StructureField, number: int | None) -> StructureField:
        if number is None:
            raise ValueError(f"field {each.Name!r} has a type of which nothing is known")
        is_structure = number == _STRUCTURE_TYPE and each.DataType != _STRUCTURE
        return StructureField(
            name=str(each.Name or ""),
            built_in=STRUCTURE if is_structure else _ON_THE_WIRE.get(number, number),
            data_type=self._text(each.DataType),
            value_rank=int(each.ValueRank),
            is_optional=bool(each.IsOptional),
        )

    async def _add_enumerations(self, types: Iterable[ua.NodeId]) -> None:
        unknown = [one for one in types if not self._found.names_of(self._text(one))]
        for one, names in (await self._names.of_types(unknown)).items():
            try:
                self._found.add_enumeration(self._text(one), names)
            except ValueError as exc:
                self._problems.tell(one, str(exc))

    def _text(self, node_id: ua.NodeId) -> str:
        """Return a node id as values name it: with the namespace's index in this session."""
        return str(self._space.address(node_id, by_uri=False))


def _those(standard: Standard, number: int) -> set[ua.NodeId]:
    return {one for one, known in standard.items() if known == number}
