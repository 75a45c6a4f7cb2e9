"""Structures by their field names: what ExtensionObjects hold, as JSON objects.

Owns the definitions that a connection knows (from its server's DataTypeDefinition attributes; the ones of namespace 0
that fields meet most are here) and reads the bodies of ExtensionObjects by them. Owns no wire rules of its own: each
value of a body is checked by the compiled `measure` before it is read, and read as everywhere else (variants.py).

    Structure                  {"Low": 0.0, "High": 100.0}
    with optional fields       the fields that are there
    Union                      {"Chosen": value}; {} if none is chosen
    an enumeration's number    its name, where it has one; else the number
    unknown type, XML body, no body, or a body that is not as its definition says:
                               {"TypeId", "Encoding", "Body"}, the body in base64, as without definitions

Bodies come from outside and nobody has checked them: depth, counts and the size of what is made are bounded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from engine._fastpath import measure
from engine.errors import MalformedMessage
from engine.variants import (
    FIXED_BYTES,
    MOST_DIMENSIONS,
    READERS,
    UNKNOWN,
    Spending,
    VariantReader,
    current_spending,
    storable,
    text_of_reader,
)

STRUCTURE = 0
"""As a field's built_in: a structure, which `data_type` names."""

# Structures in structures: each level costs Python several frames of its stack.
MOST_LEVELS = 32
# What a server may define: enough for the largest companion specifications, and bounded.
MOST_TYPES = 8_192
MOST_FIELDS = 1_024
MOST_NAME_CHARACTERS = 512

# Each so many characters of a name count as one more part of a value, as names are written again for each value.
NAME_CHARACTERS_A_PART = 32

_INT32 = 6
_EXTENSION_OBJECT = 22
_VARIANT = 24
_BUILT_IN_TYPES = range(1, 26)


class StructureKind(IntEnum):
    """How a structure is encoded; the numbers of StructureType (OPC 10000-3, 8.49)."""

    PLAIN = 0
    OPTIONAL_FIELDS = 1
    UNION = 2
    SUBTYPED_VALUES = 3
    """Its fields with `is_optional` are always there, as ExtensionObjects (structures) or Variants (all others)."""
    UNION_SUBTYPED_VALUES = 4


@dataclass(frozen=True, slots=True)
class StructureField:
    """One field of a structure."""

    name: str
    built_in: int
    """Built-in type, 1 to 25 (OPC 10000-6, 5.1.2): Int32 for an enumeration, 22 where any structure may be, 24 where
    any value may be; STRUCTURE for the structure that `data_type` names."""
    data_type: str = ""
    """NodeId of its DataType, for example ns=2;i=3002: finds nested structures and the names of enumerations."""
    value_rank: int = -1
    """-1 one value, 1 an array, n a matrix of n dimensions."""
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class StructureDefinition:
    """What a structure's body holds, in its order; inherited fields first."""

    name: str
    kind: StructureKind
    fields: tuple[StructureField, ...]
    data_type: str = ""
    """NodeId of the DataType itself: how fields of other structures name it."""


class _Misfit(Exception):
    """A body is not as its definition says."""


