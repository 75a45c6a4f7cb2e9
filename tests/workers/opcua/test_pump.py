"""The pump against a channel that answers what the test says, byte for byte."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from asyncua.ua.uaerrors import BadSubscriptionIdInvalid

from engine.continuity import Continuity
from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from engine.gaps import Cause
from engine.metrics import Counter, DropReason
from tests.workers.opcua.tenant import FAST, Tenant, until
from workers.opcua.channel import Channel
from workers.opcua.flow import REPUBLISH, Flow
from workers.opcua.pump import Pump
from workers.opcua.seam import Answer

SLOTS = np.zeros(1, np.uint32)
BAD_TIMEOUT = 0x800A_0000
BAD_SUBSCRIPTION_ID_INVALID = 0x8028_0000
BAD_MESSAGE_NOT_AVAILABLE = 0x807B_0000
BAD_NO_SUBSCRIPTION = 0x8079_0000
BAD_TOO_MANY_PUBLISH_REQUESTS = 0x8078_0000


class Script:
    """Stands where the Channel does, and keeps what was published; the test answers."""

    session_timeout_s = 60.0

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Answer]] = []
        self.published: list[list[tuple[int, int]]] = []
        self.aborted: ScadaError | None = None
        self.touched = 0
        self.gone: set[int] = set()
        # Sequence number -> what a Republish is answered with; any other one is BadMessageNotAvailable.
        self.kept: dict[int, bytes] = {}
        self.asked: list[int] = []

    @property
    def lost(self) -> bool:
        return self.aborted is not None

    @property
    def acked(self) -> list[int]:
        return [number for acks in self.published for _, number in acks]

    def publish(self, acks: list[tuple[int, int]]) -> asyncio.Future[Answer]:
        if self.aborted:
            raise self.aborted
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.published.append(list(acks))
        self.waiting.append(future)
        return future

    def failed(self, exc: BaseException) -> ScadaError:
        return self.aborted or cast(ScadaError, exc)

    def abort(self, reason: ScadaError) -> None:
        self.aborted = self.aborted or reason
        for future in self.waiting:
            future.set_exception(self.aborted)
        self.waiting.clear()

    async def touch(self, subscription_ids: list[int]) -> None:
        self.touched += 1
        if self.gone.intersection(subscription_ids):
            raise ConnectionRefused("no sign of life") from BadSubscriptionIdInvalid()  # type: ignore[no-untyped-call]

    async def call(self, type_id: int, body: bytes, *, doing: str) -> bytes:
        assert (type_id, doing) == (REPUBLISH, "a message was not sent again")
        subscription_id, number = struct.unpack("<II", body)
        self.asked.append(number)
        await asyncio.sleep(0)
        if subscription_id in self.gone:
            return fault(BAD_SUBSCRIPTION_ID_INVALID)
        return self.kept.get(number, fault(BAD_MESSAGE_NOT_AVAILABLE))

    def answer(self, body: bytes) -> None:
        self.waiting.pop(0).set_result(memoryview(body))


def header(type_id: int, result: int = 0) -> bytes:
    return b"\x01\x00" + struct.pack("<HqIIBiHB", type_id, 0, 1, result, 0, -1, 0, 0)


def data(sequence: int, *values: float, handle: int = 0, subscription_id: int = 7) -> bytes:
    return response(sequence, 1, changes(*values, handle=handle), subscription_id=subscription_id)


def republished(sequence: int, *values: float) -> bytes:
    return header(835) + struct.pack("<Iqi", sequence, 0, 1) + changes(*values)


def changes(*values: float, handle: int = 0) -> bytes:
    items = b"".join(
        struct.pack("<IBBdI", handle, 0x03, 11, value, 0) for value in values
    )  # value and status, type Double
    body = struct.pack("<i", len(values)) + items + struct.pack("<i", -1)
    return b"\x01\x00" + struct.pack("<HBi", 811, 1, len(body)) + body


def response(
    sequence: int,
    count: int,
    notifications: bytes = b"",
    results: tuple[int, ...] = (),
    subscription_id: int = 7,
) -> bytes:
    message = struct.pack("<IiBIqi", subscription_id, -1, 0, sequence, 0, count) + notifications
    acked = struct.pack(f"<i{len(results)}I", len(results), *results)
    return header(829) + message + acked + struct.pack("<i", -1)


def keep_alive(sequence: int, subscription_id: int = 7) -> bytes:
    return response(sequence, -1, subscription_id=subscription_id)


def fault(result: int) -> bytes:
    return header(397, result)


def status_change(sequence: int, status: int) -> bytes:
    body = struct.pack("<IB", status, 0)
    return response(sequence, 1, b"\x01\x00" + struct.pack("<HBi", 820, 1, len(body)) + body)


def flow_of(subscription_id: int) -> Flow:
    return Flow(subscription_id, publishing_interval_s=0.02, keep_alive_s=0.1, lifetime_s=60.0, slots=SLOTS)


class Running:
    """A pump that runs in a task."""

    def __init__(self, script: Script, tenant: Tenant, *, requests: int = 2) -> None:
        self.script = script
        self.tenant = tenant
        self.continuity = Continuity(tenant.ring)
        self.flows = [flow_of(7)]
        self.lost: list[tuple[int, str]] = []
        self.pump = Pump(
            channel=cast(Channel, script),
            flows=self.flows,
            ring=tenant.ring,
            slots=SLOTS,
            counters=tenant.counters,
            settings=replace(FAST, publish_requests=requests, request_timeout_s=0.05),
            sink=tenant.sink,
            continuity=self.continuity,
            ended=lambda flow, reason: self.lost.append((flow.subscription_id, reason)),
        )
        self.task = asyncio.create_task(self.pump.run())

    async def replaced(self, answers: int) -> None:
        """Wait until a publish request was sent for each of so many answers, behind the first two."""
        await until(lambda: len(self.script.published) == 2 + answers)

    def gap(self) -> bool:
        """Whether rows were said to be missing."""
        return any(mark.cause == Cause.MISSING_MESSAGE for mark in self.continuity._marks)

    async def ended(self) -> BaseException:
        async with asyncio.timeout(5.0):
            await asyncio.wait([self.task])
        error = self.task.exception()
        assert error is not None
        return error


@pytest.fixture
async def running(tenant: Tenant) -> AsyncIterator[Running]:
    """A pump with two publish requests outstanding and a ring of ten rows."""
    tenant.use_ring(10)
    running = Running(Script(), tenant)
    await until(lambda: len(running.script.waiting) == 2)
    yield running
    running.task.cancel()
    await asyncio.wait([running.task])


async def test_two_requests_stay_outstanding_and_each_message_is_acknowledged(running: Running) -> None:
    for sequence in range(1, 6):
        running.script.answer(data(sequence, 1.0))
        await running.replaced(sequence)
    assert len(running.script.waiting) == 2
    assert running.script.acked == [1, 2, 3, 4, 5]
    assert running.tenant.sink.rows == 5
    assert running.tenant.counted(Counter.MESSAGES) == 5


async def test_messages_that_come_together_are_stored_in_their_order(running: Running) -> None:
    running.script.answer(data(1, 1.0, 2.0))
    running.script.answer(data(2, 3.0))
    await until(lambda: running.script.acked == [1, 2])
    assert list(running.tenant.sink.drain().value) == [1.0, 2.0, 3.0]


async def test_a_keep_alive_is_counted_and_not_acknowledged(running: Running) -> None:
    running.script.answer(keep_alive(1))
    running.script.answer(data(1, 1.0))
    await until(lambda: running.script.acked == [1])
    assert running.tenant.counted(Counter.KEEP_ALIVES) == 1
    assert running.tenant.counted(Counter.MISSED_MESSAGES) == 0


@pytest.mark.parametrize(
    ("messages", "missed"),
    [
        ([data(1), data(2), keep_alive(3), data(3), keep_alive(4)], 0),
        ([data(1), data(3)], 1),
        ([data(1), keep_alive(5), data(5)], 3),
        ([data(0xFFFF_FFFE), data(0xFFFF_FFFF), data(1), data(2)], 0),
        ([data(0xFFFF_FFFF), keep_alive(1), data(2)], 1),
        ([data(4), keep_alive(4), data(5)], 0),
    ],
    ids=[
        "none",
        "one",
        "keep-alive ahead",
        "rollover",
        "one behind the rollover",
        "keep-alive repeats the last",
    ],
)
async def test_missing_sequence_numbers_are_counted(
    running: Running, messages: list[bytes], missed: int
) -> None:
    for count, message in enumerate(messages, 1):
        running.script.answer(message)
        await running.replaced(count)
    assert running.tenant.counted(Counter.MISSED_MESSAGES) == missed


async def test_missing_messages_are_asked_for_and_stored_in_their_order(running: Running) -> None:
    script, tenant = running.script, running.tenant
    script.kept = {2: republished(2, 2.0), 3: republished(3, 3.0)}
    script.answer(data(1, 1.0))
    script.answer(data(4, 4.0))
    await until(lambda: script.acked == [1, 2, 3, 4])
    raw = tenant.sink.drain()
    assert list(raw.value) == [1.0, 2.0, 3.0, 4.0]
    assert script.asked == [2, 3]
    assert tenant.counted(Counter.MISSED_MESSAGES) == 2
    assert tenant.counted(Counter.REPUBLISHED_MESSAGES) == 2
    assert not running.gap()


async def test_a_missing_message_that_the_server_no_longer_has_is_a_gap_and_the_next_ones_are_had(
    running: Running,
) -> None:
    script = running.script
    script.kept = {3: republished(3, 3.0)}
    script.answer(data(1, 1.0))
    script.answer(data(4, 4.0))
    await until(lambda: script.acked == [1, 3, 4])
    assert script.asked == [2, 3]
    assert running.gap()


async def test_a_message_that_a_keep_alive_shows_to_be_missing_is_asked_for_at_once(running: Running) -> None:
    script = running.script
    script.kept = {2: republished(2, 2.0)}
    script.answer(data(1, 1.0))
    script.answer(keep_alive(3))
    await until(lambda: script.acked == [1, 2])
    assert not running.gap()


async def test_so_many_missing_messages_that_no_server_has_them_are_not_all_asked_for(
    running: Running,
) -> None:
    script = running.script
    script.answer(data(1, 1.0))
    script.answer(data(1_000_000, 2.0))
    await until(lambda: script.acked == [1, 1_000_000])
    assert len(script.asked) == 1_024
    assert script.asked[-1] == 999_999
    assert running.tenant.counted(Counter.MISSED_MESSAGES) == 999_998
    assert running.gap()


@pytest.mark.parametrize("number", [1, 2, 0xFFFF_FFFF])
async def test_a_message_that_comes_twice_is_stored_once(running: Running, number: int) -> None:
    script, tenant = running.script, running.tenant
    script.answer(data(1, 1.0))
    script.answer(data(2, 2.0))
    await running.replaced(2)
    script.answer(data(number, 9.0))
    script.answer(data(3, 3.0))
    await running.replaced(4)
    assert list(tenant.sink.drain().value) == [1.0, 2.0, 3.0]
    assert script.acked == [1, 2, number, 3]
    assert tenant.sink.rows == 3


async def test_a_republished_message_that_cannot_be_read_or_is_another_one_is_a_gap(running: Running) -> None:
    script = running.script
    script.kept = {2: republished(2, 2.0)[:-3], 3: republished(9, 9.0)}
    script.answer(data(1, 1.0))
    script.answer(data(4, 4.0))
    await until(lambda: script.acked == [1, 4])
    assert list(running.tenant.sink.drain().value) == [1.0, 4.0]
    assert running.tenant.counted(Counter.MALFORMED_MESSAGES) == 1
    assert running.gap()


async def test_republished_messages_wait_for_space_in_the_ring(running: Running) -> None:
    script, tenant = running.script, running.tenant
    script.kept = {2: republished(2, *range(9))}
    script.answer(data(1, *range(8)))
    script.answer(data(3, 3.0))
    await until(lambda: tenant.sink.waits == 1)
    assert script.acked == [1]
    tenant.sink.drain()
    await until(lambda: script.acked == [1, 2, 3])


async def test_what_was_sent_while_nobody_listened_is_asked_for_until_there_is_no_more(
    running: Running,
) -> None:
    script = running.script
    script.answer(data(1, 1.0))
    await running.replaced(1)
    script.kept = {number: republished(number, float(number)) for number in (2, 3, 4)}
    await running.pump.recover(running.flows[0])
    assert script.asked == [2, 3, 4, 5]
    assert list(running.tenant.sink.drain().value) == [1.0, 2.0, 3.0, 4.0]
    assert running.flows[0].next_sequence == 5


async def test_of_the_messages_that_a_transfer_names_those_in_between_are_gaps(running: Running) -> None:
    script = running.script
    script.answer(data(1, 1.0))
    await running.replaced(1)
    script.kept = {number: republished(number, float(number)) for number in (3, 4)}
    await running.pump.recover(running.flows[0], [4, 1, 3])
    assert script.asked == [2, 3, 4]
    assert list(running.tenant.sink.drain().value) == [1.0, 3.0, 4.0]
    assert running.gap()


async def test_a_subscription_that_is_gone_when_messages_are_asked_for_has_ended(running: Running) -> None:
    running.script.gone = {7}
    await running.pump.recover(running.flows[0])
    assert running.lost == [(7, "the server does not know the subscription any more")]
    assert running.flows[0].ended


async def test_two_subscriptions_have_their_numbers_each(running: Running) -> None:
    running.pump.add(flow_of(8))
    await until(lambda: len(running.script.waiting) == 3)
    for number in (1, 2, 3):
        running.script.answer(data(number, float(number)))
        running.script.answer(data(number, 10.0 * number, subscription_id=8))
        await running.replaced(2 * number + 1)
    assert running.tenant.sink.rows == 6
    assert running.script.asked == []
    assert len(running.script.waiting) == 3


async def test_a_subscription_that_alone_is_silent_is_asked_after(running: Running) -> None:
    running.pump.add(flow_of(8))
    watch = asyncio.create_task(running.pump.watch())
    running.script.gone = {8}

    async def feed() -> None:
        number = 1
        while not running.lost:
            if running.script.waiting:
                running.script.answer(data(number, 1.0))
                running.tenant.sink.drain()
                number += 1
            await asyncio.sleep(0.01)

    await asyncio.wait_for(feed(), 10.0)
    assert running.lost[0][0] == 8
    assert not watch.done()
    watch.cancel()


async def test_a_full_ring_stops_publishing_until_there_is_space(running: Running) -> None:
    tenant, script = running.tenant, running.script
    script.answer(data(1, *range(8)))
    script.answer(data(2, *range(8)))
    await until(lambda: tenant.sink.waits == 1)
    script.answer(data(3, 9.0))
    await asyncio.sleep(0.05)
    assert script.acked == [1]
    assert script.waiting == []
    assert tenant.counted(Counter.BACKPRESSURE_PAUSES) == 1
    values = list(tenant.sink.drain().value)
    await until(lambda: script.acked == [1, 2, 3])
    values += list(tenant.sink.drain().value)
    assert values == [*range(8), *range(8), 9.0]
    assert len(script.waiting) == 2


async def test_what_came_before_the_end_of_the_connection_is_stored(running: Running) -> None:
    running.script.answer(data(1, *range(8)))
    running.script.answer(data(2, *range(8)))
    await until(lambda: running.tenant.sink.waits == 1)
    running.script.abort(ConnectionRefused("gone"))
    running.tenant.sink.drain()
    assert str(await running.ended()) == "gone"
    assert running.tenant.sink.rows == 16


async def test_a_message_larger_than_the_ring_ends_the_connection(running: Running) -> None:
    running.script.answer(data(1, *range(11)))
    assert isinstance(await running.ended(), ScadaError)
    assert len(running.tenant.ring) == 0


async def test_a_malformed_message_ends_the_connection_and_stores_nothing(running: Running) -> None:
    running.script.answer(data(1, 1.0, 2.0)[:-9])
    assert isinstance(await running.ended(), MalformedMessage)
    assert len(running.tenant.ring) == 0
    assert running.script.acked == []


async def test_values_for_handles_that_are_not_ours_are_counted_as_dropped(running: Running) -> None:
    running.script.answer(data(1, 1.0, 2.0, handle=5))
    await until(lambda: running.script.acked == [1])
    assert running.tenant.dropped(DropReason.UNKNOWN_HANDLE) == 2
    assert running.tenant.counted(Counter.RECEIVED) == 2
    assert running.tenant.sink.rows == 0


async def test_refused_acknowledgements_are_counted(running: Running) -> None:
    running.script.answer(response(1, -1, results=(0, 0x8045_0000, 0x8045_0000)))
    await until(lambda: running.tenant.counted(Counter.REFUSED_ACKS) == 2)


async def test_too_many_publish_requests_leaves_fewer_outstanding(running: Running) -> None:
    running.script.answer(fault(BAD_TOO_MANY_PUBLISH_REQUESTS))
    running.script.answer(data(1, 1.0))
    await until(lambda: running.script.acked == [1])
    assert len(running.script.waiting) == 1
    assert len(running.script.published) == 3


async def test_after_a_while_one_request_more_is_tried(running: Running) -> None:
    running.script.answer(fault(BAD_TOO_MANY_PUBLISH_REQUESTS))
    await until(lambda: len(running.script.waiting) == 1)
    for number in range(1, 402):
        await until(lambda: running.script.waiting)
        running.script.answer(data(number, 1.0))
        running.tenant.sink.drain()
        await asyncio.sleep(0)
    await until(lambda: len(running.script.waiting) == 2)


async def test_a_server_that_takes_no_publish_request_is_not_asked_in_a_hot_loop(running: Running) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.3
    while loop.time() < end:
        while running.script.waiting:
            running.script.answer(fault(BAD_TOO_MANY_PUBLISH_REQUESTS))
        await asyncio.sleep(0.001)
    # One a publishing interval of 20 ms.
    assert 2 < len(running.script.published) <= 2 + 0.3 / 0.02 + 1


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (fault(BAD_NO_SUBSCRIPTION), "BadNoSubscription"),
        (status_change(1, BAD_TIMEOUT), "BadTimeout"),
        (status_change(1, 0x002D_0000), "GoodSubscriptionTransferred"),
    ],
)
async def test_a_subscription_that_ended_leaves_the_pump_by_name_and_another_one_takes_its_place(
    running: Running, message: bytes, name: str
) -> None:
    running.script.answer(message)
    await until(lambda: running.lost)
    (subscription_id, reason) = running.lost[0]
    assert subscription_id == 7
    assert name in reason
    while running.script.waiting:
        running.script.answer(fault(BAD_NO_SUBSCRIPTION))
    await asyncio.sleep(0.01)
    assert running.script.waiting == []
    running.pump.add(flow_of(8))
    await until(lambda: len(running.script.waiting) == 2)
    running.script.answer(data(1, 5.0, subscription_id=8))
    await until(lambda: running.tenant.sink.rows == 1)
    assert len(running.lost) == 1


async def test_a_fault_that_nobody_knows_ends_the_connection_by_name(running: Running) -> None:
    running.script.answer(fault(0x80FF_0000))
    assert "StatusCode 0x80FF0000" in str(await running.ended())


async def test_a_server_that_lets_every_request_time_out_is_given_up(running: Running) -> None:
    async def answer() -> None:
        while not running.task.done():
            while running.script.waiting:
                running.script.answer(fault(BAD_TIMEOUT))
            await asyncio.sleep(0)

    await asyncio.wait_for(answer(), 5.0)
    assert "BadTimeout" in str(await running.ended())
    assert len(running.script.published) < 10


async def test_silence_ends_the_channel(running: Running) -> None:
    running.script.answer(data(1, 1.0))
    await asyncio.wait_for(running.pump.watch(), 5.0)
    assert str(await running.ended()) == "nothing was heard from the server for 0.3 s"


async def test_answers_keep_the_watchdog_quiet_and_so_does_a_full_ring(running: Running) -> None:
    watch = asyncio.create_task(running.pump.watch())
    for sequence in range(1, 12):
        running.script.answer(keep_alive(sequence))
        await asyncio.sleep(0.05)
    running.script.answer(data(12, *range(8)))
    running.script.answer(data(13, *range(8)))
    await until(lambda: running.tenant.sink.waits == 1 and len(running.script.waiting) == 1)
    running.script.answer(data(14, 1.0))
    await asyncio.sleep(0.6)
    assert not watch.done()
    watch.cancel()


async def test_a_session_is_touched_only_while_nothing_is_sent(running: Running) -> None:
    running.script.session_timeout_s = 0.15
    keep = asyncio.create_task(running.pump.keep_session())
    await until(lambda: running.script.touched >= 2)
    touched = running.script.touched
    for sequence in range(1, 20):
        running.script.answer(keep_alive(sequence))
        await asyncio.sleep(0.01)
    assert running.script.touched <= touched + 1
    keep.cancel()
