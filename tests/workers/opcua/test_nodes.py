"""Tags' node ids as bytes: each form against asyncua's encoder, and what is tried when brackets can mean two things."""

from __future__ import annotations

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from engine.errors import InvalidInput
from tests.workers.opcua.tenant import connection
from workers.opcua.monitoring.nodes import NO_ELEMENT, Addresses, Form

# In an array of one element it is that element, in any other there is none.
NO_SUCH = 2**31 - 1
NAMESPACES = ("http://opcfoundation.org/UA/", "urn:server", "urn:plant", "urn:a;b")


def addresses_of(*node_ids: str) -> Addresses:
    tags = connection("opc.tcp://plant", *node_ids).tags
    addresses = Addresses(tags, NAMESPACES)
    addresses.choose_forms(tags.places_of(last=b"]"))
    return addresses


def everywhere(addresses: Addresses) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.arange(len(addresses.form), dtype=np.int32)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("i=2258", "i=2258"),
        ("s=Pressure", "s=Pressure"),
        ("ns=2;i=4294967295", "ns=2;i=4294967295"),
        ("ns=65535;s=a;b=c", "ns=65535;s=a;b=c"),
        ("ns=2;s=Druck €", "ns=2;s=Druck €"),
        (
            "ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a",
            "ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a",
        ),
        ("ns=4;b=AQID", "ns=4;b=AQID"),
        ("nsu=urn:plant;s=Pressure", "ns=2;s=Pressure"),
        ("nsu=urn:plant;i=7", "ns=2;i=7"),
        (
            "nsu=urn:a%3Bb;g=09087e75-8e5e-499b-954f-f2a9603db28a",
            "ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a",
        ),
        ('ns=3;s="DB1"."Level"[3]', 'ns=3;s="DB1"."Level"[3]'),
    ],
)
def test_a_node_id_is_encoded_as_asyncua_encodes_it(text: str, meant: str) -> None:
    # Beside others, and often enough to come by both ways of encoding.
    addresses = addresses_of("i=1", text, text, "ns=1;s=x")
    node_ids, ranges, missing = addresses.wire(everywhere(addresses))
    alone, _, _ = addresses.wire(np.array([1, 2], np.int32))
    expected = ua.NodeId.from_string(meant)
    for wire in (node_ids[1], node_ids[2], *alone):
        # Numbers may be encoded in three sizes.
        if isinstance(expected.Identifier, int):
            assert wire[:3] == b"\x02" + expected.NamespaceIndex.to_bytes(2, "little")
            assert int.from_bytes(wire[3:], "little") == expected.Identifier
        else:
            assert wire == nodeid_to_binary(expected)
    assert ranges is None
    assert not missing


def test_a_thousand_texts_of_one_kind_are_what_they_are_one_by_one() -> None:
    texts = [f"nsu=urn:plant;s=tag.{number}" for number in range(1_000)]
    addresses = addresses_of(*texts)
    together, _, _ = addresses.wire(everywhere(addresses))
    assert together == [addresses.wire_of(place) for place in range(1_000)]


def test_what_has_no_node_id_is_named_with_its_reason_and_the_others_are_encoded() -> None:
    addresses = addresses_of("nsu=urn:gone;s=x", "ns=1;s=", "nonsense", "ns=1;i=4294967296", "ns=1;s=there")
    node_ids, _, missing = addresses.wire(everywhere(addresses))
    assert sorted(missing) == [0, 1, 2, 3]
    assert isinstance(missing[0], KeyError)
    assert missing[0].args == ("urn:gone",)
    assert all(isinstance(missing[place], InvalidInput) for place in (1, 2, 3))
    assert node_ids[:4] == [b"\0\0"] * 4
    assert node_ids[4] == nodeid_to_binary(ua.NodeId.from_string("ns=1;s=there"))
    assert isinstance(addresses.problem(0), KeyError)
    assert addresses.problem(4) is None


def test_a_name_that_is_too_long_is_refused() -> None:
    addresses = addresses_of("ns=1;s=" + "x" * 4_097, "ns=1;s=y")
    assert list(addresses.wire(everywhere(addresses))[2]) == [0]


def test_a_namespace_gets_the_index_that_it_has_now() -> None:
    addresses = addresses_of("nsu=urn:plant;s=x", "nsu=urn:new;s=x")
    assert addresses.wire_of(0) == nodeid_to_binary(ua.NodeId.from_string("ns=2;s=x"))
    assert addresses.wire_of(1) is None
    addresses.set_namespaces(("", "", "", "urn:plant", "urn:new"))
    assert addresses.wire_of(0) == nodeid_to_binary(ua.NodeId.from_string("ns=3;s=x"))
    assert addresses.wire_of(1) == nodeid_to_binary(ua.NodeId.from_string("ns=4;s=x"))


def test_brackets_behind_a_name_are_part_of_it_until_the_server_has_no_such_node() -> None:
    addresses = addresses_of("ns=1;s=Levels[3]", "ns=1;i=5[1,2]", "ns=1;s=Level")
    assert addresses.form.tolist() == [Form.LITERAL, Form.RANGE, Form.PLAIN]
    assert addresses.elements is not None
    assert addresses.elements.tolist() == [NO_ELEMENT, NO_SUCH, NO_ELEMENT]
    _, ranges, _ = addresses.wire(everywhere(addresses))
    assert ranges == ["", "1,2", ""]

    assert addresses.try_as_element(0)
    node_ids, ranges, _ = addresses.wire(everywhere(addresses))
    assert node_ids[0] == nodeid_to_binary(ua.NodeId.from_string("ns=1;s=Levels"))
    assert ranges == ["3", "1,2", ""]
    assert addresses.elements.tolist() == [3, NO_SUCH, NO_ELEMENT]
    assert not any(addresses.try_as_element(place) for place in range(3))

    addresses.pick(1, 5)
    assert addresses.wire(everywhere(addresses))[1] == ["3", "", ""]
    assert addresses.elements.tolist() == [3, 5, NO_ELEMENT]
    for place in range(3):
        addresses.begin_again(place)
    assert addresses.form.tolist() == [Form.LITERAL, Form.RANGE, Form.PLAIN]


def test_where_browse_paths_lead_is_kept_and_added_to() -> None:
    addresses = addresses_of("/Objects/1:A", "i=85", "/Objects/1:B[2]", "/Objects/nsu=urn:gone;C")
    assert addresses.wire_of(0) is None
    addresses.keep_paths({2: b"\x01\x01\x05\x00"})
    addresses.keep_paths({0: b"\x00\x07"})
    node_ids, ranges, missing = addresses.wire(everywhere(addresses))
    assert node_ids == [b"\x00\x07", b"\x02\x00\x00\x55\x00\x00\x00", b"\x01\x01\x05\x00", b"\0\0"]
    assert ranges == ["", "", "2", ""]
    assert missing.keys() == {3}
    assert str(missing[3]) == "'urn:gone'"
