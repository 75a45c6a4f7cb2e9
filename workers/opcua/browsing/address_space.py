"""Questions about a server's address space, asked in batches: Read, Browse with continuation points, types of types.

Owns how large a batch may be (the server's operation limits, halved when it still says "too many"), how references
are fetched page by page, and what a namespace index and a data type mean. Owns no walk: that is browse.py.

Invariants: an answer that cannot be read costs only the node that it is about; a continuation point that is not
followed to its end is released; what one call holds is at most one batch of pages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import Primitives, nodeid_from_binary, struct_from_binary, struct_to_binary
from asyncua.ua.uaerrors import UaStatusCodeError

from engine.catalog.node_ids import NodeAddress, NodeKind, parse_node_id
from engine.errors import ConnectionRefused, InvalidInput
from workers.opcua.bounds import BoundedBuffer
from workers.opcua.channel import heed_cancellation
from workers.opcua.monitoring.limits import TOO_MUCH_AT_ONCE, read_limits, smaller
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.limits import Limits

ROOT = ua.NodeId(ua.Int32(ObjectIds.RootFolder))
OBJECTS = ua.NodeId(ua.Int32(ObjectIds.ObjectsFolder))
NAMESPACES = ua.NodeId(ua.Int32(ObjectIds.Server_NamespaceArray))
SERVER = ua.NodeId(ua.Int32(ObjectIds.Server))
HIERARCHICAL = ua.NodeId(ua.Int32(ObjectIds.HierarchicalReferences))
HAS_PROPERTY = ua.NodeId(ua.Int32(ObjectIds.HasProperty))
HAS_SUBTYPE = ua.NodeId(ua.Int32(ObjectIds.HasSubtype))
PROPERTY_TYPE = ua.NodeId(ua.Int32(ObjectIds.PropertyType))

# Our own bounds for one request, whatever a server allows. A reference has some 100 to 400 bytes, and an answer may
# have a megabyte (bounds.DECODED_MOST_BYTES); a server that fills more is asked again for each node alone.
_NODES_PER_BROWSE = 50
_REFERENCES_PER_ANSWER = 2_500
_REFERENCES_PER_PAGE = 1_000
_NODES_PER_READ = 500
# A server may answer a page late and so empty (OPC 10000-4, 5.9.3); this many in a row are no answer any more.
_EMPTY_PAGES_MOST = 50
# Deeper than any real hierarchy of types or folders: ends a circle.
_ANCESTORS_MOST = 64
_NAMESPACES_MOST = 65_536
_RESULT_MASK_ALL = 63
_BROWSE_REQUEST = 527
_BROWSE_RESPONSE = ua.NodeId(ua.Int32(530))
# asyncua declares its Boolean as a class that nothing belongs to.
_YES: Any = True
_NO: Any = False
# Built-in types and the abstract ones above them (OPC 10000-6, table 1; 10000-5, 12.2), and our word for each.
_OUR_TYPES = {
    1: "BOOLEAN", 2: "INT", 3: "UINT", 4: "INT", 5: "UINT", 6: "INT", 7: "UINT", 8: "LONG", 9: "ULONG",
    10: "FLOAT", 11: "DOUBLE", 12: "STRING", 13: "DATETIME", 14: "STRING", 15: "STRING", 16: "STRING",
    17: "STRING", 18: "STRING", 19: "UINT", 20: "STRING", 21: "STRING", 22: "STRUCT", 23: "STRUCT",
    25: "STRUCT", 26: "DOUBLE", 27: "LONG", 28: "ULONG", 29: "ENUM",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the references of the node at `place` in what was asked; `status` says why there are no more."""

    place: int
    references: list[ua.ReferenceDescription]
    status: int = 0


class _TooMuch(Exception):
    """An answer that has to be asked for in smaller parts; `said_by_server`: it takes no more than that, ever."""

    def __init__(self, *, said_by_server: bool) -> None:
        super().__init__()
        self.said_by_server = said_by_server


