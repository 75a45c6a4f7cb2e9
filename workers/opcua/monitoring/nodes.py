"""How a connection's tags are called on the wire of one session: NodeIds and index ranges by place.

Owns the bytes, and in which form a text with brackets is meant. Owns no request: what the notation
(engine/catalog/node_ids.py) needs from a server is asked in resolve.py. Made again for each session, as a server may
have other namespace indices after a restart.

Almost all node ids are numbers or strings, and become bytes without an object in between (well below a microsecond
each); nothing is kept of them. Of a browse path its NodeId is kept, packed; of an element its form and its index.

A text with brackets can be meant in three ways, tried in this order, each once its predecessor was refused:

    LITERAL   the brackets are part of the name, as in ns=3;s="DB1"."Level"[3]
    RANGE     an element of the array, which the server picks (IndexRange, OPC 10000-4, 7.27)
    WHOLE     an element of the array; the server sends all of it and the decoder picks
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import numpy as np

from engine._fastpath import encode_string_node_ids
from engine.catalog.node_ids import MOST_CHARACTERS, NodeAddress, NodeKind, parse_node_id
from engine.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from engine.catalog.tag_set import TagSet

    Places = NDArray[np.int32]
    Columns = dict[str, NDArray[Any]]

_Number = TypeVar("_Number", bound=np.generic)

NO_ELEMENT = -1
NULL_NODE_ID = b"\0\0"
# `ns=2;s=`, `nsu=urn:x;i=`, `i=`: what most node ids begin with, whose bytes are looked up by it.
_HEAD = re.compile(rb"(?:nsu?=[^;]+;)?[is]=")
# As many different beginnings are kept; a connection has a handful.
_MOST_HEADS = 256
_NAMESPACE_AND_LENGTH = struct.Struct("<BHi")
_LENGTH = struct.Struct("<i")
_NUMBER = struct.Struct("<BHI")
_NAMESPACE = struct.Struct("<BH")
_STRING_TYPE, _NUMBER_TYPE, _GUID_TYPE, _OPAQUE_TYPE = 3, 2, 4, 5
_MOST_UINT32 = 0xFFFF_FFFF
_MOST_INT32 = 0x7FFF_FFFF


# Why a place has no NodeId: its text is none; the server has no namespace with the URI that the KeyError holds; or the
# StatusCode with which the server answered its browse path.
Problem = InvalidInput | KeyError | int


class Form(IntEnum):
    """How the text of a place is meant; see the module's docstring."""

    PLAIN = 0
    LITERAL = 1
    RANGE = 2
    WHOLE = 3


