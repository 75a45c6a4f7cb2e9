"""Node ids as people write them."""

from __future__ import annotations

import uuid

import pytest

from engine.errors import InvalidInput
from workers.opcua.subscribe import parse_node_id


@pytest.mark.parametrize(
    ("text", "namespace", "identifier"),
    [
        ("i=2258", 0, 2258),
        ("ns=2;i=4294967295", 2, 4294967295),
        ("ns=2;s=Well1.Pressure", 2, "Well1.Pressure"),
        ("ns=65535;s=a;b=c", 65535, "a;b=c"),
        ("ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a", 3, uuid.UUID("09087e75-8e5e-499b-954f-f2a9603db28a")),
        ("ns=4;b=AQID", 4, b"\x01\x02\x03"),
    ],
)
def test_a_node_id_is_read(text: str, namespace: int, identifier: object) -> None:
    node_id = parse_node_id(text)
    assert (node_id.NamespaceIndex, node_id.Identifier) == (namespace, identifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Well1.Pressure",
        "ns=2",
        "ns=2;s=",
        "ns=x;i=1",
        "ns=-1;i=1",
        "ns=65536;i=1",
        "i=-1",
        "i=4294967296",
        "ns=1;g=nonsense",
        "nsu=urn:plant;s=Pressure",
        "svr=1;i=1",
        "ns=1;s=" + "x" * 4_097,
    ],
)
def test_what_is_no_node_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_node_id(text)
    assert caught.value.field == "node id"
