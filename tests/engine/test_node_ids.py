"""The notation of node ids: what each text means, that it can be written back, and what is refused."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.node_ids import NodeAddress, NodeKind, PathPart, parse_node_id
from engine.errors import InvalidInput

GUID = "09087e75-8e5e-499b-954f-f2a9603db28a"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("i=2258", NodeAddress(kind=NodeKind.NUMBER, identifier=2258)),
        ("ns=0;i=4294967295", NodeAddress(kind=NodeKind.NUMBER, identifier=4294967295)),
        (
            "ns=2;s=Well1.Pressure",
            NodeAddress(kind=NodeKind.STRING, identifier="Well1.Pressure", namespace_index=2),
        ),
        ("s=;ns=3;i=1", NodeAddress(kind=NodeKind.STRING, identifier=";ns=3;i=1")),
        ("s=a\nb", NodeAddress(kind=NodeKind.STRING, identifier="a\nb")),
        (
            f"ns=65535;g={GUID.upper()}",
            NodeAddress(kind=NodeKind.GUID, identifier=UUID(GUID), namespace_index=65535),
        ),
        ("ns=1;b=AAEC", NodeAddress(kind=NodeKind.OPAQUE, identifier=b"\0\1\2", namespace_index=1)),
        (
            "nsu=urn:plant:a%3Bb%25c;i=7",
            NodeAddress(kind=NodeKind.NUMBER, identifier=7, namespace_uri="urn:plant:a;b%c"),
        ),
        (
            "/Objects/2:Plant/2:Temp",
            NodeAddress(
                kind=NodeKind.PATH,
                browse_path=(PathPart("Objects"), PathPart("Plant", 2), PathPart("Temp", 2)),
            ),
        ),
        (
            "/2:a&/b&.c&&d&:e&[3]/x;y=z",
            NodeAddress(kind=NodeKind.PATH, browse_path=(PathPart("a/b.c&d:e[3]", 2), PathPart("x;y=z"))),
        ),
        (
            "/Objects/nsu=http:&/&/plant%25;Boiler[0]",
            NodeAddress(
                kind=NodeKind.PATH,
                browse_path=(PathPart("Objects"), PathPart("Boiler", namespace_uri="http://plant%")),
                element=(0,),
            ),
        ),
        ("ns=2;i=7[3]", NodeAddress(kind=NodeKind.NUMBER, identifier=7, namespace_index=2, element=(3,))),
        ("b=AAEC[1,2]", NodeAddress(kind=NodeKind.OPAQUE, identifier=b"\0\1\2", element=(1, 2))),
        ("/Objects/2:T[3]", NodeAddress(
            kind=NodeKind.PATH, browse_path=(PathPart("Objects"), PathPart("T", 2)), element=(3,)
        )),
    ],
)  # fmt: skip
def test_each_form_of_a_node_id_has_its_meaning(text: str, address: NodeAddress) -> None:
    assert parse_node_id(text) == address


def test_a_string_that_ends_in_an_index_is_an_element_or_a_name_with_brackets() -> None:
    address = parse_node_id('ns=3;s="DB1"."Level"[1,2]')
    assert (address.identifier, address.element) == ('"DB1"."Level"', (1, 2))
    assert address.index_range == "1,2"
    assert address.literal == '"DB1"."Level"[1,2]'


@pytest.mark.parametrize(
    "text", ["s=a[]", "s=a[03]", "s=a[x]", "s=a[-1]", "s=a[1, 2]", "s=[3]", "s=a[3]b", "s=a[³]"]
)
def test_brackets_without_an_index_are_part_of_the_name(text: str) -> None:
    address = parse_node_id(text)
    assert (address.identifier, address.element, address.literal) == (text[2:], None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a node id such as ns=2;s=Well1.Pressure"),
        ("Pressure", "is not a node id"),
        ("ns=2;s=", "is not a node id"),
        ("ns=x;i=1", "is not a node id"),
        ("ns=٣;i=1", "is not a node id"),
        ("svr=1;i=1", "is not a node id"),
        ("ns=65536;i=1", "namespace index above 65535"),
        ("i=4294967296", "no number up to 4294967295 after i="),
        ("i=-1", "no number"),
        ("g={" + GUID + "}", "no GUID after g="),
        ("b=%%", "no base64 after b="),
        ("nsu=urn:50%;i=1", "write %25 for it, and %3B for ;"),
        ("i=1[4294967296]", "an array index above 4294967295"),
        ("/", "a / without a browse name behind it"),
        ("/Objects//2:Temp", "a / without a browse name"),
        ("/Objects/2:", "has ':' in a browse name"),
        ("/Objects/70000:Temp", "namespace index above 65535"),
        ("/Objects/2:Well1.Temp", "write &. for the character itself"),
        ("/Objects/2:a:b", "write &: for"),
        ("/Objects/<HasChild>2:a", "write &< for"),
        ("/Objects/2:a&", "ends in &"),
        ("/Objects/\ue000", "private use"),
        ("s=" + "x" * 5_000, "5002 characters"),
    ],
)
def test_what_is_no_node_id_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_node_id(text, field="tags[3].opc_node_id")
    assert raised.value.field == "tags[3].opc_node_id"
    assert said in str(raised.value)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Co")), min_size=1, max_size=20)
NAMESPACES = st.one_of(
    st.fixed_dictionaries({"namespace_index": st.integers(0, 0xFFFF)}),
    st.fixed_dictionaries({"namespace_uri": NAMES}),
)
PARTS = st.builds(lambda name, namespace: PathPart(name, **namespace), NAMES, NAMESPACES)
ELEMENTS = st.none() | st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=4).map(tuple)


@given(NAMES, NAMESPACES, st.lists(PARTS, min_size=1, max_size=5).map(tuple), ELEMENTS)
def test_an_address_is_written_so_that_it_reads_the_same(
    name: str, namespace: dict[str, object], path: tuple[PathPart, ...], element: tuple[int, ...] | None
) -> None:
    for address in (
        NodeAddress(kind=NodeKind.PATH, browse_path=path, element=element),
        NodeAddress(kind=NodeKind.NUMBER, identifier=len(name), element=element, **namespace),  # type: ignore[arg-type]
        NodeAddress(kind=NodeKind.OPAQUE, identifier=name.encode(), element=element, **namespace),  # type: ignore[arg-type]
    ):
        assert parse_node_id(str(address)) == address


@given(st.text(max_size=60), st.sampled_from(["", "/", "s=", "ns=2;b=", "nsu=", "/Objects/2:", "i="]))
def test_any_text_is_an_address_or_is_refused(text: str, start: str) -> None:
    try:
        address = parse_node_id(start + text)
    except InvalidInput:
        return
    assert parse_node_id(str(address)) == address
