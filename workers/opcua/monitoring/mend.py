"""Trying missing tags again while a session lives: nodes appear after a PLC's program was loaded, servers get room.

Owns the pace. How a tag is tried is items.py.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext
from typing import TYPE_CHECKING, Never

import numpy as np

from engine.metrics.names import MissingReason
from workers.opcua.backoff import Backoff
from workers.opcua.monitoring.outcome import NOT_MISSING
from workers.opcua.monitoring.resolve import follow_paths, read_namespaces

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.items import Items
    from workers.opcua.monitoring.limits import Limits
    from workers.opcua.monitoring.outcome import Monitoring

# A minute after a PLC was loaded is soon enough; a server that has not changed for long is asked four times an hour.
_FIRST_S, _MOST_S = 60.0, 900.0
_TAGS_AT_A_TIME = 5_000


async def mend(
    channel: Channel,
    items: Callable[[], Items],
    monitoring: Monitoring,
    limits: Limits,
    changed: Callable[[], None],
    *,
    changing: Callable[[], AbstractContextManager[None]] = nullcontext,
    first_s: float = _FIRST_S,
) -> Never:
    """Try missing tags again until the session ends; call `changed` when some were found.

    `items` makes an Items for this session; `changing` is entered while items may be made. A subscription may be added:
    `monitoring.subscriptions` has it then. Raises ConnectionRefused or MalformedMessage.
    """
    pause = Backoff(first_s=first_s, most_s=max(first_s, _MOST_S), draw=_late_in_it)
    first = 0
    while True:
        await asyncio.sleep(pause.next_s())
        before = monitoring.monitored
        if before == len(monitoring):
            continue
        with changing():
            first = await try_again(channel, items(), limits, first)
        if monitoring.monitored > before:
            pause.reset()
            changed()


async def try_again(channel: Channel, items: Items, limits: Limits, first: int = 0) -> int:
    """Try at most 5 000 missing tags from place `first` on; return where to go on the next time."""
    monitoring = items.monitoring
    reason = monitoring.reason
    wanted = (reason != NOT_MISSING) & (reason != MissingReason.INVALID_NODE_ID)
    places = np.flatnonzero(wanted).astype(np.int32)
    if not len(places):
        return 0
    chosen = places[places >= first][:_TAGS_AT_A_TIME]
    if not len(chosen):
        chosen = places[:_TAGS_AT_A_TIME]
    addresses = monitoring.addresses
    addresses.set_namespaces(await read_namespaces(channel))
    paths = np.intersect1d(chosen, monitoring.tags.places_of(first=b"/")).astype(np.int32)
    await follow_paths(channel, addresses, paths, limits)
    for place in chosen.tolist():
        addresses.begin_again(place)
    await items.create(chosen)
    return int(chosen[-1]) + 1


def _late_in_it(least_s: float, ceiling_s: float) -> float:
    return max(least_s, ceiling_s * random.uniform(0.75, 1.0))
