"""Monitored items: made in batches of what the server takes, and never failed by one bad node.

Owns which tags go into which subscription, the size of a batch, and what is tried when a server refuses. The requests
are encoded and their answers read by compiled code; nothing is kept of an item but its place's columns in Monitoring.
A client handle is the tag's place in connection.tags, so it is unique over all subscriptions of a connection.

Several requests are always in flight: while the server makes one batch, we write the next and read the last one's
answer.

What a refusal means:

    the request is too large (TOO_MUCH_AT_ONCE)     halve the batch, for all that follows and for the next session
    the connection breaks over a request, or        halve the batch for the next session
    no answer comes in time
    any other refusal of a batch                    try its halves, down to the one node that it is about
    no room (BadTooManyMonitoredItems, ...)         another subscription; if that takes nothing either: SERVER_LIMIT
    no more subscriptions                           share one that has another publishing interval, and say so
    the filter (deadband, trigger)                  monitor without it, and say so: a value too many is better than none
    a node with brackets in its name is not there   take the brackets for an index
    the index range                                 monitor the whole array, and let the decoder pick
    there are no subscriptions, or no items         poll
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from asyncua.ua.status_codes import StatusCodes

from engine._fastpath import decode_created_items, encode_create_items
from engine.errors import ConnectionRefused, MalformedMessage
from engine.metrics.names import MissingReason
from workers.opcua.monitoring.limits import TOO_MUCH_AT_ONCE, smaller
from workers.opcua.monitoring.nodes import Form
from workers.opcua.monitoring.outcome import NO_SUBSCRIPTION, RANGE_REFUSED, Monitoring
from workers.opcua.monitoring.poll import probe
from workers.opcua.monitoring.resolve import SESSION_ENDED, pick_from_whole, resolve
from workers.opcua.monitoring.subscribe import Subscription, try_subscription
from workers.opcua.monitoring.ways import Way, ways_of
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    from engine.catalog.records import ItemSettings
    from engine.catalog.tag_set import TagSet
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.limits import Limits
    from workers.opcua.monitoring.nodes import Addresses, Places

_CREATE_ITEMS = 751  # CreateMonitoredItemsRequest_Encoding_DefaultBinary
# With two the server waits for us as soon as we are late; with four it is busy all the time (bench subscribe).
_IN_FLIGHT = 4
# A connection that breaks over so few items breaks for another reason.
_BATCH_LEAST = 8
# Subscriptions of one connection. A device with 1 000 items in each gets its 100 000 tags.
_SUBSCRIPTIONS_MOST = 128
# Single nodes that may fail with their whole request before one has been monitored: then it is not about the nodes.
_LONELY_FAILURES_MOST = 20

_SERVICE_MISSING = frozenset({StatusCodes.BadServiceUnsupported, StatusCodes.BadNotImplemented})
_NO_ROOM = frozenset({
    StatusCodes.BadTooManyMonitoredItems,
    StatusCodes.BadOutOfMemory,
    StatusCodes.BadResourceUnavailable,
})  # fmt: skip
_NO_ROOM_CODES = np.array(sorted(_NO_ROOM), np.uint32)
_FILTER_REFUSED = np.array(
    [
        StatusCodes.BadMonitoredItemFilterInvalid,
        StatusCodes.BadMonitoredItemFilterUnsupported,
        StatusCodes.BadFilterNotAllowed,
        StatusCodes.BadDeadbandFilterInvalid,
    ],
    np.uint32,
)


class BatchSize:
    """How many items go into one request; outlives a session, as a connection may have broken over one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._never_more = most

    def halve(self, tried: int, *, said: bool = False) -> None:
        """Take note that a request for so many items failed; `said`: because it was too large, says the server."""
        half = tried // 2
        if said:
            self._never_more = self.most = max(1, min(self.most, half))
        else:
            self.most = max(min(self.most, _BATCH_LEAST), min(self.most, half))

    def recover(self) -> None:
        """Take note that all items could be made: what broke the connection before may have been something else."""
        self.most = max(self.most, min(self.most * 2, self._never_more))


