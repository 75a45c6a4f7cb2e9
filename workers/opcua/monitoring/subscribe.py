"""The subscriptions of a connection: creating them, and what the server revised.

Owns the request. Which subscriptions there are, and what is monitored in them, is decided in items.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.uaerrors import UaStatusCodeError

from engine.errors import ConnectionRefused
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the server made of the subscription that we asked for."""

    subscription_id: int
    publishing_interval_s: float
    keep_alive_s: float
    lifetime_s: float
    wanted_interval_ms: float = 0.0
    """The publishing interval that was asked for: tags with the same one share a subscription."""


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


def _no_callback(_result: object) -> None:
    """Stand in for asyncua's callback: its publish loop does not run."""