class AddressSpace:
    """Asks one server, over one channel. `prepare` first."""

    def __init__(self, channel: Channel, *, large_answers: bool = False) -> None:
        """`large_answers` reads references up to opcua.max_message_bytes at once, which can hold the loop for seconds.

        Some servers have no pages: they answer with all that a folder has.
        """
        self._channel = channel
        self._large_answers = large_answers
        self.namespaces: tuple[str, ...] = ()
        """URIs by index; what the server says today."""
        self._per_read = _NODES_PER_READ
        self._per_browse = _NODES_PER_BROWSE
        self._supertypes: dict[ua.NodeId, ua.NodeId | None] = {}

    async def prepare(self, limits: Limits | None = None) -> None:
        """Read the namespaces, and what the server can take unless that is known. Raises ConnectionRefused."""
        limits = limits or await read_limits(self._channel)
        self._per_read = smaller(_NODES_PER_READ, limits.nodes_per_read)
        self._per_browse = smaller(_NODES_PER_BROWSE, limits.nodes_per_browse)
        (read,) = await self.read([(NAMESPACES, AttributeIds.Value)])
        uris = value_of(read)
        if isinstance(uris, list):
            self.namespaces = tuple(str(uri or "") for uri in uris[:_NAMESPACES_MOST])

    async def read(self, wanted: Sequence[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue | None]:
        """Read attributes; None where the server's answer about one cannot be read. Raises ConnectionRefused."""
        results: list[ua.DataValue | None] = []
        waiting = [wanted] if wanted else []
        while waiting:
            part = waiting.pop()
            most = self._per_read
            if len(part) > most:
                waiting += [part[most:], part[:most]]
                continue
            try:
                results += await self._read_part(part)
            except _TooMuch as exc:
                if len(part) == 1:
                    results.append(None)
                    continue
                half = len(part) // 2
                if exc.said_by_server:
                    self._per_read = half
                waiting += [part[half:], part[:half]]
        return results

    async def _read_part(self, part: Sequence[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue | None]:
        """Read one batch. Raises _TooMuch."""
        request = ua.ReadParameters(
            MaxAge=0.0,
            TimestampsToReturn=ua.TimestampsToReturn.Neither,
            NodesToRead=[
                ua.ReadValueId(NodeId=node_id, AttributeId=attribute) for node_id, attribute in part
            ],
        )
        results = await self._ask("cannot read", self._channel.session.read(request))
        if len(results) != len(part):
            raise ConnectionRefused(
                f"cannot read: the server answered {len(results)} of {len(part)} attributes"
            )
        return results

    async def _ask(self, doing: str, question: Any) -> list[Any]:
        """Return the results of a service call. Raises _TooMuch when it has to be asked in smaller parts."""
        try:
            with self._channel.translated(doing):
                try:
                    return list(await question or ())
                except UaStatusCodeError as exc:
                    if exc.code in TOO_MUCH_AT_ONCE:
                        raise _TooMuch(said_by_server=True) from exc
                    raise
        except ConnectionRefused as exc:
            if self._channel.lost or isinstance(exc.__cause__, UaStatusCodeError | OSError):
                raise
            # One value that asyncua cannot make sense of spoils the whole answer, and one that is too large: the
            # others are fine by themselves.
            raise _TooMuch(said_by_server=False) from exc
        finally:
            heed_cancellation()

    async def pages(
        self,
        nodes: Sequence[ua.NodeId],
        *,
        reference_type: ua.NodeId = HIERARCHICAL,
        inverse: bool = False,
        enough: set[int] | None = None,
    ) -> AsyncGenerator[Page]:
        """Yield the references of the nodes page by page; whoever reads adds a place to `enough` to get no more of it.

        A node that cannot be browsed has one page with a status. Close the generator when leaving early: that releases
        the continuation points. Raises ConnectionRefused, also when a server's pages never end.
        """
        enough = set() if enough is None else enough
        waiting = deque(enumerate(nodes))
        # Nodes that the server had no continuation point left for, or whose answer could not be read together, are
        # asked again one by one.
        alone: deque[tuple[int, ua.NodeId]] = deque()
        while waiting or alone:
            if waiting:
                part = [waiting.popleft() for _ in range(min(self._per_browse, len(waiting)))]
            else:
                part = [alone.popleft()]
            try:
                results = await self._browse_part([node for _, node in part], reference_type, inverse=inverse)
            except _TooMuch as exc:
                if len(part) == 1:
                    yield Page(part[0][0], [], StatusCodes.BadDecodingError)
                elif exc.said_by_server:
                    self._per_browse = len(part) // 2
                    waiting.extendleft(reversed(part))
                else:
                    alone.extend(part)
                continue
            # All of them first: whoever leaves in the middle of the pages still has every point released.
            open_points = {
                place: result.ContinuationPoint
                for (place, _), result in zip(part, results, strict=True)
                if result.ContinuationPoint
            }
            try:
                for (place, node), result in zip(part, results, strict=True):
                    if result.StatusCode.value == StatusCodes.BadNoContinuationPoints and len(part) > 1:
                        alone.append((place, node))
                    else:
                        yield _page(place, result)
                async for page in self._next_pages(open_points, enough):
                    yield page
            finally:
                await self._release(list(open_points.values()))

    async def _next_pages(self, open_points: dict[int, bytes], enough: set[int]) -> AsyncGenerator[Page]:
        """Follow continuation points until none is left that anybody wants; those left stay in `open_points`."""
        empty = dict.fromkeys(open_points, 0)
        while wanted := [place for place in open_points if place not in enough][: self._per_browse]:
            request = ua.BrowseNextParameters(
                ReleaseContinuationPoints=False,
                ContinuationPoints=[open_points.pop(place) for place in wanted],
            )
            with self._channel.translated("cannot browse on"):
                results = await self._channel.session.browse_next(request)
            if len(results or ()) != len(wanted):
                raise ConnectionRefused(
                    f"cannot browse on: {len(results or ())} answers to {len(wanted)} questions"
                )
            open_points |= {
                place: result.ContinuationPoint
                for place, result in zip(wanted, results, strict=True)
                if result.ContinuationPoint
            }
            for place, result in zip(wanted, results, strict=True):
                empty[place] = 0 if result.References else empty[place] + 1
                if empty[place] > _EMPTY_PAGES_MOST:
                    raise ConnectionRefused(
                        f"cannot browse on: the server promised more references and sent {empty[place]} empty pages"
                    )
                yield _page(place, result)

    async def _browse_part(
        self, nodes: Sequence[ua.NodeId], reference_type: ua.NodeId, *, inverse: bool
    ) -> list[ua.BrowseResult]:
        request = ua.BrowseParameters(
            RequestedMaxReferencesPerNode=min(_REFERENCES_PER_PAGE, _REFERENCES_PER_ANSWER // len(nodes)),
            NodesToBrowse=[
                ua.BrowseDescription(
                    NodeId=node,
                    BrowseDirection=ua.BrowseDirection.Inverse if inverse else ua.BrowseDirection.Forward,
                    ReferenceTypeId=reference_type,
                    IncludeSubtypes=True,
                    NodeClassMask=0,
                    ResultMask=_RESULT_MASK_ALL,
                )
                for node in nodes
            ],
        )
        if self._large_answers and len(nodes) == 1:
            question: Any = self._browse_large(request)
        else:
            question = self._channel.session.browse(request)
        results = await self._ask("cannot browse", question)
        if len(results) != len(nodes):
            raise ConnectionRefused(
                f"cannot browse: the server answered {len(results)} of {len(nodes)} nodes"
            )
        return results

    async def _browse_large(self, request: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """Ask about one node, and take an answer of any size that a message may have."""
        answer = await self._channel.call(_BROWSE_REQUEST, struct_to_binary(request), doing="cannot browse")
        buffer = BoundedBuffer(bytes(answer))
        is_answer = nodeid_from_binary(buffer) == _BROWSE_RESPONSE
        struct_from_binary(ua.ResponseHeader, buffer).ServiceResult.check()
        count = Primitives.Int32.unpack(buffer) if is_answer else 0
        return [struct_from_binary(ua.BrowseResult, buffer) for _ in range(min(count, 1))]

    async def _release(self, points: list[bytes]) -> None:
        if not points or self._channel.lost:
            return
        for start in range(0, len(points), self._per_browse):
            request = ua.BrowseNextParameters(
                ReleaseContinuationPoints=True, ContinuationPoints=points[start : start + self._per_browse]
            )
            # Whatever the server answers: it forgets them with the session at the latest.
            with suppress(ConnectionRefused), self._channel.translated("continuation points not released"):
                await self._channel.session.browse_next(request)

    async def references(
        self,
        nodes: Sequence[ua.NodeId],
        *,
        reference_type: ua.NodeId,
        inverse: bool = False,
        most: int = 1_000,
    ) -> list[list[ua.ReferenceDescription]]:
        """Return at most `most` references of each node; none for a node that cannot be browsed."""
        found: list[list[ua.ReferenceDescription]] = [[] for _ in nodes]
        enough: set[int] = set()
        async for page in self.pages(nodes, reference_type=reference_type, inverse=inverse, enough=enough):
            found[page.place] += page.references[: most - len(found[page.place])]
            if len(found[page.place]) >= most:
                enough.add(page.place)
        return found

    def here(self, node_id: ua.NodeId) -> ua.NodeId | None:
        """Return a node id of a reference as one of this server; None for another server's or an unknown namespace."""
        if not isinstance(node_id, ua.ExpandedNodeId):
            return node_id
        if node_id.ServerIndex:
            return None
        index = node_id.NamespaceIndex
        if node_id.NamespaceUri:
            if node_id.NamespaceUri not in self.namespaces:
                return None
            index = ua.Int16(self.namespaces.index(node_id.NamespaceUri))
        return ua.NodeId(node_id.Identifier, index)

    def address(self, node_id: ua.NodeId, *, by_uri: bool) -> NodeAddress:
        """Return a node id as tags write it; `by_uri` with the namespace's URI, where the server tells it."""
        index = int(node_id.NamespaceIndex)
        kind = {int: NodeKind.NUMBER, str: NodeKind.STRING, bytes: NodeKind.OPAQUE}
        identifier: Any = node_id.Identifier
        known = by_uri and 0 < index < len(self.namespaces) and self.namespaces[index]
        return NodeAddress(
            kind=next((kind[cls] for cls in kind if isinstance(identifier, cls)), NodeKind.GUID),
            identifier=identifier,
            namespace_index=index,
            namespace_uri=self.namespaces[index] if known else None,
        )

    async def find(self, text: str) -> ua.NodeId:
        """Return the node that a text in the notation of tags names. Raises InvalidInput, ConnectionRefused."""
        address = parse_node_id(text, field="--start")
        if address.kind is NodeKind.PATH:
            return await self._find_path(text, address)
        index = self._index(text, address.namespace_index, address.namespace_uri)
        identifier: Any = address.identifier if address.literal is None else address.literal
        return ua.NodeId(identifier, ua.Int16(index))

    def _index(self, text: str, index: int, uri: str | None) -> int:
        if uri is None:
            return index
        if uri not in self.namespaces:
            known = ", ".join(one for one in self.namespaces if one) or "none"
            raise InvalidInput("--start", f"{text!r}: the server has no namespace {uri!r}; it has {known}")
        return self.namespaces.index(uri)

    async def _find_path(self, text: str, address: NodeAddress) -> ua.NodeId:
        elements = [
            ua.RelativePathElement(
                ReferenceTypeId=HIERARCHICAL,
                IsInverse=_NO,
                IncludeSubtypes=_YES,
                TargetName=ua.QualifiedName(
                    part.name, ua.UInt16(self._index(text, part.namespace_index, part.namespace_uri))
                ),
            )
            for part in address.browse_path
        ]
        path = ua.BrowsePath(StartingNode=ROOT, RelativePath=ua.RelativePath(Elements=elements))
        with self._channel.translated("cannot find the start"):
            results = await self._channel.session.translate_browsepaths_to_nodeids([path])
            targets = results[0].Targets if results and results[0].StatusCode.is_good() else []
            found = self.here(targets[0].TargetId) if targets else None
        if found is None:
            why = status_name(results[0].StatusCode.value) if results else "no answer"
            raise InvalidInput("--start", f"{text!r}: the server knows no such node ({why})")
        return found

    async def ancestors(self, node: ua.NodeId) -> list[ua.NodeId]:
        """Return the nodes above a node, nearest first, along the first hierarchical reference of each."""
        found: list[ua.NodeId] = []
        while node != ROOT and len(found) < _ANCESTORS_MOST:
            (above,) = await self.references([node], reference_type=HIERARCHICAL, inverse=True, most=1)
            parent = self.here(above[0].NodeId) if above else None
            if parent is None or parent in found:
                break
            found.append(parent)
            node = parent
        return found

    async def our_types(self, data_types: Iterable[ua.NodeId]) -> dict[ua.NodeId, str | None]:
        """Return our word (DOUBLE, ENUM, STRUCT, ...) for each data type; None for one that can be anything."""
        standard = await self.standard_types(data_types)
        return {one: None if number is None else _OUR_TYPES.get(number) for one, number in standard.items()}

    async def standard_types(self, data_types: Iterable[ua.NodeId]) -> dict[ua.NodeId, int | None]:
        """Return the number below 30 in namespace 0 of the nearest supertype, or of the type itself; None without one.

        Types are looked up by their supertypes, each type once for as long as this object lives.
        """
        wanted = set(data_types)
        unknown = {one for one in wanted if _built_in(one) is None and one not in self._supertypes}
        for _ in range(_ANCESTORS_MOST):
            if not unknown:
                break
            asked = list(unknown)
            found = await self.references(asked, reference_type=HAS_SUBTYPE, inverse=True, most=1)
            for data_type, above in zip(asked, found, strict=True):
                self._supertypes[data_type] = self.here(above[0].NodeId) if above else None
            parents = {self._supertypes[one] for one in asked}
            unknown = {
                one for one in parents
                if one is not None and _built_in(one) is None and one not in self._supertypes
            }  # fmt: skip
        return {one: self._standard_type(one) for one in wanted}

    def _standard_type(self, data_type: ua.NodeId) -> int | None:
        node: ua.NodeId | None = data_type
        for _ in range(_ANCESTORS_MOST):
            if node is None:
                return None
            number = _built_in(node)
            if number is not None:
                return number
            node = self._supertypes.get(node)
        return None


def value_of(read: ua.DataValue | None) -> Any:
    """Return the value of a read attribute; None when it has none or its status is Bad."""
    if read is None or read.Value is None or (read.StatusCode is not None and read.StatusCode.is_bad()):
        return None
    return read.Value.Value


def _built_in(node_id: ua.NodeId) -> int | None:
    """Return the number of a type that is known without asking."""
    number = node_id.Identifier
    return number if node_id.NamespaceIndex == 0 and isinstance(number, int) and 0 < number < 30 else None


def _page(place: int, result: ua.BrowseResult) -> Page:
    references = list(result.References or ())
    return Page(place, references, 0 if result.StatusCode.is_good() else result.StatusCode.value)
