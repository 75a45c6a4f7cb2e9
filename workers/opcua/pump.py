"""Publish requests out, publish responses into the ring: what keeps the data of one subscription flowing.

Owns how many requests are outstanding, the acknowledgements, the sequence numbers, back-pressure, and the two guards
that notice a dead connection. Owns no connection: whatever ends it is raised, and the session is made again.

Invariants:
- Responses are taken in the order in which they came. One is acknowledged only after its values are in the ring.
- While the ring is full, the message in hand stays and no publish request goes out: that is the only back-pressure OPC
  UA has. At most `publish_requests` messages wait, each bounded by `max_message_bytes`.
- A connection that ends does so behind the messages that came before: they go into the ring first.

The cost of a message is fixed: no task, no timer and no decoded object of asyncua's is made for one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Never

import structlog

from engine._fastpath import decode_publish
from engine.errors import ConnectionRefused
from engine.metrics import Counter, DropReason
from engine.outcomes import Outcome
from workers.opcua.seam import body_of, status_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine._fastpath import Publish, Ring
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel
    from workers.opcua.seam import Answer
    from workers.opcua.sink import Sink
    from workers.opcua.subscribe import Subscription

log = structlog.get_logger(__name__)

_TOO_MANY_PUBLISH_REQUESTS = 0x8078_0000
_TIMEOUT = 0x800A_0000
# Sequence numbers run from 1 to this and then from 1 again (Part 4, 5.14.1.1): 0 is never one.
_LAST_SEQUENCE = 0xFFFF_FFFF
# A number further ahead than this is one that lies behind.
_HALF_OF_SEQUENCES = 1 << 31
# Two keep-alives may be late or lost before a connection is taken for dead, and half of one for jitter.
_KEEP_ALIVES_MISSED = 2.5
# The watchdog counts its own wake-ups, not the clock: a loop that was busy counts one, and does not cry wolf.
_WATCHDOG_STEPS = 10
# A session is touched this often in the shorter of its own timeout and the subscription's lifetime.
_TOUCHES = 3


class Pump:
    """The publish loop of one subscription."""

    def __init__(
        self,
        *,
        channel: Channel,
        subscription: Subscription,
        ring: Ring,
        slots: NDArray[np.uint32],
        counters: TenantSlots,
        settings: OpcuaSettings,
        sink: Sink,
    ) -> None:
        self._channel = channel
        self._subscription = subscription
        self._ring = ring
        self._slots = slots
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._wanted = settings.publish_requests
        self._outstanding = 0
        self._sent = 0
        self._heard = False
        self._arrived: deque[tuple[asyncio.Future[Answer], int]] = deque()
        self._wake = asyncio.Event()
        self._acks: list[tuple[int, int]] = []
        self._next_sequence: int | None = None
        self._timeouts = 0

    async def run(self) -> Never:
        """Publish until the connection or the subscription ends. Raises ConnectionRefused or MalformedMessage."""
        self._fill()
        while True:
            if not self._arrived:
                self._wake.clear()
                await self._wake.wait()
            future, received_us = self._arrived[0]
            said = self._decode(future, received_us)
            if said.outcome == Outcome.RING_FULL:
                await self._wait_for_space()
                continue
            self._arrived.popleft()
            if said.outcome == Outcome.FAULT:
                await self._on_fault(said.service_result)
            else:
                self._on_notification(said)
            self._fill()

    def _fill(self) -> None:
        """Send publish requests; the first carries the acknowledgements.

        A message that waits here counts as one, so that neither the server nor we ever hold more than `_wanted`. As a
        response is replaced at once, MoreNotifications asks for nothing that is not done anyway.
        """
        while self._outstanding + len(self._arrived) < self._wanted:
            if self._arrived and self._channel.lost:
                return  # what came before the end is stored first
            acks = self._acks
            future = self._channel.publish(acks)
            if acks:
                self._acks = []
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

    def _decode(self, future: asyncio.Future[Answer], received_us: int) -> Publish:
        exc = future.exception()
        if exc is not None:
            raise self._channel.failed(exc) from exc
        return decode_publish(body_of(future.result()), self._ring, self._slots, received_us)

    def _on_notification(self, said: Publish) -> None:
        counters = self._counters
        self._timeouts = 0
        if said.refused_acks:
            counters.count(Counter.REFUSED_ACKS, said.refused_acks)
        if said.outcome == Outcome.KEEP_ALIVE:
            counters.count(Counter.KEEP_ALIVES)
            self._check_sequence(said.sequence_number, next_message=True)
            return
        counters.count(Counter.MESSAGES)
        if said.rows:
            self._sink.stored(said.rows)
        # The values are in the ring from here on: acknowledge. With a journal, this waits for its fsync.
        self._acks.append((said.subscription_id, said.sequence_number))
        self._check_sequence(said.sequence_number, next_message=False)
        if said.unknown_handles:
            with counters.together():
                counters.count(Counter.RECEIVED, said.unknown_handles)
                counters.drop(DropReason.UNKNOWN_HANDLE, said.unknown_handles)
        if said.events:
            counters.count(Counter.EVENTS_SKIPPED, said.events)
        if said.status_change is not None and said.outcome == Outcome.STATUS_CHANGE:
            raise ConnectionRefused(f"the server ended the subscription: {status_name(said.status_change)}")

    def _check_sequence(self, number: int, *, next_message: bool) -> None:
        """Notice missing messages. A keep-alive names the next message's number, and uses none itself."""
        expected = self._next_sequence
        ahead = 0 if expected is None else (number - expected) % _LAST_SEQUENCE
        if number == 0 or ahead >= _HALF_OF_SEQUENCES:
            return  # a keep-alive that repeats the last number, as some servers do
        if ahead:
            self._counters.count(Counter.MISSED_MESSAGES, ahead)
            log.warning("messages are missing", expected=expected, received=number, messages=ahead)
        self._next_sequence = number if next_message else number % _LAST_SEQUENCE + 1

    async def _on_fault(self, service_result: int) -> None:
        if service_result == _TOO_MANY_PUBLISH_REQUESTS:
            self._wanted = max(1, self._outstanding)
            if self._outstanding == 0:
                # Not even one: let a cycle pass, so that we do not ask as fast as the server can refuse.
                await asyncio.sleep(self._subscription.publishing_interval_s)
            return
        if service_result == _TIMEOUT and self._timeouts < self._settings.publish_requests:
            self._timeouts += 1
            return
        raise ConnectionRefused(f"the server refused to publish: {status_name(service_result)}")

    async def _wait_for_space(self) -> None:
        if len(self._ring) == 0:
            raise ConnectionRefused(
                f"a message has more values than the ring has rows ({self._ring.capacity_rows}); lower"
                " opcua.max_notifications_per_publish or raise ring_rows"
            )
        self._counters.count(Counter.BACKPRESSURE_PAUSES)
        await self._sink.wait_for_space()

    async def watch(self) -> None:
        """End the channel when a response is due and nothing comes: the other end is gone without a word."""
        limit_s = self._subscription.keep_alive_s * _KEEP_ALIVES_MISSED + self._settings.request_timeout_s
        silent = 0
        while silent < _WATCHDOG_STEPS:
            await asyncio.sleep(limit_s / _WATCHDOG_STEPS)
            silent = 0 if self._heard or self._outstanding == 0 else silent + 1
            self._heard = False
        self._channel.abort(ConnectionRefused(f"nothing was heard from the server for {limit_s:g} s"))

    async def keep_session(self) -> None:
        """Touch the session when nothing was sent for long, as while the ring is full.

        Ends the channel when that fails.
        """
        interval_s = min(self._channel.session_timeout_s, self._subscription.lifetime_s) / _TOUCHES
        while True:
            sent = self._sent
            await asyncio.sleep(interval_s)
            if self._sent != sent:
                continue
            try:
                await self._channel.touch([self._subscription.subscription_id])
            except ConnectionRefused as exc:
                self._channel.abort(exc)
                return
