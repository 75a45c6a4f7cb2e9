"""What a server must be asked before its nodes can be named: namespaces, browse paths, the shape of matrices.

Owns these requests. What becomes of the answers is in nodes.Addresses. Everything is asked in batches that the
server can take, and few at a time: the event loop is shared with other tenants.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import nodeid_from_binary
from asyncua.ua.uaerrors import UaStatusCodeError

from engine.errors import ConnectionRefused, InvalidInput
from workers.opcua.monitoring.limits import TOO_MUCH_AT_ONCE, Limits, smaller
from workers.opcua.monitoring.nodes import NULL_NODE_ID, Addresses
from workers.opcua.monitoring.paths import TRANSLATE, decode_targets, encode_paths
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from engine.catalog.tag_set import TagSet
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.nodes import Places

# About 15 ms of parsing and encoding between two turns of the event loop, on a machine that is not idle.
_PATHS_PER_CALL = 200
_TEXTS_PER_TURN = 1_000
_MOST_INT32 = 0x7FFF_FFFF
# After these the session is of no use; any other refusal concerns the request.
SESSION_ENDED = frozenset({
    StatusCodes.BadSessionIdInvalid,
    StatusCodes.BadSessionClosed,
    StatusCodes.BadSessionNotActivated,
    StatusCodes.BadSecureChannelIdInvalid,
    StatusCodes.BadSecureChannelClosed,
    StatusCodes.BadShutdown,
    StatusCodes.BadServerHalted,
})  # fmt: skip


async def resolve(channel: Channel, tags: TagSet, limits: Limits | None = None) -> Addresses:
    """Return the NodeIds of the tags in this session. Raises ConnectionRefused when the connection has ended."""
    addresses = Addresses(tags, await read_namespaces(channel))
    bracketed = tags.places_of(last=b"]")
    for start in range(0, len(bracketed), _TEXTS_PER_TURN):
        addresses.choose_forms(bracketed[start : start + _TEXTS_PER_TURN])
        await asyncio.sleep(0)
    await follow_paths(channel, addresses, tags.places_of(first=b"/"), limits or Limits())
    return addresses


async def read_namespaces(channel: Channel) -> list[str]:
    """Return the server's namespace array: the place of a URI is its index."""
    with channel.translated("namespaces not read"):
        node_id = ua.NodeId(ua.Int32(ObjectIds.Server_NamespaceArray))
        read = await channel.session.read_attributes([node_id], AttributeIds.Value)
        value = read[0].Value.Value if read and read[0].Value is not None else None
    # A server that keeps it to itself still has indices; only nsu= cannot be resolved.
    return [str(uri) for uri in value] if isinstance(value, list) else []


async def follow_paths(channel: Channel, addresses: Addresses, places: Places, limits: Limits) -> None:
    """Ask the server where browse paths lead; what leads nowhere is in `addresses.status`."""
    found: dict[int, bytes] = {}
    most = smaller(_PATHS_PER_CALL, limits.nodes_per_translate)
    start = 0
    while start < len(places):
        part = places[start : start + most]
        asked, paths = _paths(addresses, part)
        targets = await _translate(channel, addresses, paths) if paths else []
        if targets is None:
            most = max(1, len(part) // 2)
            continue
        for place, target in zip(asked, targets, strict=True):
            if isinstance(target, bytes):
                found[place] = target
            else:
                addresses.status[place] = target
        start += len(part)
        await asyncio.sleep(0)
    if found:
        addresses.keep_paths(found)


def _paths(addresses: Addresses, places: Places) -> tuple[list[int], list[list[tuple[int, str]]]]:
    """Return the places whose text is a path that can be asked for, and their names with namespace indices."""
    asked: list[int] = []
    paths: list[list[tuple[int, str]]] = []
    for place in places.tolist():
        addresses.status.pop(place, None)
        try:
            parts = addresses.parsed(place).browse_path
            paths.append(
                [(addresses.namespace(part.namespace_index, part.namespace_uri), part.name) for part in parts]
            )
        except (InvalidInput, KeyError):
            continue  # `addresses.problem` says it again when asked
        asked.append(place)
    return asked, paths


async def _translate(
    channel: Channel, addresses: Addresses, paths: list[list[tuple[int, str]]]
) -> list[bytes | int] | None:
    """Return one NodeId or StatusCode a path; None when the server wants fewer at once."""
    answer = await channel.call(TRANSLATE, encode_paths(paths), doing="browse paths not followed")
    targets = decode_targets(answer, len(paths), lambda uri: addresses.namespace(0, uri))
    if isinstance(targets, list):
        return targets
    if targets in TOO_MUCH_AT_ONCE and len(paths) > 1:
        return None
    if targets in SESSION_ENDED:
        raise ConnectionRefused(f"browse paths not followed: {status_name(targets)}")
    # A server without this service: every path has this answer.
    return [targets] * len(paths)


async def pick_from_whole(
    channel: Channel, addresses: Addresses, places: Places
) -> tuple[list[int], list[int]]:
    """Let the decoder pick elements that a server does not pick; return places that it can, and those it cannot.

    In an array with one dimension it finds them at their index; reading shows whether they are there. In one with more
    it has to know the shape, and cannot where there is none, or no such element in it.
    """
    can: list[int] = []
    cannot: list[int] = []
    by_node: dict[bytes, list[int]] = {}
    for place in places.tolist():
        element = addresses.element(place) or ()
        if len(element) == 1:
            addresses.pick(place, min(element[0], _MOST_INT32))
            can.append(place)
        else:
            addresses.pick(place, None)
            by_node.setdefault(addresses.wire_of(place) or NULL_NODE_ID, []).append(place)
    for node, chosen in by_node.items():
        shape = await _shape(channel, node)
        for place in chosen:
            flat = _flat_index(addresses.element(place) or (), shape)
            addresses.pick(place, flat)
            (cannot if flat is None else can).append(place)
    return can, cannot


async def _shape(channel: Channel, node: bytes) -> tuple[int, ...]:
    """Return the dimensions of an array: its value's, or where that is too large to read, those it may have at most."""
    value = await _attribute(channel, node, AttributeIds.Value)
    if value is None:
        dimensions = await _attribute(channel, node, AttributeIds.ArrayDimensions)
        known = dimensions.Value if dimensions is not None else None
        return tuple(map(int, known)) if isinstance(known, list) else ()
    if not value.is_array or value.Value is None:
        return ()
    return tuple(value.Dimensions) if value.Dimensions else (len(value.Value),)


async def _attribute(channel: Channel, node: bytes, attribute: AttributeIds) -> ua.Variant | None:
    """Read one attribute; None where it has no value, or one that asyncua cannot take."""
    node_id = nodeid_from_binary(Buffer(node))
    try:
        with channel.translated("array not read"):
            try:
                read = await channel.session.read_attributes([node_id], attribute)
            except UaStatusCodeError as exc:
                if exc.code in SESSION_ENDED:
                    raise
                return None
    except ConnectionRefused:
        if channel.lost:
            raise
        return None
    return read[0].Value if read and len(read) == 1 else None


def _flat_index(element: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """Return the place of an element among all of its array's (row by row); None when it has none."""
    if len(shape) != len(element) or any(at >= size for at, size in zip(element, shape, strict=True)):
        return None
    flat = 0
    for at, size in zip(element, shape, strict=True):
        flat = flat * size + at
    return flat if flat <= _MOST_INT32 else None
