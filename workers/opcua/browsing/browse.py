"""What is on a server: every node below a start node, once each, along hierarchical references.

Owns the walk and its limits: breadth first, so that a limit leaves out what lies deepest. What is left out is counted
with its reason and is no error; a server that answers without end is one. What is read of variables is in variables.py.

Memory: a node that waits to be looked into is kept until it was, and each node's id for as long as the walk; both are
bounded by `WalkLimits.nodes` and `_TEXT_MOST_CHARACTERS`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds

from engine.catalog.node_ids import PathPart
from engine.errors import ConnectionRefused, InvalidInput
from workers.opcua.browsing.address_space import (
    HAS_PROPERTY,
    HIERARCHICAL,
    OBJECTS,
    PROPERTY_TYPE,
    ROOT,
    SERVER,
    AddressSpace,
    value_of,
)
from workers.opcua.browsing.variables import VariableFacts, read_variables, type_name
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from workers.opcua.channel import Channel

# OPC 10000-3, 8.3 and 8.2.4: no browse name and no node id is longer.
_NAME_MOST_CHARACTERS = 512
_NODE_ID_MOST_CHARACTERS = 4_096
# Of display names; no limit in the standard, but what a person can still read.
_SHOWN_MOST_CHARACTERS = 200
_PATH_MOST_CHARACTERS = 4_096
# Of all paths and string node ids that are kept: 100 000 nodes have some 10 million.
_TEXT_MOST_CHARACTERS = 64 * 1024 * 1024
# Nodes that are looked into together; their variables are read together.
_NODES_AT_ONCE = 100
# A node can be reached along several ways; this many times more references than nodes are no address space.
_REFERENCES_A_NODE = 20
_REFERENCES_SPARE = 10_000


class LeftOut(StrEnum):
    """What is on the server and not in the result, or not all of it."""

    DEEPER = "nodes of the last level were not looked into"
    TOO_MANY = "references to nodes beyond the most that were asked for"
    TOO_MANY_REFERENCES = "nodes have more references than are followed"
    ELSEWHERE = "references to other servers, or into namespaces that this one does not name"
    REFUSED = "nodes could not be browsed"
    LONG_PATH = f"references where the path would be longer than {_PATH_MOST_CHARACTERS} characters"
    SERVER_OBJECT = "object with the server's own state"
    PROPERTIES = "properties of other nodes, such as units and ranges"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkLimits:
    """How far a walk goes."""

    depth: int = 32
    """Levels below the start node."""
    nodes: int = 100_000
    references_per_node: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowsedNode:
    """One node of the walk."""

    node_id: str
    """With the namespace's index, as it is today."""
    node_id_by_uri: str
    """With the namespace's URI, which stays; the same as node_id in namespace 0 and where the server tells no URI."""
    path: str
    """Browse path from the Root node, as tags may name a node by it; from the start node where Root is not above it."""
    browse_name: str
    display_name: str
    node_class: str
    type_definition: str | None
    parent: str | None
    """node_id of the node below which it was found first; None for the start node."""
    depth: int
    is_property: bool
    variable: VariableFacts | None = None


@dataclass(slots=True)
class _Waiting:
    """A node that was found and has not been looked into."""

    id: ua.NodeId
    node: BrowsedNode


