"""The subscriptions of a connection: creating them, and what the server revised.

Owns the request. Which subscriptions there are, and what is monitored in them, is decided in items.py.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from engine.errors import ConnectionRefused, InvalidInput
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.catalog.tag_set import TagSet
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel

# Part 3, 8.2.4: longer names than this are no node ids.
_NAME_MOST_CHARACTERS = 4_096
_NODE_ID = re.compile(r"(?:ns=[0-9]{1,6};)?(?:i=[0-9]{1,11}|[sgb]=.+)", re.DOTALL)
_TOO_MANY_AT_ONCE = frozenset({
    StatusCodes.BadTooManyOperations,
    StatusCodes.BadEncodingLimitsExceeded,
    StatusCodes.BadRequestTooLarge,
    StatusCodes.BadResponseTooLarge,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the server made of the subscription that we asked for."""

    subscription_id: int
    publishing_interval_s: float
    keep_alive_s: float
    lifetime_s: float
    wanted_interval_ms: float = 0.0
    """The publishing interval that was asked for: tags with the same one share a subscription."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tag that is not monitored, and why."""

    node_id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node_id}: {self.reason}"


async def create_subscription(
    channel: Channel, settings: OpcuaSettings, most_rows: int, interval_ms: float | None = None
) -> Subscription:
    """Create a subscription; no message shall carry more than `most_rows` values. Raises ConnectionRefused."""
    made = await try_subscription(channel, settings, most_rows, interval_ms)
    if isinstance(made, Subscription):
        return made
    raise ConnectionRefused(f"no subscription: {status_name(made)}")


async def try_subscription(
    channel: Channel, settings: OpcuaSettings, most_rows: int, interval_ms: float | None = None
) -> Subscription | int:
    """Create a subscription, or return the StatusCode with which the server refuses it.

    Raises ConnectionRefused when there is no answer, or none that can be read.
    """
    wanted_ms = settings.publishing_interval_ms if interval_ms is None else interval_ms
    request = ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=wanted_ms,
        # Part 4, 5.14.2: the lifetime is at least three times the keep-alive count.
        RequestedLifetimeCount=max(settings.lifetime_count, 3 * settings.keep_alive_count),
        RequestedMaxKeepAliveCount=settings.keep_alive_count,
        MaxNotificationsPerPublish=max(1, min(settings.max_notifications_per_publish, most_rows)),
        PublishingEnabled=True,
        Priority=0,
    )
    with channel.translated("no subscription"):
        try:
            revised = await channel.session.create_subscription(request, callback=_no_callback)
        except UaStatusCodeError as exc:
            return int(exc.code)
        interval_s = revised.RevisedPublishingInterval / 1_000
        if not math.isfinite(interval_s) or interval_s <= 0:
            interval_s = wanted_ms / 1_000
        return Subscription(
            subscription_id=int(revised.SubscriptionId),
            publishing_interval_s=interval_s,
            keep_alive_s=interval_s * max(1, int(revised.RevisedMaxKeepAliveCount)),
            lifetime_s=interval_s * max(3, int(revised.RevisedLifetimeCount)),
            wanted_interval_ms=wanted_ms,
        )


async def delete_subscription(channel: Channel, subscription: Subscription) -> None:
    """Delete a subscription that nobody needs; a server that refuses keeps it until the session ends."""
    with channel.translated("subscription not deleted"), suppress(UaStatusCodeError):
        await channel.session.delete_subscriptions([subscription.subscription_id])


def _no_callback(_result: object) -> None:
    """Stand in for asyncua's callback: its publish loop does not run."""


async def monitor(
    channel: Channel, subscription_id: int, tags: TagSet, settings: OpcuaSettings
) -> list[Refusal]:
    """Monitor the value of every tag; return those that are not monitored. Raises ConnectionRefused."""
    refusals: list[Refusal] = []
    wanted: list[tuple[int, ua.NodeId]] = []
    for handle, node_id in enumerate(tags.node_ids()):
        try:
            wanted.append((handle, parse_node_id(node_id)))
        except InvalidInput as exc:
            refusals.append(Refusal(node_id, str(exc)))
    most = settings.items_per_call
    if wanted:
        most = min(most, await channel.items_per_call() or most)
    start = 0
    while start < len(wanted):
        part = wanted[start : start + most]
        statuses = await _create(channel, subscription_id, part, settings)
        if statuses is None:
            most = max(1, len(part) // 2)
            continue
        for (handle, _), status in zip(part, statuses, strict=True):
            if status.is_bad():
                refusals.append(Refusal(tags.node_id(handle), status_name(status.value)))
        start += len(part)
    return refusals


async def _create(
    channel: Channel, subscription_id: int, part: Sequence[tuple[int, ua.NodeId]], settings: OpcuaSettings
) -> list[ua.StatusCode] | None:
    """Create one batch of items; None when the server wants fewer at once."""
    request = ua.CreateMonitoredItemsParameters(
        SubscriptionId=subscription_id,
        TimestampsToReturn=ua.TimestampsToReturn.Both,
        ItemsToCreate=[_item(handle, node_id, settings) for handle, node_id in part],
    )
    with channel.translated("no monitored items"):
        try:
            results = await channel.session.create_monitored_items(request)
        except UaStatusCodeError as exc:
            if exc.code not in _TOO_MANY_AT_ONCE or len(part) == 1:
                raise
            return None
        if len(results or ()) != len(part):
            raise ConnectionRefused(
                f"the server answered {len(results or ())} of {len(part)} monitored items"
            )
        return [result.StatusCode for result in results]


def _item(handle: int, node_id: ua.NodeId, settings: OpcuaSettings) -> ua.MonitoredItemCreateRequest:
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle,
            SamplingInterval=settings.sampling_interval_ms,
            QueueSize=settings.queue_size,
            DiscardOldest=True,
        ),
    )


def parse_node_id(text: str) -> ua.NodeId:
    """Return the node id written as in Part 6, 5.3.1.10 (ns=2;s=Well1.Pressure). Raises InvalidInput."""
    # Checked here first: asyncua skips what it does not know, and reads 1_0 as a number.
    if not _NODE_ID.fullmatch(text):
        raise InvalidInput("node id", f"{text[:60]!r} is not a node id such as ns=2;s=Well1.Pressure")
    try:
        node_id = ua.NodeId.from_string(text)
    except (UaError, ValueError) as exc:
        raise InvalidInput(
            "node id", f"{text[:60]!r} is not a node id such as ns=2;s=Well1.Pressure"
        ) from exc
    if node_id.NamespaceIndex > 0xFFFF:
        raise InvalidInput("node id", f"{text[:60]!r}: the namespace is not between 0 and 65535")
    identifier = node_id.Identifier
    if isinstance(identifier, int) and identifier > 0xFFFF_FFFF:
        raise InvalidInput("node id", f"{text[:60]!r}: the number does not fit into 32 bits")
    if isinstance(identifier, str | bytes) and len(identifier) > _NAME_MOST_CHARACTERS:
        raise InvalidInput("node id", f"{text[:60]!r}: the name is longer than {_NAME_MOST_CHARACTERS}")
    return node_id