class StructureTypes:
    """The structures and enumerations that one connection knows, and the text of values with them."""

    def __init__(self) -> None:
        self._by_encoding: dict[str, StructureDefinition] = {}
        self._by_data_type: dict[str, StructureDefinition] = {}
        self._enumerations: dict[str, Mapping[int, str]] = {}
        _add_standard_types(self)

    def add(self, encoding_id: str | None, definition: StructureDefinition) -> None:
        """Know a structure by the NodeId of its binary encoding (as in ExtensionObjects) and by its DataType's.

        The ids are written as everywhere: i=886, ns=2;i=5001, ns=2;s=Name. None: it comes inside of others only.
        What was known by an id before is replaced. Raises ValueError, naming it, for what cannot be read.
        """
        checked = _checked(definition)
        if len(self._by_encoding) + len(self._by_data_type) >= 2 * MOST_TYPES:
            raise ValueError(f"structure {definition.name!r}: more than {MOST_TYPES} types on one server")
        if encoding_id:
            self._by_encoding[encoding_id] = checked
        if definition.data_type:
            self._by_data_type[definition.data_type] = checked

    def add_enumeration(self, data_type: str, names: Mapping[int, str]) -> None:
        """Know the names of an enumeration's numbers by the NodeId of its DataType. Raises ValueError for too many."""
        if len(self._enumerations) >= MOST_TYPES or len(names) > MOST_TYPES:
            raise ValueError(f"enumeration {data_type}: more than {MOST_TYPES} on one server, or in one type")
        self._enumerations[data_type] = {
            number: storable(name[:MOST_NAME_CHARACTERS]) for number, name in names.items()
        }

    def text_of(self, variant: bytes) -> str | None:
        """Return the text of one encoded Variant as variants.text_of does, with structures by their field names.

        The Variant has been checked by the compiled decoder; bodies of its ExtensionObjects need not hold.
        """
        return text_of_reader(_Reader(variant, current_spending(), self), variant)

    def with_encoding(self, encoding_id: str) -> StructureDefinition | None:
        """Return the structure that ExtensionObjects with this TypeId hold."""
        return self._by_encoding.get(encoding_id)

    def with_data_type(self, data_type: str) -> StructureDefinition | None:
        """Return the structure that fields with this DataType hold."""
        return self._by_data_type.get(data_type)

    def names_of(self, data_type: str) -> Mapping[int, str]:
        """Return the names of an enumeration's numbers; none for any other type."""
        return self._enumerations.get(data_type, {})


