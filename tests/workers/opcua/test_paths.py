"""Browse paths on the wire, against asyncua's encoder and decoder."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import nodeid_to_binary, struct_from_binary, struct_to_binary

from engine.errors import MalformedMessage
from workers.opcua.monitoring.paths import decode_targets, encode_paths

WHOLE = 0xFFFF_FFFF
URIS = {"urn:plant": 3}
GUID = UUID("72962b91-fa75-4ae6-8d28-b404dc7daf63")


def answer(*results: ua.BrowsePathResult, service: int = 0) -> bytes:
    response: Any = ua.TranslateBrowsePathsToNodeIdsResponse() if not service else ua.ServiceFault()
    response.ResponseHeader.ServiceResult = ua.StatusCode(ua.UInt32(service))
    if not service:
        response.Results = list(results)
        response.DiagnosticInfos = []
    return bytes(struct_to_binary(response))


def found(*targets: tuple[ua.NodeId, int], status: int = 0) -> ua.BrowsePathResult:
    return ua.BrowsePathResult(
        ua.StatusCode(ua.UInt32(status)),
        [ua.BrowsePathTarget(node_id, ua.UInt32(remaining)) for node_id, remaining in targets],
    )


def targets(*results: ua.BrowsePathResult) -> list[bytes | int] | int:
    return decode_targets(answer(*results), len(results), URIS.__getitem__)


def test_paths_are_written_as_asyncua_reads_them() -> None:
    body = encode_paths([[(0, "Objects"), (2, "Druck €")], [(32_767, "x")]])
    buffer = Buffer(b"\x02\0\0\0" + body[4:])
    assert body[:4] == b"\x02\0\0\0"
    buffer.skip(4)
    read = [struct_from_binary(ua.BrowsePath, buffer) for _ in range(2)]
    assert len(buffer) == 0
    assert all(path.StartingNode == ua.NodeId.from_string("i=84") for path in read)
    elements = [path.RelativePath.Elements for path in read]
    assert [[(one.TargetName.NamespaceIndex, one.TargetName.Name) for one in path] for path in elements] == [
        [(0, "Objects"), (2, "Druck €")],
        [(32_767, "x")],
    ]
    assert all(
        (one.ReferenceTypeId, one.IsInverse, one.IncludeSubtypes)
        == (ua.NodeId.from_string("i=33"), False, True)
        for path in elements
        for one in path
    )


@pytest.mark.parametrize(
    "text", ["i=7", "ns=2;i=7", "ns=2;i=70000", "ns=3;s=Well 1", f"ns=1;g={GUID}", "ns=4;b=AQID", "ns=2;s="]
)
def test_a_node_id_comes_back_as_the_bytes_that_it_came_in(text: str) -> None:
    node_id = ua.NodeId.from_string(text)
    assert targets(found((node_id, WHOLE)), found((node_id, WHOLE))) == [bytes(nodeid_to_binary(node_id))] * 2


@pytest.mark.parametrize("text", ["i=7", "ns=2;i=7", "ns=2;i=70000", "ns=2;s=x", f"ns=1;g={GUID}"])
def test_a_node_id_with_a_namespace_uri_gets_that_namespace_s_index(text: str) -> None:
    plain = ua.NodeId.from_string(text)

    def named(uri: str) -> ua.ExpandedNodeId:
        return ua.ExpandedNodeId(plain.Identifier, plain.NamespaceIndex, plain.NodeIdType, ua.String(uri))

    read = targets(found((named("urn:plant"), WHOLE)), found((named("urn:gone"), WHOLE)))
    assert isinstance(read, list)
    assert isinstance(read[0], bytes)
    back = ua.ua_binary.nodeid_from_binary(Buffer(read[0]))
    assert (back.NamespaceIndex, back.Identifier) == (3, plain.Identifier)
    assert read[1] == StatusCodes.BadNoMatch


def test_only_a_node_at_the_end_of_the_path_and_on_this_server_counts() -> None:
    here, there = ua.NodeId.from_string("ns=1;i=5"), ua.NodeId.from_string("ns=1;i=6")
    elsewhere = ua.ExpandedNodeId(ua.Int32(5), ua.Int16(1), ua.NodeIdType.Numeric, None, ua.Int32(2))
    read = targets(
        found((there, 1), (elsewhere, WHOLE), (here, WHOLE), (there, WHOLE)),
        found(),
        found((there, 0)),
        found((here, WHOLE), status=StatusCodes.BadBrowseNameInvalid),
        found((here, WHOLE), status=StatusCodes.UncertainReferenceOutOfServer),
    )
    wire = bytes(nodeid_to_binary(here))
    no, bad = StatusCodes.BadNoMatch, StatusCodes.BadBrowseNameInvalid
    assert read == [wire, no, no, bad, wire]


def test_a_service_that_fails_is_one_status() -> None:
    fault = answer(service=StatusCodes.BadServiceUnsupported)
    assert decode_targets(fault, 3, URIS.__getitem__) == StatusCodes.BadServiceUnsupported


def test_another_number_of_results_or_another_answer_is_malformed() -> None:
    one = answer(found((ua.NodeId.from_string("i=7"), WHOLE)))
    with pytest.raises(MalformedMessage):
        decode_targets(one, 2, URIS.__getitem__)
    with pytest.raises(MalformedMessage):
        decode_targets(bytes(struct_to_binary(ua.ReadResponse())), 1, URIS.__getitem__)


def test_an_answer_that_ends_anywhere_early_or_lies_is_malformed_and_no_more() -> None:
    whole = answer(
        found((ua.NodeId.from_string("ns=3;s=Well"), WHOLE)), found((ua.NodeId.from_string("i=7"), WHOLE))
    )
    assert isinstance(decode_targets(whole, 2, URIS.__getitem__), list)
    # The list of diagnostics at the end is not read.
    for end in range(len(whole) - 4):
        with pytest.raises(MalformedMessage):
            decode_targets(whole[:end], 2, URIS.__getitem__)
    for at in range(24, len(whole)):
        for value in (0x00, 0x3F, 0x7F, 0x80, 0xFF):
            lie = bytearray(whole)
            lie[at] = value
            with suppress(MalformedMessage):
                decode_targets(bytes(lie), 2, URIS.__getitem__)