class Addresses:
    """The NodeIds of one connection's tags in one session.

    `form` uint8[n], a Form; `elements` int32[n] for the decoder (-1: the whole value) or None where no tag is an
    element; `status` holds the server's answer for browse paths that lead nowhere, by place.
    """

    def __init__(self, tags: TagSet, namespaces: Sequence[str]) -> None:
        """Take the server's namespace array; `resolve` also follows the browse paths."""
        self.form = np.zeros(len(tags), np.uint8)
        self.elements: NDArray[np.int32] | None = None
        self.status: dict[int, int] = {}
        self._tags = tags
        self._namespaces: dict[str, int] = {}
        self._heads: dict[bytes, tuple[bool, bytes] | KeyError] = {}
        self.set_namespaces(namespaces)
        self._path_places = np.empty(0, np.int32)
        self._path_ends = np.empty(0, np.uint32)
        self._path_bytes = b""

    def set_namespaces(self, namespaces: Sequence[str]) -> None:
        """Take over the server's namespace array, as it is now."""
        self._namespaces = {uri: index for index, uri in reversed(list(enumerate(namespaces)))}
        self._heads.clear()

    def choose_forms(self, bracketed: Places) -> None:
        """Choose the first form in which texts that end in a bracket may be meant."""
        if self.elements is None and len(bracketed):
            self.elements = np.full(len(self._tags), NO_ELEMENT, np.int32)
        for place in bracketed.tolist():
            try:
                self._choose_first(place, self.parsed(place))
            except InvalidInput:
                continue  # said when it is to be sent

    def wire(self, places: Places) -> tuple[list[bytes], list[str] | None, dict[int, Problem]]:
        """Return NodeIds, index ranges (None: no place has one), and which of `places` have no NodeId, and why.

        Those get a null NodeId, which every server refuses. They are named by where they are in `places`, with a
        Problem. Raises nothing.
        """
        if (alike := self._alike(places)) is not None:
            return alike, None, {}
        texts = self._tags.encoded_node_ids(places)
        forms = self.form[places].tolist()
        node_ids: list[bytes] = []
        ranges: list[str] | None = None
        missing: dict[int, Problem] = {}
        heads = self._heads
        pack = _LENGTH.pack
        for at, whole_text in enumerate(texts):
            text = whole_text
            if forms[at] >= Form.RANGE:
                # The form was chosen because the text ends in an index.
                text, _, index = whole_text.rpartition(b"[")
                if forms[at] == Form.RANGE:
                    ranges = ranges or [""] * len(places)
                    ranges[at] = index[:-1].decode()
            start = text[: text.find(b";") + 3]
            head = heads[start] if start in heads else self._learn(start)
            if isinstance(head, KeyError):
                node_ids.append(NULL_NODE_ID)
                missing[at] = head
                continue
            if head is not None and len(text) <= MOST_CHARACTERS:
                is_string, prefix = head
                rest = text[len(start) :]
                if is_string and rest:
                    node_ids.append(prefix + pack(len(rest)) + rest)
                    continue
                if rest.isdigit() and len(rest) <= 10 and (number := int(rest)) <= _MOST_UINT32:
                    node_ids.append(prefix + number.to_bytes(4, "little"))
                    continue
            try:
                node_ids.append(self._encode(int(places[at])))
            except (InvalidInput, KeyError) as exc:
                node_ids.append(NULL_NODE_ID)
                missing[at] = self.status.get(int(places[at]), exc)
        return node_ids, ranges, missing

    def _alike(self, places: Places) -> list[bytes] | None:
        """Return the NodeIds of texts that are all strings of one namespace, as most batches are: compiled."""
        if not len(places) or self.form[places].max() > Form.LITERAL:
            return None
        texts, starts, ends = self._tags.spans(places)
        first = texts[starts[0] : ends[0]]
        start = first[: first.find(b";") + 3]
        head = self._heads.get(start) or self._learn(start)
        if not isinstance(head, tuple) or not head[0]:
            return None
        return encode_string_node_ids(texts, starts, ends, start, head[1], MOST_CHARACTERS)

    def wire_of(self, place: int) -> bytes | None:
        """Return the NodeId of one place, None where it has none in this session."""
        node_ids, _, missing = self.wire(np.array([place], np.int32))
        return None if missing else node_ids[0]

    def problem(self, place: int) -> Problem | None:
        """Return why a place has no NodeId in this session; None when it has one."""
        return self.wire(np.array([place], np.int32))[2].get(0)

    def _encode(self, place: int) -> bytes:
        """Return the NodeId. Raises InvalidInput, or KeyError with a URI that is not there."""
        if (known := self._path(place)) is not None:
            return known
        address = self.parsed(place)
        for part in address.browse_path:
            self.namespace(part.namespace_index, part.namespace_uri)
        if address.kind is NodeKind.PATH:
            raise KeyError(place)  # never asked, or answered with a status
        literal = address.literal if self.form[place] == Form.LITERAL else None
        namespace = self.namespace(address.namespace_index, address.namespace_uri)
        return _wire(namespace, literal or address.identifier)

    def _learn(self, start: bytes) -> tuple[bool, bytes] | KeyError | None:
        """Keep what NodeIds that begin like this one have in common; None when it is not one of the usual ones."""
        if not _HEAD.fullmatch(start):
            return None
        try:
            address = parse_node_id(start.decode() + "1")
        except (InvalidInput, UnicodeDecodeError):
            return None
        is_string = address.kind is NodeKind.STRING
        head: tuple[bool, bytes] | KeyError
        try:
            namespace = self.namespace(address.namespace_index, address.namespace_uri)
            head = is_string, _NAMESPACE.pack(_STRING_TYPE if is_string else _NUMBER_TYPE, namespace)
        except KeyError as exc:
            head = exc.with_traceback(None)
        if len(self._heads) < _MOST_HEADS:
            self._heads[start] = head
        return head

    def parsed(self, place: int) -> NodeAddress:
        """Return what the text of a place says. Raises InvalidInput."""
        return parse_node_id(self._tags.node_id(place))

    def namespace(self, index: int, uri: str | None) -> int:
        """Return the index of a namespace in this session. Raises KeyError with a URI that the server has not."""
        return index if uri is None else self._namespaces[uri]

    def _path(self, place: int) -> bytes | None:
        """Return the NodeId that the browse path of a place leads to, None where that is not known."""
        at = int(np.searchsorted(self._path_places, place))
        known = at < len(self._path_places) and self._path_places[at] == place
        return self._path_at(at) if known else None

    def _path_at(self, at: int) -> bytes:
        start = int(self._path_ends[at - 1]) if at else 0
        return self._path_bytes[start : int(self._path_ends[at])]

    def keep_paths(self, found: dict[int, bytes]) -> None:
        """Keep the NodeIds that browse paths lead to, beside those that are known."""
        known = {place: self._path_at(at) for at, place in enumerate(self._path_places.tolist())} | found
        places = sorted(known)
        self._path_places = np.array(places, np.int32)
        self._path_ends = np.cumsum([len(known[place]) for place in places], dtype=np.uint32)
        self._path_bytes = b"".join(known[place] for place in places)

    def remember(self) -> tuple[Columns, dict[str, Any]]:
        """Return all that a new process needs: arrays by name, and what JSON can hold."""
        columns: Columns = {
            "form": self.form,
            "path_places": self._path_places,
            "path_ends": self._path_ends,
            "path_bytes": np.frombuffer(self._path_bytes, np.uint8),
        }
        if self.elements is not None:
            columns["elements"] = self.elements
        return columns, {"namespaces": self._namespaces, "path_status": list(self.status.items())}

    def recall(self, columns: Columns, said: Mapping[str, Any]) -> None:
        """Take over what `remember` gave. Raises ValueError, TypeError and KeyError when it cannot be that."""
        count = len(self.form)
        self.form = column(columns, "form", np.uint8, count, below=len(Form))
        if "elements" in columns:
            self.elements = column(columns, "elements", np.int32, count)
        self._path_places = column(columns, "path_places", np.int32, None, below=count)
        self._path_ends = column(columns, "path_ends", np.uint32, len(self._path_places))
        self._path_bytes = column(columns, "path_bytes", np.uint8, None).tobytes()
        self.status = {int(place): int(status) for place, status in said["path_status"]}
        self._namespaces = {str(uri): int(index) for uri, index in said["namespaces"].items()}
        self._heads.clear()

    def _choose_first(self, place: int, address: NodeAddress) -> None:
        if address.element is None or self.elements is None:
            return
        if address.literal is None:
            self._choose_range(place, address.element)
        else:
            self.form[place] = Form.LITERAL
            self.elements[place] = NO_ELEMENT

    def _choose_range(self, place: int, element: tuple[int, ...]) -> None:
        assert self.elements is not None
        self.form[place] = Form.RANGE
        # The server sends an array of this one element. If it ignores the range and sends all, an array with one
        # dimension has it at its index; one with more has none at this index, so that no other is taken for it.
        self.elements[place] = min(element[0], _MOST_INT32) if len(element) == 1 else _MOST_INT32

    def try_as_element(self, place: int) -> bool:
        """Take a place's brackets for an index, as the server has no node of that name; False when they cannot be."""
        element = self.element(place) if self.form[place] == Form.LITERAL else None
        if element is None:
            return False
        self._choose_range(place, element)
        return True

    def element(self, place: int) -> tuple[int, ...] | None:
        """Return the element that a place may mean, one number a dimension."""
        return self.parsed(place).element

    def pick(self, place: int, flat: int | None) -> None:
        """Let the decoder pick the element at `flat` of the whole array; with None the array goes in as it is."""
        assert self.elements is not None
        self.form[place] = Form.WHOLE
        self.elements[place] = NO_ELEMENT if flat is None else flat

    def begin_again(self, place: int) -> None:
        """Try a place from the first form on: the server's nodes may have changed."""
        if self.form[place] != Form.PLAIN:
            self._choose_first(place, self.parsed(place))


