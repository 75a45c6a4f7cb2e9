"""TranslateBrowsePathsToNodeIds on the wire (OPC 10000-4, 5.9.4; OPC 10000-6, annex A): paths out, NodeIds in.

Owns the bytes of this one service. asyncua makes some twenty objects of a path, at 0.15 ms or more; this takes a tenth
of that, and a connection can have many thousands of paths. What a server sends is read through a cursor that knows
where the message ends, and every step forward costs it bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from asyncua.ua.uaerrors import UaError

from engine.errors import MalformedMessage
from workers.opcua.bounds import BoundedBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TRANSLATE = 554  # TranslateBrowsePathsToNodeIdsRequest_Encoding_DefaultBinary
_RESPONSE = 557
_COUNT = struct.Struct("<i")
_UINT16 = struct.Struct("<H")
_UINT32 = struct.Struct("<I")
_ROOT_FOLDER = b"\x00\x54"  # i=84
# Of each name: HierarchicalReferences (i=33), forwards, subtypes as well; then namespace and length of the name.
_ALONG_HIERARCHY = b"\x00\x21\x00\x01"
_NAME = struct.Struct("<Hi")
# Bytes of a NodeId behind its first one; strings and opaque ones have a length (OPC 10000-6, 5.2.2.9).
_NODE_ID_BYTES = {0: 1, 1: 3, 2: 6, 4: 18}
_WITH_LENGTH = {3, 5}
_URI_FLAG, _SERVER_FLAG, _KIND_MASK = 0x80, 0x40, 0x3F
_NUMBER_KIND = 2
_LEADS_HERE = 0xFFFF_FFFF


def encode_paths(paths: Sequence[Iterable[tuple[int, str]]]) -> bytes:
    """Return the body behind the RequestHeader: paths from the Root node, each of (namespace index, name)."""
    parts = [_COUNT.pack(len(paths))]
    for path in paths:
        names = [(namespace, name.encode()) for namespace, name in path]
        parts += (_ROOT_FOLDER, _COUNT.pack(len(names)))
        for namespace, name in names:
            parts += (_ALONG_HIERARCHY, _NAME.pack(namespace, len(name)), name)
    return b"".join(parts)


def decode_targets(
    answer: bytes | memoryview, paths: int, namespace: Callable[[str], int]
) -> list[bytes | int] | int:
    """Return for each path the NodeId that it leads to or a StatusCode; one StatusCode when the service failed.

    `namespace` gives the index of a URI, or raises KeyError. Raises MalformedMessage.
    """
    whole = bytes(answer)
    buffer = BoundedBuffer(whole)
    try:
        type_id = nodeid_from_binary(buffer)
        header = struct_from_binary(ua.ResponseHeader, buffer)
        result = int(header.ServiceResult.value)
    except (UaError, struct.error, ValueError, TypeError, AttributeError) as exc:
        raise MalformedMessage(f"a response header cannot be read: {exc}", 0) from exc
    if result >= StatusCodes.Bad:
        return result
    if type_id != ua.NodeId(ua.Int32(_RESPONSE)):
        raise MalformedMessage("not the answer to browse paths", 0)
    cursor = _Cursor(whole, len(whole) - len(buffer))
    if cursor.count() != paths:
        raise MalformedMessage(f"not the {paths} results that were asked for", cursor.at)
    return [_target(cursor, namespace) for _ in range(paths)]


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises MalformedMessage beyond the end."""
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise MalformedMessage("a browse path's result ends early", self.at)
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def count(self) -> int:
        """Return a count or a length; null is 0."""
        number = int(_COUNT.unpack(self.take(_COUNT.size))[0])
        return 0 if number == -1 else number


def _target(cursor: _Cursor, namespace: Callable[[str], int]) -> bytes | int:
    """Return the first node that a path leads to: all the way, and on this server."""
    status = int(_UINT32.unpack(cursor.take(4))[0])
    found: bytes | None = None
    for _ in range(cursor.count()):
        node_id = _node_id(cursor, namespace)
        remaining = _UINT32.unpack(cursor.take(4))[0]
        if found is None and remaining == _LEADS_HERE:
            found = node_id
    if status >= StatusCodes.Bad:
        return status
    return int(StatusCodes.BadNoMatch) if found is None else found


def _node_id(cursor: _Cursor, namespace: Callable[[str], int]) -> bytes | None:
    """Return an ExpandedNodeId as a NodeId of this server; None when it is another's, or of an unknown namespace."""
    mask = cursor.take(1)[0]
    kind = mask & _KIND_MASK
    if kind in _NODE_ID_BYTES:
        rest = cursor.take(_NODE_ID_BYTES[kind])
    elif kind in _WITH_LENGTH:
        start = cursor.at
        cursor.take(2)
        cursor.take(cursor.count())
        rest = cursor.data[start : cursor.at]
    else:
        raise MalformedMessage(f"{kind} is no kind of NodeId", cursor.at - 1)
    uri = cursor.take(cursor.count()).decode("utf-8", "replace") if mask & _URI_FLAG else ""
    server = _UINT32.unpack(cursor.take(4))[0] if mask & _SERVER_FLAG else 0
    if server:
        return None
    if not uri:
        return bytes((kind,)) + rest
    try:
        index = _UINT16.pack(namespace(uri))
    except KeyError:
        return None
    if kind >= _NUMBER_KIND:
        return bytes((kind,)) + index + rest[2:]
    number = rest if kind == 0 else rest[1:]
    return bytes((_NUMBER_KIND,)) + index + number.ljust(4, b"\0")
