"""When a message is acknowledged: once its values are durable, whoever asks, and however often connections are lost."""

from __future__ import annotations

import asyncio

from engine.errors import ConnectionRefused
from engine.metrics import Counter
from tests.workers.opcua.publishing_script import (
    Running,
    Script,
    data,
    flow_of,
    keep_alive,
    republished,
    status_change,
)
from tests.workers.opcua.tenant import until


async def test_a_message_is_acknowledged_only_when_its_values_are_durable(running: Running) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    for number in (1, 2, 3):
        script.answer(data(number, float(number)))
        await running.replaced(number)
    assert script.acked == []
    assert [message.position.sequence_number for message in sink.messages] == [1, 2, 3]
    assert sink.messages[0].position.connection_id == running.connection_id
    sink.sync(2)
    script.answer(keep_alive(4))
    await running.replaced(4)
    assert script.acked == [1, 2]
    sink.sync()
    script.answer(keep_alive(4))
    await running.replaced(5)
    assert script.acked == [1, 2, 3]


async def test_a_message_without_values_of_ours_has_a_position_too(running: Running) -> None:
    running.tenant.sink.keeps_waiting = True
    running.script.answer(data(1, 1.0, handle=5))
    await running.replaced(1)
    (message,) = running.tenant.sink.messages
    assert (message.position.subscription_id, message.position.sequence_number) == (7, 1)
    assert running.tenant.sink.rows == 0


async def test_a_message_that_comes_again_before_it_is_durable_is_not_acknowledged_early(
    running: Running,
) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    for number, value in ((1, 1.0), (1, 1.0), (2, 2.0)):
        await until(lambda: script.waiting)
        script.answer(data(number, value))
    await running.replaced(3)
    assert script.acked == []
    sink.sync()
    script.answer(keep_alive(3))
    await running.replaced(4)
    assert script.acked == [1, 2]
    assert list(sink.drain().value) == [1.0, 2.0]


async def test_what_becomes_durable_after_the_connection_was_lost_is_acknowledged_by_the_next_one(
    running: Running,
) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    for number in (1, 2):
        script.answer(data(number, float(number)))
        await running.replaced(number)
    script.abort(ConnectionRefused("gone"))
    await running.ended()
    assert running.acks.due == []
    sink.sync(1)
    another = Script()
    going_on = asyncio.create_task(running.pump_over(another).run())
    await until(lambda: len(another.waiting) == 2)
    assert another.published == [[(7, 1)], []]
    sink.sync()
    another.answer(data(2, 2.0))
    await until(lambda: len(another.published) == 3)
    assert another.acked == [1, 2]
    assert list(sink.drain().value) == [1.0, 2.0]
    going_on.cancel()


async def test_republished_messages_are_acknowledged_when_they_are_durable(running: Running) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    script.kept = {2: republished(2, 2.0)}
    script.answer(data(1, 1.0))
    script.answer(data(3, 3.0))
    await running.replaced(2)
    assert script.asked == [2]
    assert script.acked == []
    sink.sync()
    script.answer(keep_alive(4))
    await running.replaced(3)
    assert script.acked == [1, 2, 3]


async def test_a_subscription_that_ended_has_nothing_to_acknowledge_any_more(running: Running) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    running.pump.add(flow_of(8))
    await until(lambda: len(script.waiting) == 3)
    script.answer(data(1, 1.0))
    script.answer(data(1, 1.0, subscription_id=8))
    script.answer(status_change(2, 0x800A_0000))
    await until(lambda: running.lost)
    sink.sync()
    await until(lambda: script.waiting)
    script.answer(keep_alive(2, subscription_id=8))
    await until(lambda: script.acked)
    assert [ack for acks in script.published for ack in acks] == [(8, 1)]


async def test_no_request_goes_out_while_the_journal_takes_nothing_and_then_everything_goes_on(
    running: Running,
) -> None:
    script, sink = running.script, running.tenant.sink
    sink.keeps_waiting = True
    sink.accept(False)
    script.answer(data(1, 1.0))
    script.answer(data(2, 2.0))
    await until(lambda: sink.rows == 2)
    assert script.waiting == []
    assert len(script.published) == 2
    script.session_timeout_s = 0.15
    beside = [asyncio.create_task(running.pump.keep_session()), asyncio.create_task(running.pump.watch())]
    # The watchdog would have given the connection up after three touches.
    await until(lambda: script.touched >= 20)
    assert not script.lost
    sink.sync()
    sink.accept(True)
    await until(lambda: len(script.waiting) == 2)
    assert script.acked == [1, 2]
    script.answer(data(3, 3.0))
    await until(lambda: sink.rows == 3)
    assert list(sink.drain().value) == [1.0, 2.0, 3.0]
    for task in beside:
        task.cancel()


async def test_a_pump_that_has_ended_is_told_nothing_any_more(running: Running) -> None:
    running.script.abort(ConnectionRefused("gone"))
    await running.ended()
    assert running.tenant.sink.listeners == 0


async def test_of_a_restored_subscription_the_server_forgets_what_is_durable(running: Running) -> None:
    script = running.script
    flow = flow_of(9)
    flow.restored, flow.next_sequence = True, 5
    running.pump.add(flow)
    await until(lambda: len(script.waiting) == 3)
    script.answer(data(5, 5.0, subscription_id=9, available=(3, 4, 5)))
    await until(lambda: running.tenant.sink.rows == 1)
    await until(lambda: script.acked)
    assert sorted(script.acked) == [3, 4, 5]
    assert script.asked == []
    script.answer(data(6, 6.0, subscription_id=9, available=(3, 4, 6)))
    await until(lambda: len(script.acked) == 4)
    assert script.acked[3] == 6


async def test_of_a_restored_subscription_without_a_position_all_is_taken_that_the_server_keeps(
    running: Running,
) -> None:
    script = running.script
    flow = flow_of(9)
    flow.restored = True
    script.kept = {0xFFFF_FFFF: republished(0xFFFF_FFFF, 1.0), 1: republished(1, 2.0)}
    running.pump.add(flow)
    await until(lambda: len(script.waiting) == 3)
    script.answer(data(2, 3.0, subscription_id=9, available=(0xFFFF_FFFF, 1, 2)))
    await until(lambda: running.tenant.sink.rows == 3)
    assert list(running.tenant.sink.drain().value) == [1.0, 2.0, 3.0]
    await until(lambda: len(script.acked) == 3)
    assert running.tenant.counted(Counter.REPUBLISHED_MESSAGES) == 2
