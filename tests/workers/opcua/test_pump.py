"""The pump against a channel that answers what the test says, byte for byte."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from engine.metrics import Counter, DropReason
from tests.workers.opcua.publishing_script import (
    BAD_NO_SUBSCRIPTION,
    BAD_TIMEOUT,
    BAD_TOO_MANY_PUBLISH_REQUESTS,
    Running,
    data,
    fault,
    flow_of,
    keep_alive,
    response,
    status_change,
)
from tests.workers.opcua.tenant import until


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


async def test_the_end_of_the_session_ends_the_channel_so_that_its_subscriptions_are_taken_over(
    running: Running,
) -> None:
    running.script.answer(fault(0x8025_0000))
    assert "BadSessionIdInvalid" in str(await running.ended())
    assert running.script.lost
    assert running.lost == []


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
