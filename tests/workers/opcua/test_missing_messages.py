"""Messages that did not come, or came twice: what the pump asks for, in which order, and what is a gap in the end."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import ConnectionRefused
from engine.metrics import Counter
from tests.workers.opcua.publishing_script import Running, Script, data, keep_alive, republished
from tests.workers.opcua.tenant import until


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


async def test_what_may_not_have_been_acknowledged_is_told_to_whoever_goes_on(running: Running) -> None:
    script = running.script
    for number in (1, 2, 3):
        script.answer(data(number, 1.0))
        await running.replaced(number)
    # The first two acknowledgements were sent with requests that were answered; the others' answers never come.
    script.abort(ConnectionRefused("gone"))
    await running.ended()
    assert running.acks.due == [(7, 2), (7, 3)]
    another = Script()
    pump = running.pump_over(another)
    going_on = asyncio.create_task(pump.run())
    await until(lambda: len(another.waiting) == 2)
    assert another.published == [[(7, 2), (7, 3)], []]
    going_on.cancel()