def column(
    columns: Columns, name: str, dtype: type[_Number], count: int | None, *, below: int | None = None
) -> NDArray[_Number]:
    """Return a copy of a remembered column. Raises ValueError or KeyError when it is not what it has to be."""
    found = columns[name]
    if found.dtype != dtype or found.ndim != 1 or (count is not None and len(found) != count):
        raise ValueError(f"column {name} is {found.dtype}{list(found.shape)}")
    if below is not None and len(found) and not 0 <= int(found.min()) <= int(found.max()) < below:
        raise ValueError(f"column {name} has values that are out of range")
    return found.astype(dtype)


def _wire(namespace: int, identifier: int | str | UUID | bytes | None) -> bytes:
    """Return a NodeId in the binary encoding (OPC 10000-6, 5.2.2.9)."""
    if isinstance(identifier, int):
        return _NUMBER.pack(_NUMBER_TYPE, namespace, identifier)
    if isinstance(identifier, UUID):
        return _NAMESPACE.pack(_GUID_TYPE, namespace) + identifier.bytes_le
    opaque = isinstance(identifier, bytes)
    content = identifier if isinstance(identifier, bytes) else str(identifier).encode()
    return (
        _NAMESPACE_AND_LENGTH.pack(_OPAQUE_TYPE if opaque else _STRING_TYPE, namespace, len(content))
        + content
    )
