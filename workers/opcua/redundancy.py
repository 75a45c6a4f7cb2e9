"""Which of several servers is the healthiest: their ServiceLevels (OPC 10000-4, 6.6.2.4.2).

    0          Maintenance   the server is going to be shut down; nobody should be connected
    1          NoData        it runs, and has nothing to offer
    2 to 199   Degraded      it has something to offer; a partner may have more
    200 to 255 Healthy

Owns the reading and comparing of levels. Owns no session that carries values: who ranks opens, asks and closes.
Failover keeps a stream's identity: tags, slots and handles belong to the connection, not to one of its addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from engine.errors import ConnectionRefused, ScadaError

if TYPE_CHECKING:
    from workers.opcua.channel import Channel

log = structlog.get_logger(__name__)

HEALTHY_LEAST = 200
# Part 5, 6.3.1: a server without redundancy has 255; so has one that does not tell.
UNTOLD = 255
_SERVICE_LEVEL = ua.NodeId(ua.Int32(ObjectIds.Server_ServiceLevel))
_REDUNDANCY_SUPPORT = ua.NodeId(ua.Int32(ObjectIds.Server_ServerRedundancy_RedundancySupport))
_SERVER_URIS = ua.NodeId(ua.Int32(ObjectIds.Server_ServerRedundancy_ServerUriArray))
_SERVER_URIS_MOST = 100
# What all endpoints together may take; one that says nothing must not hold up those that answer.
RANKING_DEADLINE_S = 15.0
# How often a level is read. A server that knows of its end says so some seconds ahead (EstimatedReturnTime).
WATCH_INTERVAL_S = 5.0
# While no partner is better, partners are asked less and less often, up to this.
_ASK_PARTNERS_MOST_S = 300.0
_CLOSE_S = 2.0

Open = Callable[[str], Awaitable["Channel"]]
"""Opens a session with one address. Raises ScadaError. Whoever calls closes the channel."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One address, its service level, or why it cannot be used now."""

    endpoint_url: str
    service_level: int | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Redundancy:
    """What a server says about its partners."""

    service_level: int
    support: str
    """None, Cold, Warm, Hot, Transparent or HotAndMirrored (OPC 10000-5, 12.5)."""
    server_uris: tuple[str, ...]


def level_name(service_level: int) -> str:
    """Return the name of the sub-range that a level is in."""
    if service_level >= HEALTHY_LEAST:
        return "Healthy"
    return {0: "Maintenance", 1: "NoData"}.get(service_level, "Degraded")


async def read_level(channel: Channel) -> int:
    """Return the server's ServiceLevel, 255 where it has none. Raises ConnectionRefused."""
    with channel.translated("service level not read"):
        (read,) = await channel.session.read_attributes([_SERVICE_LEVEL], AttributeIds.Value)
        return _level(read)


async def read_redundancy(channel: Channel) -> Redundancy:
    """Return what the server says about its redundancy. Raises ConnectionRefused."""
    nodes = [_SERVICE_LEVEL, _REDUNDANCY_SUPPORT, _SERVER_URIS]
    with channel.translated("redundancy not read"):
        level, support, uris = await channel.session.read_attributes(nodes, AttributeIds.Value)
        known = uris.Value.Value if uris.Value is not None else None
        return Redundancy(
            service_level=_level(level),
            support=_support(support),
            server_uris=tuple(map(str, known[:_SERVER_URIS_MOST])) if isinstance(known, list) else (),
        )


async def rank(
    endpoint_urls: Sequence[str], open_channel: Open, *, deadline_s: float = RANKING_DEADLINE_S
) -> list[Ranked]:
    """Return the addresses, the one with the highest level first; equals in the order given; unreachable ones last.

    All are asked at the same time, each by a session of its own that is closed again. A single address is not asked.
    """
    if len(endpoint_urls) == 1:
        return [Ranked(endpoint_urls[0], None)]
    return await _rank_all(endpoint_urls, open_channel, deadline_s)


async def _rank_all(endpoint_urls: Sequence[str], open_channel: Open, deadline_s: float) -> list[Ranked]:
    tasks = [asyncio.create_task(_ask(url, open_channel)) for url in endpoint_urls]
    try:
        await asyncio.wait(tasks, timeout=deadline_s)
    finally:
        for task in tasks:
            task.cancel()
        # Each closes what it has opened before it ends.
        await asyncio.gather(*tasks, return_exceptions=True)
    ranked = [
        Ranked(url, None, f"no answer within {deadline_s:g} s") if task.cancelled() else task.result()
        for url, task in zip(endpoint_urls, tasks, strict=True)
    ]
    return sorted(
        ranked, key=lambda one: -1 if one.service_level is None else one.service_level, reverse=True
    )


async def _ask(endpoint_url: str, open_channel: Open) -> Ranked:
    try:
        channel = await open_channel(endpoint_url)
        try:
            return Ranked(endpoint_url, await read_level(channel))
        finally:
            await channel.close(_CLOSE_S)
    except ScadaError as exc:
        return Ranked(endpoint_url, None, str(exc))


async def watch_level(
    channel: Channel, *, below: int = HEALTHY_LEAST, interval_s: float = WATCH_INTERVAL_S
) -> int:
    """Read the ServiceLevel every `interval_s` until it is less than `below`; return it. Raises ConnectionRefused."""
    while True:
        level = await read_level(channel)
        if level < below:
            return level
        await asyncio.sleep(interval_s)


async def watch_for_better(
    channel: Channel,
    active_url: str,
    endpoint_urls: Sequence[str],
    open_channel: Open,
    *,
    interval_s: float = WATCH_INTERVAL_S,
) -> Ranked:
    """Return once another address has a higher level than the active one, and that is not healthy.

    A healthy server is kept (6.6.2.4.2: a client stays where it is). Runs until then, or until the connection is lost:
    ConnectionRefused. With a single address it only waits to be cancelled.
    """
    partners = [url for url in endpoint_urls if url != active_url]
    if not partners:
        await asyncio.Event().wait()
    pause_s = interval_s
    last: int | None = None
    while True:
        level = await watch_level(channel, interval_s=interval_s)
        if level != last:
            last, pause_s = level, interval_s
        best = (await _rank_all(partners, open_channel, RANKING_DEADLINE_S))[0]
        if best.service_level is not None and best.service_level > level:
            log.warning(
                "a partner of the server is healthier",
                level=level,
                level_name=level_name(level),
                partner=best.endpoint_url,
                partner_level=best.service_level,
            )
            return best
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, max(_ASK_PARTNERS_MOST_S, interval_s))


def _level(read: ua.DataValue) -> int:
    value: Any = read.Value.Value if read.Value is not None else None
    if read.StatusCode is not None and read.StatusCode.is_bad():
        return UNTOLD
    return value if isinstance(value, int) and 0 <= value <= UNTOLD else UNTOLD


def _support(read: ua.DataValue) -> str:
    value: Any = read.Value.Value if read.Value is not None else None
    try:
        return ua.RedundancySupport(value).name if isinstance(value, int) else "None"
    except ValueError:
        return str(value)


def refusal(ranked: Sequence[Ranked]) -> ConnectionRefused:
    """Return the error for a connection none of whose addresses can be used."""
    return ConnectionRefused("; ".join(f"{one.endpoint_url}: {one.reason}" for one in ranked))