class Items:
    """Makes the monitored items of one connection in one session."""

    def __init__(
        self,
        channel: Channel,
        monitoring: Monitoring,
        *,
        defaults: ItemSettings,
        settings: OpcuaSettings,
        limits: Limits,
        most_rows: int,
        batch: BatchSize | None = None,
    ) -> None:
        """Take up `monitoring` as it is; see `monitor` for the others."""
        self.monitoring = monitoring
        self._channel = channel
        self._tags = monitoring.tags
        self._addresses = monitoring.addresses
        self._settings = settings
        self._limits = limits
        self._most_rows = most_rows
        self._batch = batch or BatchSize(settings.items_per_call)
        monitoring.ways, note = ways_of(self._tags, defaults, settings)
        monitoring.note(note)
        monitoring.nodes_per_read = smaller(self._batch.most, limits.nodes_per_read)
        in_use = monitoring.subscription[monitoring.subscription != NO_SUBSCRIPTION]
        self._counts = np.bincount(in_use, minlength=len(monitoring.subscriptions)).tolist()
        self._full: set[int] = set()
        self._no_more = False
        self._subscribes = True
        self._lonely_failures = 0
        self._succeeded = bool(len(in_use))
        self._turned_away: list[Places] = []
        self._again: dict[str, list[Places]] = {"form": [], "filter": []}

    async def create(self, places: Places) -> None:
        """Monitor or poll these tags. Raises ConnectionRefused or MalformedMessage when the session cannot go on."""
        profile = self._tags.profile[places]
        polled = []
        for code in np.unique(profile).tolist():
            chosen = places[profile == code]
            way = self.monitoring.ways[code]
            if way.polled or not await self._subscribe(chosen, way):
                polled.append(chosen)
        if polled:
            await self._poll(np.concatenate(polled))

    async def _subscribe(self, places: Places, way: Way) -> bool:
        """Create items in as many passes as there are ways to mean them; False when the server has no such service."""
        work = deque([(places, way)])
        while work and self._subscribes:
            chosen, how = work.popleft()
            await self._place(await self._with_elements(chosen), how)
            if len(again := await self._other_forms()):
                work.append((again, how))
            if len(again := self._take("filter")):
                work.append((again, how.without_filter()))
        return self._subscribes

    async def _place(self, places: Places, way: Way) -> None:
        """Put items into subscriptions that have room, making new ones as long as the server lets us."""
        left = places
        while len(left):
            at = await self._with_room(way)
            if not self._subscribes:
                return
            if at is None:
                self.monitoring.refuse(left, StatusCodes.BadTooManyMonitoredItems)
                return
            room = len(left)
            if self._limits.items_per_subscription is not None:
                room = min(room, self._limits.items_per_subscription - self._counts[at])
            await self._fill(at, left[:room], way)
            turned_away = self._turned_away
            self._turned_away = []
            left = np.concatenate([*turned_away, left[room:]])
            if turned_away:
                self._full.add(at)
                # Where even an empty one takes nothing, the server is full. It is kept, for when there is room.
                self._no_more = self._no_more or self._counts[at] == 0

    async def _with_room(self, way: Way) -> int | None:
        """Return the number of a subscription for one more item, None when there is none and none can be had."""
        subscriptions = self.monitoring.subscriptions
        limit = self._limits.items_per_subscription
        roomy = [
            at
            for at in range(len(subscriptions))
            if at not in self._full and (limit is None or self._counts[at] < limit)
        ]
        for at in roomy:
            if subscriptions[at].wanted_interval_ms == way.interval_ms:
                return at
        if (made := await self._one_more(way)) is not None or not self._subscribes:
            return made
        if roomy:
            self.monitoring.note(
                "the server makes no more subscriptions: tags share those with other intervals"
            )
        return min(
            roomy, key=lambda at: abs(subscriptions[at].wanted_interval_ms - way.interval_ms), default=None
        )

    async def _one_more(self, way: Way) -> int | None:
        """Make another subscription, and return its number; None when the server or our own bound is against it."""
        if len(self._counts) >= smaller(_SUBSCRIPTIONS_MOST, self._limits.subscriptions_per_session):
            self._no_more = True
        if self._no_more:
            return None
        made = await try_subscription(self._channel, self._settings, self._most_rows, way.interval_ms)
        if isinstance(made, Subscription):
            self.monitoring.subscriptions += (made,)
            self._counts.append(0)
            return len(self._counts) - 1
        if made in _SERVICE_MISSING and not self._counts:
            self._poll_instead()
        elif made in SESSION_ENDED or not self._counts:
            # Without any there is nothing to go on with; the next session may find room for one.
            raise ConnectionRefused(f"no subscription: {status_name(made)}")
        self._no_more = True
        return None

    def _poll_instead(self) -> None:
        self._subscribes = False
        self.monitoring.note("the server has no subscriptions: every tag is polled")

    async def _fill(self, at: int, places: Places, way: Way) -> None:
        """Create items in one subscription, several requests in flight."""
        waiting = deque([places])

        async def lane() -> None:
            while waiting and not self._turned_away and self._subscribes:
                part = waiting.popleft()
                most = smaller(self._batch.most, self._limits.items_per_call)
                if len(part) > most:
                    waiting.appendleft(part[most:])
                    part = part[:most]
                waiting.extendleft(reversed(await self._request(at, part, way)))

        await _side_by_side(lane, _IN_FLIGHT)
        if waiting and self._turned_away:
            self._turned_away.extend(waiting)

    async def _request(self, at: int, part: Places, way: Way) -> list[Places]:
        """Send one request; return what has to be asked again, in smaller parts."""
        node_ids, ranges, missing = self._addresses.wire(part)
        if missing:
            for where, problem in missing.items():
                self.monitoring.has_problem(int(part[where]), problem)
            part = np.delete(part, list(missing))
            return [part] if len(part) else []
        subscription_id = self.monitoring.subscriptions[at].subscription_id
        body = encode_create_items(
            subscription_id, way.timestamps, part.astype(np.uint32), node_ids, ranges, way.parameters
        )
        status = np.zeros(len(part), np.uint32)
        revised = (
            np.zeros(len(part), np.uint32),
            np.zeros(len(part), np.float64),
            np.zeros(len(part), np.uint32),
        )
        try:
            answer = await self._channel.call(_CREATE_ITEMS, body, doing="no monitored items")
        except (ConnectionRefused, MalformedMessage):
            self._batch.halve(len(part))
            raise
        result = decode_created_items(answer, status, *revised)
        if result >= StatusCodes.Bad:
            return self._on_refusal(part, result)
        self._on_created(at, part, way, status, revised)
        return []

    def _on_refusal(self, part: Places, result: int) -> list[Places]:
        """Decide what becomes of a batch that was refused as a whole."""
        if result in SESSION_ENDED or result == StatusCodes.BadSubscriptionIdInvalid:
            raise ConnectionRefused(f"no monitored items: {status_name(result)}")
        if result in _SERVICE_MISSING and not self._succeeded:
            self._poll_instead()
            return []
        if result in _NO_ROOM:
            self._turned_away.append(part)
            return []
        if len(part) > 1:
            if result in TOO_MUCH_AT_ONCE:
                self._batch.halve(len(part), said=True)
            middle = len(part) // 2
            return [part[:middle], part[middle:]]
        self._lonely_failures += 1
        if self._lonely_failures > _LONELY_FAILURES_MOST and not self._succeeded:
            raise ConnectionRefused(f"no monitored items: {status_name(result)}")
        self.monitoring.refuse(part, result)
        return []

    def _on_created(
        self,
        at: int,
        part: Places,
        way: Way,
        status: NDArray[np.uint32],
        revised: tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.uint32]],
    ) -> None:
        """Take over the answers of one batch, by place."""
        monitoring = self.monitoring
        monitoring.settle(part, status)
        made = status < StatusCodes.Bad
        if not made.all():
            self._on_refused(part, status, way)
            revised = revised[0][made], revised[1][made], revised[2][made]
            part = part[made]
        item_id, sampling_ms, queue_size = revised
        monitoring.item_id[part] = item_id
        monitoring.subscription[part] = at
        monitoring.revise(part, sampling_ms, queue_size)
        monitoring.unfiltered += len(part) if way.filter_refused else 0
        self._succeeded = self._succeeded or len(part) > 0
        self._counts[at] += len(part)

    def _on_refused(self, part: Places, status: NDArray[np.uint32], way: Way) -> None:
        """Keep those items of a batch that can be tried in another way."""
        no_room = np.isin(status, _NO_ROOM_CODES)
        if no_room.any():
            self._turned_away.append(part[no_room])
        if way.unfiltered is not None:
            self._again["filter"].append(part[np.isin(status, _FILTER_REFUSED)])
        form = self._addresses.form[part]
        unknown = (form == Form.LITERAL) & (status == StatusCodes.BadNodeIdUnknown)
        self._again["form"].append(part[unknown | ((form == Form.RANGE) & np.isin(status, RANGE_REFUSED))])

    def _take(self, what: str) -> Places:
        taken, self._again[what] = self._again[what], []
        return np.concatenate(taken) if taken else np.empty(0, np.int32)

    async def _other_forms(self) -> Places:
        """Return places that are to be tried again because their brackets may be meant in another way."""
        refused = self._take("form")
        ranges = refused[self._addresses.form[refused] == Form.RANGE]
        again = [place for place in refused.tolist() if self._addresses.try_as_element(place)]
        if len(ranges):
            can, cannot = await pick_from_whole(self._channel, self._addresses, ranges)
            self.monitoring.refuse(cannot, StatusCodes.BadIndexRangeNoData)
            again += can
        return np.array(again, np.int32)

    async def _with_elements(self, places: Places) -> Places:
        """Return the places without those of elements that are not there.

        A server may make an item for one (OPC 10000-4, 5.12.2.2) and report BadIndexRangeNoData for ever; or do so
        because it does no index ranges. Reading the elements first tells.
        """
        elements = places[self._addresses.form[places] >= Form.RANGE]
        if not len(elements):
            return places
        await probe(self._channel, self.monitoring, elements)
        absent = elements[self.monitoring.reason[elements] == MissingReason.INVALID_ELEMENT]
        return np.setdiff1d(places, absent).astype(np.int32) if len(absent) else places

    async def _poll(self, places: Places) -> None:
        self.monitoring.poll(places)
        await probe(self._channel, self.monitoring, places)

    async def keep_one(self) -> None:
        """Make a subscription although it has no item: its keep-alives show that the server is there."""
        if not self.monitoring.subscriptions and not len(self.monitoring.polled) and self._subscribes:
            made = await try_subscription(self._channel, self._settings, self._most_rows)
            if not isinstance(made, Subscription):
                raise ConnectionRefused(f"no subscription: {status_name(made)}")
            self.monitoring.subscriptions = (made,)
            self._counts.append(0)


async def monitor(  # noqa: PLR0917  (the contract of a session, in the order in which it gets them)
    channel: Channel,
    tags: TagSet,
    defaults: ItemSettings,
    settings: OpcuaSettings,
    limits: Limits,
    most_rows: int,
    *,
    addresses: Addresses | None = None,
    batch: BatchSize | None = None,
) -> Monitoring:
    """Monitor or poll every tag of a connection, and return what became of each.

    `defaults` are the connection's settings for its tags, `most_rows` bounds the values of one message; keep
    `batch` for the next session. Raises ConnectionRefused or MalformedMessage when the session cannot go on.
    """
    monitoring = Monitoring(tags, addresses or await resolve(channel, tags, limits))
    items = Items(
        channel,
        monitoring,
        defaults=defaults,
        settings=settings,
        limits=limits,
        most_rows=most_rows,
        batch=batch,
    )
    await items.create(np.arange(len(tags), dtype=np.int32))
    await items.keep_one()
    if batch is not None:
        batch.recover()
    return monitoring


async def _side_by_side(lane: Callable[[], Awaitable[None]], lanes: int) -> None:
    """Run as many of the same at once; the first error ends all of them."""
    tasks = [asyncio.ensure_future(lane()) for _ in range(lanes)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
