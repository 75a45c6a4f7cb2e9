"""Servers that browse strangely, or to hurt: a real server whose view service a test replaces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asyncua import ua
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import BadServiceUnsupported, BadTooManyOperations

from engine.errors import ConnectionRefused
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.sessions import session
from tests.workers.opcua.tenant import until
from tests.workers.opcua.test_types import known, tags
from workers.opcua.bounds import DECODED_MOST_BYTES
from workers.opcua.browsing.browse import BrowsedNode, LeftOut, Walk, WalkLimits

Answer = Callable[[ua.BrowseDescription], ua.BrowseResult]
_BROWSE_NEXT = ua.NodeId(ua.Int32(ObjectIds.BrowseNextRequest_Encoding_DefaultBinary))
ROOT, OBJECTS, ORGANIZES = (ua.NodeId(ua.Int32(number)) for number in (84, 85, 35))


class StrangePlant(Plant):
    """A plant that answers Browse and BrowseNext as a test says."""

    answer: Answer
    answer_next: Callable[[bytes], ua.BrowseResult]
    most_at_once = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.released: list[bytes] = []

    def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """Answer a Browse."""
        if len(params.NodesToBrowse) > self.most_at_once:
            raise BadTooManyOperations
        inverse = ua.BrowseDirection.Inverse
        return [
            self.answer(one) if one.BrowseDirection != inverse else ua.BrowseResult()
            for one in params.NodesToBrowse
        ]

    def browse_next(self, params: ua.BrowseNextParameters) -> list[ua.BrowseResult]:
        """Answer a BrowseNext, or take note of what is released."""
        if params.ReleaseContinuationPoints:
            self.released += params.ContinuationPoints
            return [ua.BrowseResult() for _ in params.ContinuationPoints]
        return [self.answer_next(point) for point in params.ContinuationPoints]

    async def _start(self) -> None:
        await super()._start()
        assert self._server is not None
        setattr(self._server.iserver.view_service, "browse", self.browse)  # noqa: B010


@pytest.fixture(scope="module")
def one_strange_plant() -> Iterator[StrangePlant]:
    """The server of this module."""
    plant = StrangePlant()
    yield plant
    plant.close()


@pytest.fixture
async def strange(one_strange_plant: StrangePlant, monkeypatch: pytest.MonkeyPatch) -> StrangePlant:
    """The running server; asyncua's has no BrowseNext of its own."""
    usual: Any = UaProcessor._process_message

    async def process(self: Any, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        if typeid != _BROWSE_NEXT:
            return await usual(self, typeid, requesthdr, seqhdr, body)
        response = ua.BrowseNextResponse()
        response.Parameters.Results = one_strange_plant.browse_next(
            struct_from_binary(ua.BrowseNextParameters, body)
        )
        self.send_response(requesthdr.RequestHandle, seqhdr, response)
        return True

    monkeypatch.setattr(UaProcessor, "_process_message", process)
    await one_strange_plant.start()
    one_strange_plant.most_at_once = 1_000
    one_strange_plant.released.clear()
    return one_strange_plant


def to(name: str, identifier: str | None = None, *, node_class: int = 1) -> ua.ReferenceDescription:
    """Return a reference to node ns=1;s=<identifier, or the name>."""
    return ua.ReferenceDescription(
        ReferenceTypeId=ORGANIZES,
        NodeId=ua.ExpandedNodeId(ua.String(identifier or name), ua.Int16(1)),
        BrowseName=ua.QualifiedName(name, ua.UInt16(1)),
        NodeClass=ua.NodeClass(node_class),
    )


def result(
    *references: ua.ReferenceDescription, point: bytes | None = None, status: int = 0
) -> ua.BrowseResult:
    """Return an answer about one node."""
    return ua.BrowseResult(
        StatusCode=ua.StatusCode(ua.UInt32(status)),
        ContinuationPoint=point,
        References=list(references),
    )


async def walked(plant: Plant, limits: WalkLimits | None = None) -> tuple[list[BrowsedNode], Walk]:
    """Return the nodes of a walk from Objects on, and the walk."""
    async with session(plant.endpoint) as channel:
        walk = Walk(channel, limits)
        return [node async for node in walk.nodes()], walk


async def test_nodes_that_hold_each_other_or_themselves_come_once(strange: StrangePlant) -> None:
    below = {"i=85": ["a", "b"], "ns=1;s=a": ["a", "b", "c"], "ns=1;s=b": ["a"], "ns=1;s=c": ["a", "c"]}
    strange.answer = lambda asked: result(*(to(name) for name in below[asked.NodeId.to_string()]))
    nodes, walk = await walked(strange)
    assert [node.browse_name for node in nodes] == ["Objects", "a", "b", "c"]
    assert walk.left_out.total() == 0


async def test_pages_are_followed_to_the_end(strange: StrangePlant) -> None:
    strange.answer = lambda asked: result(to("0"), point=b"0") if asked.NodeId == OBJECTS else result()

    def next_page(point: bytes) -> ua.BrowseResult:
        number = int(point) + 1
        return result(to(str(number)), point=str(number).encode() if number < 60 else None)

    strange.answer_next = next_page
    nodes, _ = await walked(strange)
    assert [node.browse_name for node in nodes[1:]] == [str(number) for number in range(61)]
    assert strange.released == []


async def test_a_server_without_pages_may_answer_with_all_at_once(strange: StrangePlant) -> None:
    everything = [to(f"{number:06}" + "x" * 60) for number in range(8_000)]
    strange.answer = lambda asked: result(*everything) if asked.NodeId == OBJECTS else result()
    nodes, walk = await walked(strange)
    assert sum(len(node.browse_name) for node in nodes) > DECODED_MOST_BYTES // 2
    assert len(nodes) == 8_001
    assert walk.left_out[LeftOut.REFUSED] == 0


async def test_pages_that_repeat_themselves_for_ever_are_an_error(strange: StrangePlant) -> None:
    page = [to(str(number)) for number in range(500)]
    strange.answer = lambda _: result(*page, point=b"more")
    strange.answer_next = lambda _: result(*page, point=b"more")
    with pytest.raises(ConnectionRefused, match=r"answers without end: \d+ references led to 501 nodes"):
        await walked(strange, WalkLimits(nodes=1_000, references_per_node=1_000_000))
    # What was promised is given back before the session ends.
    await until(lambda: strange.released == [b"more"])


async def test_pages_with_nothing_on_them_for_ever_are_an_error(strange: StrangePlant) -> None:
    strange.answer = lambda _: result(point=b"more")
    strange.answer_next = lambda _: result(point=b"more")
    with pytest.raises(ConnectionRefused, match="sent 51 empty pages"):
        await walked(strange)


async def test_more_references_than_are_followed_are_given_back(strange: StrangePlant) -> None:
    strange.answer = lambda asked: (
        result(*(to(str(number)) for number in range(20)), point=b"rest")
        if asked.NodeId == OBJECTS
        else result()
    )
    nodes, walk = await walked(strange, WalkLimits(references_per_node=10))
    assert len(nodes) == 21
    assert walk.left_out[LeftOut.TOO_MANY_REFERENCES] == 1
    assert strange.released == [b"rest"]


async def test_an_address_space_without_end_ends_at_the_limit(strange: StrangePlant) -> None:
    def grow(asked: ua.BrowseDescription) -> ua.BrowseResult:
        here = str(asked.NodeId.Identifier)
        return result(*(to(f"{here}.{number}") for number in range(10)))

    strange.answer = grow
    nodes, walk = await walked(strange, WalkLimits(nodes=200))
    assert len(nodes) == 200
    assert walk.left_out[LeftOut.TOO_MANY] > 0


async def test_a_name_that_no_standard_allows_is_an_error(strange: StrangePlant) -> None:
    strange.answer = lambda _: result(to("x" * 100_000, "a"))
    with pytest.raises(ConnectionRefused, match=r"browse name of 100000 characters, 'x{40}'…; at most 512"):
        await walked(strange)
    strange.answer = lambda _: result(to("a", "x" * 100_000))
    with pytest.raises(ConnectionRefused, match="node id of 100000 characters"):
        await walked(strange)


async def test_paths_that_grow_without_end_are_not_followed(strange: StrangePlant) -> None:
    def deeper(asked: ua.BrowseDescription) -> ua.BrowseResult:
        depth = 0 if asked.NodeId == OBJECTS else int(asked.NodeId.Identifier)
        return result(to("y" * 500, str(depth + 1)))

    strange.answer = deeper
    nodes, walk = await walked(strange, WalkLimits(depth=64))
    assert len(nodes[-1].path) <= 4_096
    assert walk.left_out[LeftOut.LONG_PATH] == 1


async def test_nodes_of_other_servers_and_unknown_namespaces_are_left_out(strange: StrangePlant) -> None:
    far, nowhere = to("far"), to("nowhere")
    far.NodeId = ua.ExpandedNodeId(ua.String("far"), ua.Int16(1), ServerIndex=ua.Int32(3))
    nowhere.NodeId = ua.ExpandedNodeId(ua.String("x"), ua.Int16(0), NamespaceUri=ua.String("urn:nowhere"))
    strange.answer = lambda asked: result(far, nowhere, to("near")) if asked.NodeId == OBJECTS else result()
    nodes, walk = await walked(strange)
    assert [node.browse_name for node in nodes] == ["Objects", "near"]
    assert walk.left_out[LeftOut.ELSEWHERE] == 2


async def test_a_server_that_takes_few_at_once_gets_few(strange: StrangePlant) -> None:
    strange.most_at_once = 2
    strange.answer = lambda asked: (
        result(*(to(str(number)) for number in range(40))) if asked.NodeId == OBJECTS else result()
    )
    nodes, walk = await walked(strange)
    assert len(nodes) == 41
    assert walk.left_out[LeftOut.REFUSED] == 0


async def test_nodes_without_a_continuation_point_are_asked_again_alone(strange: StrangePlant) -> None:
    held: set[bytes] = set()

    def one_point(asked: ua.BrowseDescription) -> ua.BrowseResult:
        here = str(asked.NodeId.Identifier)
        if asked.NodeId == OBJECTS:
            return result(to("a"), to("b"), to("c"))
        if "." in here:
            return result()
        if held:
            return result(status=StatusCodes.BadNoContinuationPoints)
        held.add(here.encode())
        return result(to(f"{here}.0"), point=here.encode())

    def last_page(point: bytes) -> ua.BrowseResult:
        held.remove(point)
        return result(to(f"{point.decode()}.1"))

    strange.answer, strange.answer_next = one_point, last_page
    nodes, walk = await walked(strange)
    names = {node.browse_name for node in nodes}
    assert names == {"Objects", "a", "b", "c", "a.0", "a.1", "b.0", "b.1", "c.0", "c.1"}
    assert walk.left_out[LeftOut.REFUSED] == 0


async def test_a_node_that_cannot_be_browsed_is_counted_with_its_reason(strange: StrangePlant) -> None:
    strange.answer = lambda asked: (
        result(to("a"), to("b"))
        if asked.NodeId == OBJECTS
        else result(status=StatusCodes.BadUserAccessDenied)
    )
    nodes, walk = await walked(strange)
    assert len(nodes) == 3
    assert walk.left_out[LeftOut.REFUSED] == 2
    assert walk.refusals == {"BadUserAccessDenied": 2}


async def test_leaving_in_the_middle_of_the_pages_gives_them_back(strange: StrangePlant) -> None:
    strange.answer = lambda asked: (
        result(*(to(str(number)) for number in range(5)))
        if asked.NodeId == OBJECTS
        else result(to(f"{asked.NodeId.Identifier}.0"), point=str(asked.NodeId.Identifier).encode())
    )

    def poison(_: bytes) -> ua.BrowseResult:
        return result(to("x" * 600), point=b"next")

    strange.answer_next = poison
    async with session(strange.endpoint) as channel:
        nodes = Walk(channel).nodes()
        with pytest.raises(ConnectionRefused, match="600 characters"):
            await _last(nodes)
        await until(lambda: strange.released == [b"next"] * 5)


async def _last(nodes: AsyncIterator[BrowsedNode]) -> None:
    async for _ in nodes:
        pass


async def test_a_server_that_refuses_to_be_browsed_costs_only_the_names(strange: StrangePlant) -> None:
    def refuse(_: ua.BrowseDescription) -> ua.BrowseResult:
        raise BadServiceUnsupported

    strange.answer = refuse
    wanted = tags(flow="ENUM")
    async with session(strange.endpoint) as channel:
        found = await known(channel, wanted)
    assert found.enum_names == {}
    assert found.problems == (
        "names of types not read: cannot browse: BadServiceUnsupported (The server does not support the requested"
        " service.)",
    )
