"""Structures by their field names: bodies as asyncua writes them, and bodies that are not as their definition says."""

from __future__ import annotations

import base64
import struct
from typing import Any

import orjson
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import extensionobject_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.structures import (
    MOST_FIELDS,
    STRUCTURE,
    StructureDefinition,
    StructureField,
    StructureKind,
    StructureTypes,
)
from engine.variants import text_of
from tests.engine.reference_codec import Variant, array, extension_object, string, variant
from tests.engine.strategies import variants

number: Any = int
real: Any = float
TYPE_ID = b"\x01\x02\x10\x00"
OURS = "ns=2;i=16"


def defined(kind: StructureKind, *fields: StructureField) -> StructureTypes:
    """Return a registry with one structure of that id."""
    types = StructureTypes()
    types.add(OURS, StructureDefinition("Ours", kind, fields, "ns=2;i=1"))
    return types


def of_body(body: bytes, type_id: bytes = TYPE_ID) -> bytes:
    """Return a Variant with one ExtensionObject."""
    return variant(Variant(22, extension_object(type_id, body)))


def read(types: StructureTypes, body: bytes) -> Any:
    """Return the JSON of a body."""
    text = types.text_of(of_body(body))
    assert text is not None
    return orjson.loads(text)


def opaque(body: bytes) -> dict[str, Any]:
    """Return what a body becomes that cannot be looked into."""
    return {"TypeId": OURS, "Encoding": 1, "Body": base64.b64encode(body).decode()}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ua.Range(real(-1.5), real(2.0)), {"Low": -1.5, "High": 2.0}),
        (
            ua.EUInformation(
                "http://www.opcfoundation.org/UA/units/un/cefact",
                number(4408652),
                ua.LocalizedText("°C", "en"),
                ua.LocalizedText("degree Celsius"),
            ),
            {
                "NamespaceUri": "http://www.opcfoundation.org/UA/units/un/cefact",
                "UnitId": 4408652,
                "DisplayName": "°C",
                "Description": "degree Celsius",
            },
        ),
        (ua.TimeZoneDataType(number(-60), True), {"Offset": -60, "DaylightSavingInOffset": True}),
        (
            ua.Argument("x", ua.NodeId(number(11)), number(1), [number(3)], ua.LocalizedText("what")),
            {"Name": "x", "DataType": "i=11", "ValueRank": 1, "ArrayDimensions": [3], "Description": "what"},
        ),
        (
            ua.EnumValueType(number(-(2**60)), ua.LocalizedText("low")),
            {"Value": -(2**60), "DisplayName": "low", "Description": None},
        ),
        (ua.XVType(real(0.25), real(0.1)), {"X": 0.25, "Value": 0.1}),
        (ua.DoubleComplexNumberType(real(1), real(-1)), {"Real": 1.0, "Imaginary": -1.0}),
        (
            ua.AxisInformation(AxisScaleType=ua.AxisScaleEnumeration.Log, AxisSteps=[real(1), real(10)]),
            {
                "EngineeringUnits": {
                    "NamespaceUri": None,
                    "UnitId": 0,
                    "DisplayName": None,
                    "Description": None,
                },
                "EURange": {"Low": 0.0, "High": 0.0},
                "Title": None,
                "AxisScaleType": "Log",
                "AxisSteps": [1.0, 10.0],
            },
        ),
        (
            ua.ThreeDFrame(
                ua.ThreeDCartesianCoordinates(real(1), real(2), real(3)),
                ua.ThreeDOrientation(real(4), real(5), real(6)),
            ),
            {
                "CartesianCoordinates": {"X": 1.0, "Y": 2.0, "Z": 3.0},
                "Orientation": {"A": 4.0, "B": 5.0, "C": 6.0},
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_structures_of_namespace_0_are_read_as_asyncua_writes_them(value: Any, expected: object) -> None:
    encoded = b"\x16" + bytes(extensionobject_to_binary(value))
    text = StructureTypes().text_of(encoded)
    assert text is not None
    assert orjson.loads(text) == expected


def test_the_status_of_a_server_is_read_with_the_name_of_its_state() -> None:
    status = ua.ServerStatusDataType(State=ua.ServerState.Suspended, SecondsTillShutdown=number(7))
    status.BuildInfo.ProductName = "plant"
    text = StructureTypes().text_of(b"\x16" + bytes(extensionobject_to_binary(status)))
    assert text is not None
    found = orjson.loads(text)
    assert found["State"] == "Suspended"
    assert found["SecondsTillShutdown"] == 7
    assert found["BuildInfo"]["ProductName"] == "plant"


def test_optional_fields_are_there_when_their_bit_is() -> None:
    types = defined(
        StructureKind.OPTIONAL_FIELDS,
        StructureField("X", 6),
        StructureField("O1", 6, is_optional=True),
        StructureField("Y", 2),
        StructureField("O2", 6, is_optional=True),
    )
    assert read(types, struct.pack("<Iibi", 2, 1, -1, 5)) == {"X": 1, "Y": -1, "O2": 5}
    assert read(types, struct.pack("<Iib", 0, 1, -1)) == {"X": 1, "Y": -1}
    assert read(types, struct.pack("<Iiibi", 3, 1, 2, 3, 4)) == {"X": 1, "O1": 2, "Y": 3, "O2": 4}
    unassigned_bit = struct.pack("<Iib", 4, 1, -1)
    assert read(types, unassigned_bit) == opaque(unassigned_bit)


def test_a_union_is_the_field_that_is_chosen_and_empty_if_none_is() -> None:
    types = defined(StructureKind.UNION, StructureField("Number", 11), StructureField("Text", 12))
    assert read(types, struct.pack("<Id", 1, 2.5)) == {"Number": 2.5}
    assert read(types, struct.pack("<I", 2) + string(b"on")) == {"Text": "on"}
    assert read(types, struct.pack("<I", 0)) == {}
    for no_choice in (3, 2**32 - 1):
        body = struct.pack("<I", no_choice)
        assert read(types, body) == opaque(body)


def test_fields_that_may_hold_subtypes_are_whole_extension_objects_or_variants() -> None:
    types = defined(
        StructureKind.SUBTYPED_VALUES,
        StructureField("Any", STRUCTURE, "i=884", is_optional=True),
        StructureField("Number", 26 - 2, is_optional=True),
        StructureField("Fixed", 3),
    )
    body = (
        extension_object(b"\x01\x00\x76\x03", struct.pack("<dd", 1, 2))
        + b"\x06"
        + struct.pack("<i", 9)
        + b"\x07"
    )
    assert read(types, body) == {"Any": {"Low": 1.0, "High": 2.0}, "Number": 9, "Fixed": 7}


def test_arrays_matrices_nested_structures_and_enumerations_are_read() -> None:
    types = defined(
        StructureKind.PLAIN,
        StructureField("Doubles", 11, "", 1),
        StructureField("Texts", 12, "", 1),
        StructureField("Matrix", 4, "", 2),
        StructureField("Ranges", STRUCTURE, "i=884", 1),
        StructureField("State", 6, "ns=2;i=9"),
        StructureField("States", 6, "ns=2;i=9", 1),
        StructureField("None", 6, "", 1),
    )
    types.add_enumeration("ns=2;i=9", {0: "Off", 1: "On"})
    body = (
        array([struct.pack("<d", float("nan")), struct.pack("<d", 0.5)])
        + array([string(b"a"), string(None)])
        + array([struct.pack("<i", 2), struct.pack("<i", 3)])
        + struct.pack("<6h", *range(6))
        + array([struct.pack("<dd", 1, 2), struct.pack("<dd", 3, 4)])
        + struct.pack("<i", 1)
        + array([struct.pack("<i", 0), struct.pack("<i", 7)])
        + array(None)
    )
    assert read(types, body) == {
        "Doubles": ["NaN", 0.5],
        "Texts": ["a", None],
        "Matrix": [[0, 1, 2], [3, 4, 5]],
        "Ranges": [{"Low": 1.0, "High": 2.0}, {"Low": 3.0, "High": 4.0}],
        "State": "On",
        "States": ["Off", 7],
        "None": None,
    }


def test_an_array_of_structures_mixes_known_and_unknown_ones() -> None:
    known = extension_object(b"\x01\x00\x76\x03", struct.pack("<dd", 1, 2))
    unknown = extension_object(TYPE_ID, b"\x01")
    text = StructureTypes().text_of(variant(Variant(22, [known, unknown])))
    assert text is not None
    assert orjson.loads(text) == [{"Low": 1.0, "High": 2.0}, opaque(b"\x01")]


@pytest.mark.parametrize(("body", "encoding"), [(None, 1), (b"<Range/>", 2), (None, 0)])
def test_a_body_that_is_null_xml_or_absent_is_shown_as_it_is(body: bytes | None, encoding: int) -> None:
    encoded = variant(Variant(22, extension_object(b"\x01\x00\x76\x03", body, encoding)))
    assert StructureTypes().text_of(encoded) == text_of(encoded)


@pytest.mark.parametrize("size", [*range(16), 17, 100])
def test_a_body_of_another_size_than_its_definition_says_is_shown_as_it_is(size: int) -> None:
    types = defined(StructureKind.PLAIN, StructureField("Low", 11), StructureField("High", 11))
    assert read(types, bytes(size)) == opaque(bytes(size))


@pytest.mark.parametrize("count", [-2, 3, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("built_in", [1, 11, 12, 22, STRUCTURE])
def test_counts_beyond_the_body_are_not_believed(built_in: int, count: int) -> None:
    types = defined(StructureKind.PLAIN, StructureField("Many", built_in, "i=884", 1))
    body = struct.pack("<i", count) + b"\x00\x00"
    if count == -2:
        assert read(types, body[:4]) in ({"Many": None}, opaque(body[:4]))
    else:
        assert read(types, body) == opaque(body)


@pytest.mark.parametrize("dimensions", [[2**31 - 1] * 4, [-1, -6], [7, 1], [6], [1, 2, 3]])
def test_dimensions_that_do_not_hold_are_not_believed(dimensions: list[int]) -> None:
    types = defined(StructureKind.PLAIN, StructureField("Matrix", 6, "", 2))
    body = array([struct.pack("<i", each) for each in dimensions]) + bytes(24)
    assert read(types, body) == opaque(body)


def test_a_structure_that_holds_itself_without_end_is_shown_as_it_is() -> None:
    types = defined(StructureKind.PLAIN, StructureField("Again", STRUCTURE, "ns=2;i=1"))
    assert read(types, b"") == opaque(b"")


def test_structures_that_multiply_without_bytes_are_bounded() -> None:
    types = defined(StructureKind.PLAIN, StructureField("A", STRUCTURE, "ns=3;i=1"))
    for level in range(1, 30):
        fields = tuple(StructureField(name, STRUCTURE, f"ns=3;i={level + 1}") for name in "ab")
        types.add(None, StructureDefinition("Twice", StructureKind.PLAIN, fields, f"ns=3;i={level}"))
    types.add(None, StructureDefinition("None", StructureKind.PLAIN, (), "ns=3;i=30"))
    assert list(read(types, b"")) == ["Variant"]


def test_bodies_nested_in_bodies_end_at_a_depth_and_keep_the_rest_as_it_is() -> None:
    types = defined(StructureKind.PLAIN, StructureField("In", 22))
    body = extension_object(b"\x00\x00", None, 0)
    for _ in range(60):
        body = extension_object(TYPE_ID, body)
    found, depth = read(types, body), 0
    while "In" in found:
        found, depth = found["In"], depth + 1
    assert 20 < depth < 60
    assert found["TypeId"] == OURS


def test_long_names_times_many_values_are_bounded() -> None:
    types = defined(StructureKind.PLAIN, StructureField("n" * 500, 3))
    many = Variant(22, [extension_object(TYPE_ID, b"\x01")] * 200_000)
    text = types.text_of(variant(many))
    assert text is not None
    assert text.startswith('{"Variant":"')


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([StructureField("", 6)], "name of 0 characters"),
        ([StructureField("x" * 513, 6)], "name of 513"),
        ([StructureField("x", 6), StructureField("x", 7)], "two fields of one name"),
        ([StructureField("x", 26)], "built-in type 26"),
        ([StructureField("x", STRUCTURE)], "without a data type"),
        ([StructureField("x", 6, value_rank=-3)], "value rank -3"),
        ([StructureField("x", 6, value_rank=0)], "value rank 0"),
        ([StructureField("x", 6, value_rank=33)], "value rank 33"),
        ([StructureField(f"x{n}", 6) for n in range(MOST_FIELDS + 1)], "1025 fields"),
    ],
)
def test_a_definition_that_cannot_be_read_is_refused_with_the_reason(
    fields: list[StructureField], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        defined(StructureKind.PLAIN, *fields)


def test_names_that_postgresql_cannot_hold_are_mended() -> None:
    types = defined(StructureKind.PLAIN, StructureField("a\x00\ud800", 6, "ns=2;i=9"))
    types.add_enumeration("ns=2;i=9", {1: "\x00"})
    assert read(types, struct.pack("<i", 1)) == {"a\ufffd\ufffd": "\ufffd"}


ALL_TYPES = defined(
    StructureKind.OPTIONAL_FIELDS,
    *(StructureField(f"f{built_in}", built_in, is_optional=True) for built_in in range(1, 26)),
    StructureField("matrix", 12, "", 2, is_optional=True),
    StructureField("again", STRUCTURE, "ns=2;i=1", 1, is_optional=True),
)


@settings(max_examples=200, deadline=None)
@given(mask=st.integers(0, 2**27 - 1), body=st.binary(max_size=120))
def test_no_body_makes_an_error(mask: int, body: bytes) -> None:
    for encoded in (struct.pack("<I", mask) + body, body, struct.pack("<II", 1 << 26, 1) + body):
        assert isinstance(read(ALL_TYPES, encoded), dict)


@settings(max_examples=100, deadline=None)
@given(value=variants)
def test_values_without_known_structures_have_the_same_text(value: Variant) -> None:
    assert StructureTypes().text_of(variant(value)) == text_of(variant(value))


@settings(max_examples=100, deadline=None)
@given(value=variants)
def test_a_field_that_may_be_anything_is_the_value_that_stands_there(value: Variant) -> None:
    types = defined(StructureKind.PLAIN, StructureField("Any", 24))
    text = text_of(variant(Variant(24, [value])))
    assert text is not None
    assert read(types, variant(value)) == {"Any": orjson.loads(text)[0]}
