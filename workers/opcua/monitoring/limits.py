"""What an OPC UA server says it can take: its operation limits and capabilities (OPC 10000-5, 6.3.11 and 6.3.2).

Owns the reading of these nodes, once a session. Owns no decision: what is sent in one request is decided where it is
sent. A node that is missing, cannot be read or holds 0 is no limit: many servers say nothing, and some that do say
nothing refuse all the same; then the request is halved.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.opcua.channel import Channel

# The server wants less at once: the same request in halves is what it may take.
TOO_MUCH_AT_ONCE = frozenset({
    StatusCodes.BadTooManyOperations,
    StatusCodes.BadEncodingLimitsExceeded,
    StatusCodes.BadRequestTooLarge,
    StatusCodes.BadResponseTooLarge,
    StatusCodes.BadTcpMessageTooLarge,
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that a server announces; None where it announces none."""

    nodes_per_read: int | None = None
    nodes_per_browse: int | None = None
    nodes_per_translate: int | None = None
    nodes_per_history_read: int | None = None
    items_per_call: int | None = None
    items_per_subscription: int | None = None
    subscriptions_per_session: int | None = None


_NODES = {
    "nodes_per_read": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    "nodes_per_browse": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    "nodes_per_translate": (
        ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds
    ),
    "nodes_per_history_read": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
    "items_per_call": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
    "items_per_subscription": ObjectIds.Server_ServerCapabilities_MaxMonitoredItemsPerSubscription,
    "subscriptions_per_session": ObjectIds.Server_ServerCapabilities_MaxSubscriptionsPerSession,
}
_MOST_UINT32 = 0xFFFF_FFFF


async def read_limits(channel: Channel) -> Limits:
    """Return what the server announces. Raises ConnectionRefused only when the connection has ended."""
    names = [field.name for field in fields(Limits)]
    node_ids = [ua.NodeId(ua.Int32(_NODES[name])) for name in names]
    values = await _values(channel, node_ids)
    if values is None:
        # It takes fewer in one read than these: ask for one at a time.
        values = []
        for node_id in node_ids:
            values += await _values(channel, [node_id]) or [None]
    return Limits(**{name: _count(value) for name, value in zip(names, values, strict=True)})


def smaller(most: int, limit: int | None) -> int:
    """Return the smaller of our own bound and an announced one; at least 1."""
    return max(1, most if limit is None else min(most, limit))


async def _values(channel: Channel, node_ids: Sequence[ua.NodeId]) -> list[object] | None:
    """Return the nodes' values, None for one that has none; None in all when the server wants fewer at once."""
    with channel.translated("operation limits not read"):
        try:
            read = await channel.session.read_attributes(list(node_ids), AttributeIds.Value)
        except UaStatusCodeError as exc:
            return None if exc.code in TOO_MUCH_AT_ONCE and len(node_ids) > 1 else [None] * len(node_ids)
    values = [None if value.Value is None else value.Value.Value for value in read or ()]
    return values if len(values) == len(node_ids) else [None] * len(node_ids)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= _MOST_UINT32 else None
