"""The text of values that are not plain numbers."""

from __future__ import annotations

import base64
import struct
import uuid

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Ring, decode_publish
from engine.variants import storable, text_of
from tests.engine.reference_codec import (
    Item,
    Message,
    Variant,
    data_change,
    data_value,
    encode,
    extension_object,
    string,
    variant,
)
from tests.engine.strategies import variants

GUID = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
EN = string(b"en")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Variant(12, "Öl".encode()), "Öl"),
        (Variant(12, b""), ""),
        (Variant(12, b"a\xffb\x00c"), "a\udcffb\0c"),
        (Variant(16, b"\xed\xa0\x80"), "\udced\udca0\udc80"),
        (Variant(21, b"\x03" + string(b"\xff") + string(b"\xc3")), "\udcc3"),
        (Variant(20, b"\x02\x00" + string(b"\x00")), "2:\0"),
        (Variant(16, b"<a/>"), "<a/>"),
        (Variant(15, b"\x00\x01\xff"), "AAH/"),
        (Variant(28, b"\x00\x01\xff"), "AAH/"),
        (Variant(14, GUID.bytes_le), str(GUID)),
        (Variant(17, b"\x00\x55"), "i=85"),
        (Variant(17, b"\x01\x02\x55\x00"), "ns=2;i=85"),
        (Variant(17, b"\x02\x00\x01\x55\x00\x00\x00"), "ns=256;i=85"),
        (Variant(17, b"\x03\x02\x00" + string(b"Well.1")), "ns=2;s=Well.1"),
        (Variant(17, b"\x04\x02\x00" + GUID.bytes_le), f"ns=2;g={GUID}"),
        (Variant(17, b"\x05\x02\x00" + string(b"\x01")), "ns=2;b=AQ=="),
        (Variant(18, b"\xc0\x55" + string(b"urn:x") + struct.pack("<I", 3)), "svr=3;nsu=urn:x;i=85"),
        (Variant(20, b"\x00\x00" + string(b"Name")), "Name"),
        (Variant(20, b"\x02\x00" + string(b"Name")), "2:Name"),
        (Variant(21, b"\x03" + EN + string(b"label")), "label"),
        (Variant(8, -(2**63)), "-9223372036854775808"),
        (Variant(9, 2**64 - 1), "18446744073709551615"),
        (Variant(6, [1, -2]), "[1,-2]"),
        (Variant(6, []), "[]"),
        (Variant(1, [True, False]), "[true,false]"),
        (Variant(10, [0.1, 1e30]), "[0.1,1e+30]"),
        (Variant(11, [0.1, float("nan"), float("inf"), -float("inf")]), '[0.1,"NaN","Infinity","-Infinity"]'),
        (Variant(12, [b"a", None, b'"\x00']), '["a",null,"\\"\ufffd"]'),
        (Variant(9, [2**64 - 1]), "[18446744073709551615]"),
        (Variant(13, [0, -1]), '["1601-01-01T00:00:00Z","1601-01-01T00:00:00Z"]'),
        (Variant(13, [133_444_736_000_000_005]), '["2023-11-14T22:13:20.0000005Z"]'),
        (Variant(13, [2**63 - 1]), '["9999-12-31T23:59:59.9999999Z"]'),
        (Variant(6, [1, 2, 3, 4, 5, 6], [2, 3]), "[[1,2,3],[4,5,6]]"),
        (Variant(6, [1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2]), "[[[1,2],[3,4]],[[5,6],[7,8]]]"),
        (Variant(6, [1, 2], [2]), "[1,2]"),
        (Variant(24, [Variant(0), Variant(11, 1.5), Variant(12, b"x")]), '[null,1.5,"x"]'),
        (Variant(21, [b"\x00", b"\x02" + string(b"a")]), '[null,"a"]'),
        (
            Variant(22, extension_object(b"\x01\x02\x10\x00", b"\x01\x02")),
            '{"TypeId":"ns=2;i=16","Encoding":1,"Body":"AQI="}',
        ),
        (Variant(22, extension_object(b"\x00\x00", None, 0)), '{"TypeId":"i=0","Encoding":0,"Body":null}'),
        (Variant(22, extension_object(b"\x00\x05", b"<a/>", 2)), '{"TypeId":"i=5","Encoding":2,"Body":"<a/>"}'),
        (
            Variant(23, data_value(Item(0, Variant(6, 5), 1, 0, 2, 133_444_736_000_000_000, 3))),
            '{"Value":5,"Status":1,"SourceTimestamp":"1601-01-01T00:00:00Z","SourcePicoseconds":2,'
            '"ServerTimestamp":"2023-11-14T22:13:20Z","ServerPicoseconds":3}',
        ),
        (
            Variant(25, b"\x7f" + struct.pack("<iiii", 1, 2, 3, 4) + string(b"i") + struct.pack("<I", 9) + b"\x00"),
            '{"SymbolicId":1,"NamespaceUri":2,"Locale":3,"LocalizedText":4,"AdditionalInfo":"i",'
            '"InnerStatusCode":9,"InnerDiagnosticInfo":{}}',
        ),
    ],
)  # fmt: skip
def test_each_type_has_its_text(value: Variant, text: str) -> None:
    assert text_of(variant(value)) == text


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x00",
        variant(Variant(12)),
        variant(Variant(15)),
        variant(Variant(21, b"\x01" + EN)),
        b"\x8b\xff\xff\xff\xff",
        b"\xcb\xff\xff\xff\xff\x00\x00\x00\x00",
    ],
)
def test_a_null_has_no_text(encoded: bytes) -> None:
    assert text_of(encoded) is None


