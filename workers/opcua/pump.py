"""Publish requests out, publish responses into the ring: what keeps the data of one session's subscriptions flowing.

Owns how many requests are outstanding, the acknowledgements, the sequence numbers of each subscription, missing
messages, back-pressure, and the two guards that notice a dead connection or subscription. Owns no connection: whatever
ends it is raised. A subscription that the server has ended leaves the pump; the others go on, and whoever made it is
told by `ended`.

Invariants:
- Responses are taken in the order in which they came. One is acknowledged only after its values are in the journal:
  whoever owns the ring says when (sink.Message); the acknowledgement goes out with the next publish request.
- A message that is missing is asked for (Republish) before the one behind it goes into the ring, so that the values of
  a tag stay in their order. One that comes twice goes in once.
- While the ring is full, the message in hand stays and no publish request goes out: that is the only back-pressure OPC
  UA has. At most as many messages wait as requests were outstanding, each bounded by `max_message_bytes`.
- No publish request goes out while the journal takes nothing, either (`Sink.accepting`); the session is kept alive.
- A connection that ends does so behind the messages that came before: they go into the ring first.

The cost of a message is fixed: no task, no timer and no decoded object of asyncua's is made for one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Never

import structlog
from asyncua.ua.uaerrors import UaStatusCodeError

from engine import variants
from engine._fastpath import decode_publish
from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from engine.frames import Position
from engine.gaps import Cause
from engine.metrics import Counter, DropReason
from engine.outcomes import Outcome
from workers.opcua.acknowledgements import Acknowledgements
from workers.opcua.flow import (
    REPUBLISH,
    Flow,
    available_numbers,
    peek,
    republish_body,
    republished_number,
)
from workers.opcua.monitoring.resolve import SESSION_ENDED
from workers.opcua.seam import body_of, status_name
from workers.opcua.sink import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray

    from engine._fastpath import Publish, Ring
    from engine.continuity import Continuity
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.acknowledgements import Ack
    from workers.opcua.channel import Channel
    from workers.opcua.seam import Answer
    from workers.opcua.sink import Sink

log = structlog.get_logger(__name__)

_TOO_MANY_PUBLISH_REQUESTS = 0x8078_0000
_TIMEOUT = 0x800A_0000
_NO_SUBSCRIPTION = 0x8079_0000
_SUBSCRIPTION_ID_INVALID = 0x8028_0000
# One request more for each further subscription, up to this: each can cost us a message in memory.
_MOST_REQUESTS = 32
_MOST_STRANGERS = 256
# After so many answers one more request is tried again; twice as many each time that the server refuses it.
_ANSWERS_UNTIL_MORE = 200
_MOST_ANSWERS_UNTIL_MORE = 100_000
# So many messages are asked for at most; no server seen keeps more than 256.
_MOST_REPUBLISHED = 1_024
# Two keep-alives may be late or lost before a connection is taken for dead, and half of one for jitter.
_KEEP_ALIVES_MISSED = 2.5
# The watchdog counts its own wake-ups, not the clock: a loop that was busy counts one, and does not cry wolf.
_WATCHDOG_STEPS = 10
# A session is touched this often in the shorter of its own timeout and the subscriptions' lifetime.
_TOUCHES = 3


class Pump:
    """The publish loop of one session."""

    def __init__(
        self,
        *,
        channel: Channel,
        connection_id: UUID,
        flows: Sequence[Flow],
        ring: Ring,
        slots: NDArray[np.uint32],
        counters: TenantSlots,
        settings: OpcuaSettings,
        sink: Sink,
        continuity: Continuity,
        ended: Callable[[Flow, str], None],
        text_of: Callable[[bytes], str | None] = variants.text_of,
        acks: Acknowledgements | None = None,
    ) -> None:
        """`slots` and `text_of` are for decode_publish; `ended` is called with a flow and the reason.

        `acks` outlives the pump: what is due in it goes out first, and what may not have arrived is in it in the end.
        """
        # For decode_publish, too; may change while the pump runs.
        self.elements: NDArray[np.int32] | None = None
        self._channel = channel
        self._connection_id = connection_id
        self._flows = {flow.subscription_id: flow for flow in flows}
        self._ring = ring
        self._slots = slots
        self._text_of = text_of
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._continuity = continuity
        self._ended = ended
        self._answers = 0
        self._answers_until_more = _ANSWERS_UNTIL_MORE
        self._outstanding = 0
        self._sent = 0
        self._heard = False
        self._arrived: deque[tuple[asyncio.Future[Answer], int]] = deque()
        self._wake = asyncio.Event()
        self._acks = Acknowledgements() if acks is None else acks
        # What each outstanding request acknowledges, the oldest first.
        self._sent_acks: deque[list[Ack]] = deque()
        # Subscriptions that were made a moment ago: the newest message of each.
        self._strangers: dict[int, int] = {}
        self._timeouts = 0
        self._stopped: ScadaError | None = None
        self._wanted = self._most_requests

    @property
    def _most_requests(self) -> int:
        return min(self._settings.publish_requests + max(0, len(self._flows) - 1), _MOST_REQUESTS)

    def add(self, flow: Flow) -> None:
        """Publish for one subscription more, of which messages may have come already."""
        if number := self._strangers.pop(flow.subscription_id, 0):
            flow.took(number)
        self._flows[flow.subscription_id] = flow
        self._wanted = self._most_requests
        self._wake.set()

    def stop(self, reason: ScadaError) -> None:
        """End `run` with this reason, behind what has arrived."""
        self._stopped = reason
        self._wake.set()

    async def recover(self, flow: Flow, available: Sequence[int] | None = None) -> None:
        """Ask for what a subscription sent while nobody listened; call it before `run`.

        Without `available`, the numbers that the server says it has, the next number is asked for until there is none.
        Raises ConnectionRefused when the connection ends.
        """
        if available is None:
            for _ in range(_MOST_REPUBLISHED):
                if flow.ended or not await self._republish(flow, flow.next_sequence or 1):
                    return
            return
        self._acknowledge_old(flow, available)
        for number in flow.ahead(available)[:_MOST_REPUBLISHED]:
            await self._ask_for_missing(flow, number)
            if flow.ended or not await self._republish(flow, number):
                return

    async def run(self) -> Never:
        """Publish until the connection ends. Raises ConnectionRefused or MalformedMessage."""
        forget = self._sink.on_accepting(self._wake.set)
        try:
            await self._run()
        finally:
            forget()
            self._acks.put_back(ack for acks in self._sent_acks for ack in acks)

    async def _run(self) -> Never:
        self._fill()
        while True:
            if not self._arrived:
                self._wake.clear()
                await self._wake.wait()
            if self._arrived:
                await self._take(*self._arrived[0])
            elif self._stopped is not None:
                raise self._stopped
            elif self._channel.lost:
                raise self._channel.failed(ConnectionRefused("the connection was lost"))
            self._fill()

    async def _take(self, future: asyncio.Future[Answer], received_us: int) -> None:
        """Take the oldest response; it stays the oldest one until it is in the ring."""
        exc = future.exception()
        if exc is not None:
            raise self._channel.failed(exc) from exc
        message = body_of(future.result())
        repeated = False
        if (seen := peek(message)) and (flow := self._flows.get(seen.subscription_id)):
            if flow.restored:
                self._begin_again(flow, message, seen.sequence_number)
            ahead = flow.count_ahead(seen.sequence_number)
            repeated = ahead < 0 and seen.has_data
            if ahead > 0:
                await self._ask_for_missing(flow, seen.sequence_number)
        said = None if repeated else await self._decode(message, received_us)
        self._arrived.popleft()
        self._sent_acks.popleft()
        if said is None:
            # Sent again although nobody asked, or asked for twice: its values were in the ring already.
            assert seen is not None
            self._acks.came_again(seen.subscription_id, seen.sequence_number)
        elif said.outcome == Outcome.FAULT:
            await self._on_fault(said.service_result)
        else:
            self._on_notification(said)

    def _fill(self) -> None:
        """Send publish requests while the journal takes readings; the first carries the acknowledgements.

        A message that waits here counts as one, so that neither the server nor we ever hold more than `_wanted`. As a
        response is replaced at once, MoreNotifications asks for nothing that is not done anyway.
        """
        if not self._sink.accepting:
            return
        while self._flows and self._outstanding + len(self._arrived) < self._wanted:
            if self._arrived and self._channel.lost:
                return  # what came before the end is stored first
            acks = self._acks.take()
            try:
                future = self._channel.publish(acks)
            except BaseException:
                self._acks.put_back(acks)
                raise
            self._sent_acks.append(acks)
            self._outstanding += 1
            self._sent += 1
            future.add_done_callback(self._on_response)

    def _on_response(self, future: asyncio.Future[Answer]) -> None:
        self._outstanding -= 1
        self._heard = True
        if future.cancelled():
            return
        future.exception()  # seen here, so that asyncio does not report it as never retrieved
        self._arrived.append((future, time.time_ns() // 1_000))
        self._wake.set()

    async def _decode(self, message: bytes | memoryview, received_us: int) -> Publish:
        """Put the values into the ring, as soon as they fit."""
        while True:
            said = decode_publish(message, self._ring, self._slots, received_us, self.elements, self._text_of)
            if said.outcome != Outcome.RING_FULL:
                return said
            await self._wait_for_space()

    def _on_notification(self, said: Publish) -> None:
        counters = self._counters
        self._timeouts = 0
        if self._wanted < self._most_requests:
            self._try_more()
        if said.refused_acks:
            counters.count(Counter.REFUSED_ACKS, said.refused_acks)
        flow = self._flows.get(said.subscription_id)
        if flow is not None:
            flow.heard = True
        if said.outcome == Outcome.KEEP_ALIVE:
            counters.count(Counter.KEEP_ALIVES)
            if flow is not None:
                flow.expect(said.sequence_number)
            return
        if flow is not None:
            flow.took(said.sequence_number)
        elif len(self._strangers) < _MOST_STRANGERS or said.subscription_id in self._strangers:
            self._strangers[said.subscription_id] = said.sequence_number
        self._on_data(said, said.subscription_id)
        if said.status_change is not None and said.outcome == Outcome.STATUS_CHANGE and flow is not None:
            self._end(flow, f"the server ended the subscription: {status_name(said.status_change)}")

    def _on_data(self, said: Publish, subscription_id: int) -> None:
        counters = self._counters
        counters.count(Counter.MESSAGES)
        self._acks.took(subscription_id, said.sequence_number)
        position = Position(self._connection_id, subscription_id, said.sequence_number)
        self._sink.stored(said.rows, Message(position, self._acks.on_durable))
        if said.unknown_handles:
            with counters.together():
                counters.count(Counter.RECEIVED, said.unknown_handles)
                counters.drop(DropReason.UNKNOWN_HANDLE, said.unknown_handles)
        if said.events:
            counters.count(Counter.EVENTS_SKIPPED, said.events)

    def _begin_again(self, flow: Flow, message: bytes | memoryview, number: int) -> None:
        """Take from the first response of a subscription of an earlier process what that one left on the server."""
        flow.restored = False
        available = available_numbers(message)
        if flow.next_sequence is None:
            flow.begin_with(available, before=number)
        else:
            self._acknowledge_old(flow, available)

    def _acknowledge_old(self, flow: Flow, available: Sequence[int]) -> None:
        """Let the server forget messages that it keeps although their values are in the journal."""
        for number in available:
            if number and flow.count_ahead(number) < 0:
                self._acks.came_again(flow.subscription_id, number)

    async def _ask_for_missing(self, flow: Flow, number: int) -> None:
        """Ask for all messages before this one, oldest first; what the server no longer has leaves a gap."""
        missing = flow.count_ahead(number)
        if missing <= 0:
            return
        self._counters.count(Counter.MISSED_MESSAGES, missing)
        log.warning("messages are missing", expected=flow.next_sequence, received=number, messages=missing)
        lost = 0
        if missing > _MOST_REPUBLISHED:
            lost = missing - _MOST_REPUBLISHED
            self._continuity.interrupted(flow.slots, Cause.MISSING_MESSAGE)
            flow.skip(lost)
        while flow.count_ahead(number) > 0 and not flow.ended:
            if not await self._republish(flow, flow.next_sequence or 1):
                lost += 1
                self._continuity.interrupted(flow.slots, Cause.MISSING_MESSAGE)
                flow.skip(1)
        if lost:
            log.warning("missing messages could not be had again", messages=lost)

    async def _republish(self, flow: Flow, number: int) -> bool:
        """Ask for one message; return whether it came and is in the ring."""
        answer = await self._channel.call(
            REPUBLISH, republish_body(flow.subscription_id, number), doing="a message was not sent again"
        )
        received_us = time.time_ns() // 1_000
        self._heard = flow.heard = True
        if republished_number(answer) not in {None, number}:
            return False
        try:
            said = await self._decode(answer, received_us)
        except MalformedMessage as exc:
            # Asked for once more it would be the same.
            self._counters.count(Counter.MALFORMED_MESSAGES)
            log.warning("a message that was sent again cannot be read", error=str(exc))
            return False
        if said.outcome == Outcome.FAULT or said.sequence_number != number:
            if said.service_result == _SUBSCRIPTION_ID_INVALID:
                self._end(flow, "the server does not know the subscription any more")
            return False
        flow.took(number)
        if said.outcome == Outcome.KEEP_ALIVE:
            return False
        self._counters.count(Counter.REPUBLISHED_MESSAGES)
        self._on_data(said, flow.subscription_id)
        return True

    def _try_more(self) -> None:
        self._answers += 1
        if self._answers >= self._answers_until_more:
            self._answers = 0
            self._wanted += 1

    async def _on_fault(self, service_result: int) -> None:
        if service_result == _TOO_MANY_PUBLISH_REQUESTS:
            self._wanted = max(1, self._outstanding)
            self._answers = 0
            self._answers_until_more = min(2 * self._answers_until_more, _MOST_ANSWERS_UNTIL_MORE)
            if self._outstanding == 0 and self._flows:
                # Not even one: let a cycle pass, so that we do not ask as fast as the server can refuse.
                await asyncio.sleep(max(flow.publishing_interval_s for flow in self._flows.values()))
            return
        if service_result == _TIMEOUT and self._timeouts < self._settings.publish_requests:
            self._timeouts += 1
            return
        if service_result == _NO_SUBSCRIPTION:
            for flow in list(self._flows.values()):
                self._end(flow, "the server has no subscription of ours: BadNoSubscription")
            return
        refused = ConnectionRefused(f"the server refused to publish: {status_name(service_result)}")
        if service_result in SESSION_ENDED:
            # The subscriptions may have outlived their session: as after a lost connection, another may take them over.
            self._channel.abort(refused)
        raise refused

    def _end(self, flow: Flow, reason: str) -> None:
        if not flow.ended:
            flow.ended = True
            self._flows.pop(flow.subscription_id, None)
            self._acks.forget(flow.subscription_id)
            self._ended(flow, reason)

    async def _wait_for_space(self) -> None:
        if len(self._ring) == 0:
            raise ConnectionRefused(
                f"a message has more values than the ring has rows ({self._ring.capacity_rows}); lower"
                " opcua.max_notifications_per_publish or raise ring_rows"
            )
        self._counters.count(Counter.BACKPRESSURE_PAUSES)
        await self._sink.wait_for_space()

    async def watch(self) -> None:
        """End the channel when responses are due and nothing comes: the other end is gone without a word.

        Of a subscription that alone is silent the server is asked whether it still has it.
        """
        silent = 0
        while silent < _WATCHDOG_STEPS:
            limit_s = min(
                map(self._silence_s, self._flows.values()), default=self._settings.request_timeout_s
            )
            step_s = limit_s / _WATCHDOG_STEPS
            await asyncio.sleep(step_s)
            idle = self._outstanding == 0
            silent = 0 if self._heard or idle else silent + 1
            self._heard = False
            for flow in list(self._flows.values()):
                flow.silent_s = 0.0 if flow.heard or idle else flow.silent_s + step_s
                flow.heard = False
                if flow.silent_s > self._silence_s(flow) and silent == 0:
                    flow.silent_s = 0.0
                    await self._ask_whether_it_lives(flow)
        self._channel.abort(ConnectionRefused(f"nothing was heard from the server for {limit_s:g} s"))

    def _silence_s(self, flow: Flow) -> float:
        return flow.keep_alive_s * _KEEP_ALIVES_MISSED + self._settings.request_timeout_s

    async def heed_end(self) -> None:
        """Let `run` see the end of the connection also when no request is outstanding."""
        await self._channel.protocol.closed.wait()
        self._wake.set()

    async def keep_session(self) -> None:
        """Touch the session when nothing was sent for long, as while the ring or the journal is full.

        Ends the channel when that fails.
        """
        while True:
            lifetimes = [flow.lifetime_s for flow in self._flows.values()]
            interval_s = min([self._channel.session_timeout_s, *lifetimes]) / _TOUCHES
            sent = self._sent
            await asyncio.sleep(interval_s)
            if self._sent == sent and not await self._touch(list(self._flows.values())):
                return

    async def _touch(self, flows: Sequence[Flow]) -> bool:
        """Touch subscriptions; return False when the channel has ended."""
        try:
            await self._channel.touch([flow.subscription_id for flow in flows])
        except ConnectionRefused as exc:
            if not isinstance(exc.__cause__, UaStatusCodeError) or self._channel.lost:
                self._channel.abort(exc)
                return False
            for flow in flows:
                await self._ask_whether_it_lives(flow)
        return not self._channel.lost

    async def _ask_whether_it_lives(self, flow: Flow) -> None:
        try:
            await self._channel.touch([flow.subscription_id])
        except ConnectionRefused as exc:
            if not isinstance(exc.__cause__, UaStatusCodeError):
                self._channel.abort(exc)
            elif flow.subscription_id in self._flows:
                self._end(flow, f"the server has ended the subscription: {exc}")