class _Reader(VariantReader):
    """Reads values, and the bodies of ExtensionObjects whose type is known."""

    def __init__(
        self,
        data: bytes | memoryview,
        spending: Spending,
        types: StructureTypes,
        level: int = 0,
        structures: int = 0,
    ) -> None:
        super().__init__(data, spending, level)
        self._types = types
        # How many structures are around this place.
        self._structures = structures

    def _structure(self, type_id: str, body: bytes | memoryview) -> Any:
        definition = self._types.with_encoding(type_id)
        if definition is None or self._structures >= MOST_LEVELS:
            return UNKNOWN
        # A view: bodies in bodies are not copied at each level.
        reader = _Reader(memoryview(body), self._spending, self._types, self._level + 1, self._structures + 1)
        try:
            value = reader.whole(definition)
        except (_Misfit, MalformedMessage):
            return UNKNOWN
        return value

    def whole(self, definition: StructureDefinition) -> dict[str, Any]:
        """Return a structure that is all of the data. Raises _Misfit, MalformedMessage or TooManyParts."""
        value = self._fields(definition)
        if self._at != len(self._data):
            raise _Misfit
        return value

    def _fields(self, definition: StructureDefinition) -> dict[str, Any]:
        """Read one structure; the names say what is there (Part 6, 5.2.6 to 5.2.8)."""
        kind = definition.kind
        if kind in (StructureKind.UNION, StructureKind.UNION_SUBTYPED_VALUES):
            chosen = self._uint32()
            if chosen > len(definition.fields):
                raise _Misfit
            return {} if chosen == 0 else self._named(definition.fields[chosen - 1 : chosen], kind)
        if kind is not StructureKind.OPTIONAL_FIELDS:
            return self._named(definition.fields, kind)
        mask = self._uint32()
        present = []
        for field in definition.fields:
            if field.is_optional:
                if mask & 1:
                    present.append(field)
                mask >>= 1
            else:
                present.append(field)
        if mask:
            raise _Misfit
        return self._named(tuple(present), kind)

    def _named(self, fields: tuple[StructureField, ...], kind: StructureKind) -> dict[str, Any]:
        values = {}
        for field in fields:
            self._spending.take(1 + len(field.name) // NAME_CHARACTERS_A_PART)
            values[field.name] = self._field(field, kind)
        return values

    def _field(self, field: StructureField, kind: StructureKind) -> Any:
        built_in = field.built_in
        if field.is_optional and kind in (StructureKind.SUBTYPED_VALUES, StructureKind.UNION_SUBTYPED_VALUES):
            built_in = _EXTENSION_OBJECT if built_in in (STRUCTURE, _EXTENSION_OBJECT) else _VARIANT
        if field.value_rank == -1:
            return self._value(built_in, field)
        if field.value_rank == 1:
            count = self._int32()
            return None if count < 0 else self._values(built_in, count, field)
        return self._matrix(built_in, field)

    def _matrix(self, built_in: int, field: StructureField) -> list[Any] | None:
        """Read an array of dimensions and the flat values behind it (Part 6, 5.2.5)."""
        rank = self._int32()
        if rank < 0:
            return None
        if rank != field.value_rank:
            raise _Misfit
        dimensions = [self._int32() for _ in range(rank)]
        count = 1
        for dimension in dimensions:
            if dimension < 0:
                raise _Misfit
            count *= dimension
        values = self._values(built_in, count, field)
        return self.folded(values, dimensions) if count else values

    def _values(self, built_in: int, count: int, field: StructureField) -> list[Any]:
        # No value is smaller than a byte but a structure without fields, of which nobody sends an array.
        if count > len(self._data) - self._at:
            raise _Misfit
        layout_size = FIXED_BYTES.get(built_in)
        if layout_size is None or self._types.names_of(field.data_type):
            self._spending.take(count)
            return [self._value(built_in, field) for _ in range(count)]
        if count * layout_size > len(self._data) - self._at:
            raise _Misfit
        return self.elements(built_in, count)

    def _value(self, built_in: int, field: StructureField) -> Any:
        if built_in == STRUCTURE:
            return self._nested(field)
        measure(self._data, self._at, built_in, self._level + 1)
        value = READERS[built_in](self)
        if built_in == _INT32:
            name = self._types.names_of(field.data_type).get(value)
            if name is not None:
                self._spending.take(len(name) // NAME_CHARACTERS_A_PART)
                return name
        return value

    def _nested(self, field: StructureField) -> dict[str, Any]:
        definition = self._types.with_data_type(field.data_type)
        if definition is None or self._structures >= MOST_LEVELS:
            raise _Misfit
        self._structures += 1
        self._level += 1
        value = self._fields(definition)
        self._level -= 1
        self._structures -= 1
        return value

    def _int32(self) -> int:
        measure(self._data, self._at, _INT32)
        value: int = self._unpack("i")
        return value

    def _uint32(self) -> int:
        return self._int32() & 0xFFFF_FFFF


def _checked(definition: StructureDefinition) -> StructureDefinition:
    """Return the definition with names that JSON and PostgreSQL take. Raises ValueError for what cannot be read."""
    what = f"structure {definition.name[:MOST_NAME_CHARACTERS]!r}"
    fields = tuple(replace(field, name=storable(field.name)) for field in definition.fields)
    if len(fields) > MOST_FIELDS:
        raise ValueError(f"{what}: {len(fields)} fields, more than {MOST_FIELDS}")
    if len({field.name for field in fields}) != len(fields):
        raise ValueError(f"{what}: two fields of one name")
    for field in fields:
        if not 0 < len(field.name) <= MOST_NAME_CHARACTERS:
            raise ValueError(f"{what}: a field name of {len(field.name)} characters")
        if field.built_in != STRUCTURE and field.built_in not in _BUILT_IN_TYPES:
            raise ValueError(f"{what}: field {field.name!r} of the built-in type {field.built_in}")
        if field.built_in == STRUCTURE and not field.data_type:
            raise ValueError(f"{what}: field {field.name!r} is a structure without a data type")
        if field.value_rank != -1 and not 1 <= field.value_rank <= MOST_DIMENSIONS:
            raise ValueError(f"{what}: field {field.name!r} of value rank {field.value_rank}")
    return replace(definition, fields=fields)


def _add_standard_types(types: StructureTypes) -> None:
    """Know the structures of namespace 0 that variables hold (OPC 10000-5 and -8; ids in OPC 10000-6, annex A)."""
    plain = StructureKind.PLAIN
    for data_type, encoding, name, fields in _STANDARD_TYPES:
        types.add(f"i={encoding}", StructureDefinition(name, plain, fields, f"i={data_type}"))
    for data_type, names in _STANDARD_ENUMERATIONS.items():
        types.add_enumeration(f"i={data_type}", dict(enumerate(names)))


def _fields(layout: str) -> tuple[StructureField, ...]:
    """Make fields of `Name:built-in[:value rank[:data type]]`, with spaces between them."""
    made = []
    for each in layout.split():
        name, built_in, rank, data_type = (each + ":::").split(":")[:4]
        made.append(StructureField(name, int(built_in), data_type and f"i={data_type}", int(rank or -1)))
    return tuple(made)


# DataType, its binary encoding, name, fields.
_STANDARD_TYPES = (
    (884, 886, "Range", _fields("Low:11 High:11")),
    (887, 889, "EUInformation", _fields("NamespaceUri:12 UnitId:6 DisplayName:21 Description:21")),
    (8912, 8917, "TimeZoneDataType", _fields("Offset:4 DaylightSavingInOffset:1")),
    (296, 298, "Argument", _fields("Name:12 DataType:17 ValueRank:6 ArrayDimensions:7:1 Description:21")),
    (7594, 8251, "EnumValueType", _fields("Value:8 DisplayName:21 Description:21")),
    (12755, 12765, "OptionSet", _fields("Value:15 ValidBits:15")),
    (12080, 12090, "XVType", _fields("X:11 Value:10")),
    (12171, 12181, "ComplexNumberType", _fields("Real:10 Imaginary:10")),
    (12172, 12182, "DoubleComplexNumberType", _fields("Real:11 Imaginary:11")),
    (
        12079,
        12089,
        "AxisInformation",
        _fields("EngineeringUnits:0::887 EURange:0::884 Title:21 AxisScaleType:6::12077 AxisSteps:11:1"),
    ),
    (18806, 18815, "RationalNumber", _fields("Numerator:6 Denominator:7")),
    (18808, 18817, "3DVector", _fields("X:11 Y:11 Z:11")),
    (18810, 18819, "3DCartesianCoordinates", _fields("X:11 Y:11 Z:11")),
    (18812, 18821, "3DOrientation", _fields("A:11 B:11 C:11")),
    (18814, 18823, "3DFrame", _fields("CartesianCoordinates:0::18810 Orientation:0::18812")),
    (
        338,
        340,
        "BuildInfo",
        _fields(
            "ProductUri:12 ManufacturerName:12 ProductName:12 SoftwareVersion:12 BuildNumber:12 BuildDate:13"
        ),
    ),
    (
        862,
        864,
        "ServerStatusDataType",
        _fields(
            "StartTime:13 CurrentTime:13 State:6::852 BuildInfo:0::338 SecondsTillShutdown:7 ShutdownReason:21"
        ),
    ),
    (853, 855, "RedundantServerDataType", _fields("ServerId:12 ServiceLevel:3 ServerState:6::852")),
    (871, 873, "ServiceCounterDataType", _fields("TotalCount:7 ErrorCount:7")),
)
_STANDARD_ENUMERATIONS = {
    852: (
        "Running",
        "Failed",
        "NoConfiguration",
        "Suspended",
        "Shutdown",
        "Test",
        "CommunicationFault",
        "Unknown",
    ),
    12077: ("Linear", "Log", "Ln"),
}