@settings(max_examples=100, deadline=None)
@given(value=variants)
def test_any_value_has_a_text_and_json_is_one_that_postgresql_accepts(value: Variant) -> None:
    text = text_of(variant(value))
    if text is None:
        return
    if isinstance(value.value, list) or value.built_in in (22, 23, 25):
        assert "\0" not in text
        assert text.encode().decode() == text
        orjson.loads(text)
    else:
        text.encode("utf-8", "surrogateescape")


@given(sent=st.binary(max_size=40))
def test_the_text_of_a_string_is_every_byte_that_was_sent(sent: bytes) -> None:
    for built_in in (12, 16):
        text = text_of(variant(Variant(built_in, sent)))
        assert (text or "").encode("utf-8", "surrogateescape") == sent


@given(text=st.text(st.characters(categories=["Cs", "L", "Cc"])))
def test_a_storable_text_differs_only_where_it_must(text: str) -> None:
    changed = storable(text)
    assert len(changed) == len(text)
    assert all(
        a == b or (b == "\ufffd" and (a == "\0" or "\ud800" <= a <= "\udfff"))
        for a, b in zip(text, changed, strict=True)
    )


MANY = Variant(22, [extension_object(b"\x00\x00", None, 0)] * 100_000)


def test_values_of_too_many_parts_keep_their_bytes() -> None:
    encoded = variant(Variant(24, [MANY, MANY, MANY]))
    assert orjson.loads(text_of(encoded) or "") == {"Variant": base64.b64encode(encoded).decode()}
    # A bound for each value, outside of a message.
    for _ in range(3):
        assert (text_of(variant(MANY)) or "").startswith('[{"TypeId":"i=0"')


def test_the_values_of_one_message_share_the_bound_and_plain_texts_do_not_count() -> None:
    encoded = encode(Message([data_change([Item(0, MANY)] * 3 + [Item(0, Variant(12, b"text"))])]))
    for _ in range(2):
        ring = Ring(10)
        decode_publish(encoded, ring, np.zeros(1, np.uint32), 0)
        texts = ring.drain(4).texts
        assert [text[:12] for text in texts.values()] == [
            '[{"TypeId":"',
            '[{"TypeId":"',
            '{"Variant":"',
            "text",
        ]


def test_a_long_array_of_numbers_is_written_whole() -> None:
    assert len(orjson.loads(text_of(variant(Variant(5, [7] * 300_000))) or "")) == 300_000