class Walk:
    """One walk over a server's address space; `left_out` says at its end what is missing and why."""

    def __init__(
        self,
        channel: Channel,
        limits: WalkLimits | None = None,
        *,
        properties: bool = False,
        values: bool = False,
    ) -> None:
        """Prepare a walk. `properties` yields property nodes, too; `values` reads the values of variables."""
        self.left_out: Counter[LeftOut] = Counter()
        self.refusals: Counter[str] = Counter()
        """Names of the StatusCodes of nodes that could not be browsed."""
        self._space = AddressSpace(channel, large_answers=True)
        self._limits = limits or WalkLimits()
        self._properties = properties
        self._values = values
        self._seen: set[ua.NodeId] = set()
        self._text_characters = 0
        self._references = 0

    async def nodes(self, start: str | None = None) -> AsyncGenerator[BrowsedNode]:
        """Yield the start node (default: Objects) and what lies below it, level by level; close it when leaving early.

        Raises InvalidInput when there is no such start, ConnectionRefused when the connection ends or the server's
        answers do not.
        """
        await self._space.prepare()
        first = await self._first(OBJECTS if start is None else await self._space.find(start))
        self._seen.add(first.id)
        queue = deque([first])
        while queue:
            batch = [queue.popleft() for _ in range(min(_NODES_AT_ONCE, len(queue)))]
            properties = await self._look_into(batch, queue)
            places = [place for place, one in enumerate(batch) if one.node.node_class == "Variable"]
            facts = await read_variables(
                self._space,
                [batch[place].id for place in places],
                [properties.get(place, {}) for place in places],
                values=self._values,
            )
            known = dict(zip(places, facts, strict=True))
            for place, one in enumerate(batch):
                yield replace(one.node, variable=known.get(place))

    async def _first(self, start: ua.NodeId) -> _Waiting:
        above = [] if start == ROOT else list(reversed(await self._space.ancestors(start)))
        asked = (AttributeIds.BrowseName, AttributeIds.DisplayName, AttributeIds.NodeClass)
        read = await self._space.read(
            [(node, AttributeIds.BrowseName) for node in above] + [(start, attribute) for attribute in asked]
        )
        name, display_name, node_class = (value_of(one) for one in read[-3:])
        if not isinstance(name, ua.QualifiedName):
            status = read[-3].StatusCode if read[-3] is not None else None
            why = status_name(status.value) if status is not None else "its name cannot be read"
            raise InvalidInput("--start", f"{self._space.address(start, by_uri=False)}: {why}")
        parts = [_part(value_of(one)) for one in read[: len(above)]]
        # Below Root a path can be used to name a node; elsewhere it only shows where a node lies.
        rooted = start == ROOT or (bool(above) and above[0] == ROOT)
        path = "".join(f"/{part}" for part in parts[1:]) if rooted else ""
        if start != ROOT:
            path += f"/{_part(name)}" if rooted else str(_part(name))
        node = self._node(
            start, path, name, display_name=display_name, node_class=node_class, type_definition=None,
            above=None, is_property=False,
        )  # fmt: skip
        return _Waiting(start, node)

    async def _look_into(
        self, batch: list[_Waiting], queue: deque[_Waiting]
    ) -> dict[int, dict[str, ua.NodeId]]:
        """Put what lies below the batch into the queue; return each variable's properties by its place in the batch."""
        properties: dict[int, dict[str, ua.NodeId]] = {}
        at_end = [one.node.depth >= self._limits.depth for one in batch]
        whole = [place for place, end in enumerate(at_end) if not end]
        # At the last level only the properties of variables are wanted.
        last = [
            place for place, end in enumerate(at_end) if end and batch[place].node.node_class == "Variable"
        ]
        self.left_out[LeftOut.DEEPER] += len(batch) - len(whole) - len(last)
        for places, reference_type in ((whole, HIERARCHICAL), (last, HAS_PROPERTY)):
            enough: set[int] = set()
            counts: Counter[int] = Counter()
            pages = self._space.pages(
                [batch[place].id for place in places], reference_type=reference_type, enough=enough
            )
            async with aclosing(pages):
                async for page in pages:
                    above = batch[places[page.place]]
                    if page.status:
                        self.left_out[LeftOut.REFUSED] += 1
                        self.refusals[status_name(page.status)] += 1
                    self._count(counts, page.place, len(page.references), enough)
                    for reference in page.references:
                        child = self._child(above, reference, queue)
                        if child is not None:
                            properties.setdefault(places[page.place], {})[child[0]] = child[1]
        return properties

    def _count(self, counts: Counter[int], place: int, references: int, enough: set[int]) -> None:
        self._references += references
        if self._references > _REFERENCES_A_NODE * self._limits.nodes + _REFERENCES_SPARE:
            raise ConnectionRefused(
                f"the server answers without end: {self._references} references led to {len(self._seen)} nodes"
            )
        counts[place] += references
        if counts[place] > self._limits.references_per_node and place not in enough:
            enough.add(place)
            self.left_out[LeftOut.TOO_MANY_REFERENCES] += 1

    def _child(
        self, above: _Waiting, reference: ua.ReferenceDescription, queue: deque[_Waiting]
    ) -> tuple[str, ua.NodeId] | None:
        """Take one reference: queue the node that it leads to; return name and id of a standard property."""
        name = reference.BrowseName
        if not reference.IsForward or not isinstance(name, ua.QualifiedName):
            return None
        node_id = self._space.here(reference.NodeId)
        if node_id is None:
            self.left_out[LeftOut.ELSEWHERE] += 1
            return None
        _check_lengths(node_id, name)
        is_property = reference.ReferenceTypeId == HAS_PROPERTY or reference.TypeDefinition == PROPERTY_TYPE
        standard = is_property and name.NamespaceIndex == 0 and above.node.node_class == "Variable"
        found = (str(name.Name), node_id) if standard else None
        if node_id in self._seen or self._is_left_out(above, node_id, is_property=is_property):
            return found
        path = f"{above.node.path}/{_part(name)}"
        if len(path) > _PATH_MOST_CHARACTERS:
            self.left_out[LeftOut.LONG_PATH] += 1
            return found
        self._seen.add(node_id)
        self._text_characters += len(path) + (
            len(node_id.Identifier) if isinstance(node_id.Identifier, str) else 0
        )
        if self._text_characters > _TEXT_MOST_CHARACTERS:
            raise ConnectionRefused(
                f"the names and node ids of {len(self._seen)} nodes have more than {_TEXT_MOST_CHARACTERS} characters"
            )
        node = self._node(
            node_id, path, name, display_name=reference.DisplayName, node_class=reference.NodeClass,
            type_definition=reference.TypeDefinition, above=above.node, is_property=is_property,
        )  # fmt: skip
        queue.append(_Waiting(node_id, node))
        return found

    def _is_left_out(self, above: _Waiting, node_id: ua.NodeId, *, is_property: bool) -> bool:
        reason = None
        if is_property and not self._properties:
            reason = LeftOut.PROPERTIES
        elif above.node.depth >= self._limits.depth:
            reason = LeftOut.DEEPER
        elif node_id == SERVER:
            reason = LeftOut.SERVER_OBJECT
        elif len(self._seen) >= self._limits.nodes:
            reason = LeftOut.TOO_MANY
        if reason is not None:
            self.left_out[reason] += 1
        return reason is not None

    def _node(
        self, node_id: ua.NodeId, path: str, name: ua.QualifiedName, *, display_name: object, node_class: object,
        type_definition: ua.NodeId | None, above: BrowsedNode | None, is_property: bool,
    ) -> BrowsedNode:  # fmt: skip
        browse_name = str(_part(name).name)
        text = display_name.Text if isinstance(display_name, ua.LocalizedText) else None
        kind = None if type_definition is None else self._space.here(type_definition)
        return BrowsedNode(
            node_id=str(self._space.address(node_id, by_uri=False)),
            node_id_by_uri=str(self._space.address(node_id, by_uri=True)),
            path=path,
            browse_name=browse_name,
            display_name=str(text or browse_name)[:_SHOWN_MOST_CHARACTERS],
            node_class=_class_name(node_class),
            type_definition=None if kind is None or kind.is_null() else type_name(self._space, kind),
            parent=None if above is None else above.node_id,
            depth=0 if above is None else above.depth + 1,
            is_property=is_property,
        )


def _check_lengths(node_id: ua.NodeId, name: ua.QualifiedName) -> None:
    if len(name.Name or "") > _NAME_MOST_CHARACTERS:
        raise ConnectionRefused(
            f"the server has a browse name of {len(name.Name)} characters, {name.Name[:40]!r}…; "
            f"at most {_NAME_MOST_CHARACTERS} are allowed"
        )
    identifier = node_id.Identifier
    if isinstance(identifier, str | bytes) and len(identifier) > _NODE_ID_MOST_CHARACTERS:
        raise ConnectionRefused(
            f"the server has a node id of {len(identifier)} characters, {identifier[:40]!r}…; "
            f"at most {_NODE_ID_MOST_CHARACTERS} are allowed"
        )


def _part(name: object) -> PathPart:
    if not isinstance(name, ua.QualifiedName):
        return PathPart("?")
    return PathPart(str(name.Name or ""), int(name.NamespaceIndex))


def _class_name(node_class: object) -> str:
    try:
        return ua.NodeClass(node_class).name if isinstance(node_class, int) else "Unspecified"
    except ValueError:
        return str(node_class)
