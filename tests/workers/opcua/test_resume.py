"""What networks do to a connection, with servers whose counters show every value that is lost or comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from engine.gaps import Cause
from engine.metrics import Counter
from tests.servers.node_opcua import node_opcua_server
from tests.servers.opcua_server import OpcuaServer, free_port
from tests.servers.open62541 import open62541_server
from tests.workers.opcua.held import SETTINGS, Held, port_of
from tests.workers.opcua.tenant import until


@pytest.fixture(scope="module")
def patient() -> Iterator[OpcuaServer]:
    """A server that grants what is asked for."""
    with open62541_server(interval_ms=20.0) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful() -> Iterator[OpcuaServer]:
    """A server that keeps the subscriptions of a session that ended.

    Its counters are slow: it samples them, and a machine that is busy must not make it skip a step.
    """
    with node_opcua_server(interval_ms=400.0) as server:
        yield server


async def test_a_cut_of_a_second_loses_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect()
    await held.away(1.0)
    await held.goes_on()
    assert held.breaks() == []
    assert held.counted(Counter.RESUMED_SESSIONS) == 1
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 0
    assert held.gaps() == []
    assert held.sink.repeated == 0


async def test_many_cuts_at_any_moment_lose_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, backoff_first_s=0.01, backoff_most_s=0.05))
    for cut in range(25):
        held.proxy.cut()
        await asyncio.sleep(0.01 * cut)
    await held.goes_on()
    assert held.breaks() == []
    assert held.gaps() == []
    assert held.counted(Counter.RESUMED_SESSIONS) >= 5


async def test_messages_that_were_on_their_way_when_the_connection_broke_are_sent_again(
    patient: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect()
    held.proxy.pause()
    await asyncio.sleep(0.3)
    held.proxy.cut()
    held.proxy.resume()
    await held.goes_on()
    assert held.breaks() == []
    assert held.counted(Counter.REPUBLISHED_MESSAGES) >= 1
    assert held.gaps() == []


async def test_a_half_open_connection_is_resumed_and_loses_nothing(patient: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, request_timeout_s=0.5))
    held.proxy.pause()
    await until(lambda: not held.sink.connected)
    held.proxy.resume()
    await held.goes_on()
    assert held.breaks() == []
    assert held.gaps() == []


async def test_when_the_session_is_gone_its_subscriptions_are_taken_over_and_nothing_is_lost(
    forgetful: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(forgetful))
    await held.connect(replace(SETTINGS, session_timeout_s=2.0), steps=2)
    await held.away(4.5)
    await held.goes_on(8)
    assert held.breaks() == []
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 1
    assert held.gaps() == []
    assert held.sink.repeated == 0


async def test_a_cut_on_the_way_back_starts_the_way_again_with_what_is_known(
    forgetful: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(forgetful))
    settings = replace(SETTINGS, backoff_first_s=0.02, backoff_most_s=0.05, session_timeout_s=2.0)
    await held.connect(settings, steps=2)
    await held.away(4.0)
    for step in range(20):
        await asyncio.sleep(0.002 * step)
        held.proxy.cut()
    await held.goes_on(8)
    assert held.breaks() == []
    assert held.gaps() == []


async def test_past_the_subscriptions_lifetime_they_are_made_again_and_each_tag_has_a_gap(
    patient: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(patient))
    await held.connect(replace(SETTINGS, keep_alive_count=5, lifetime_count=15))
    await held.away(4.0)
    await held.goes_on()
    assert held.gaps() == [(1, Cause.OUTAGE), (2, Cause.OUTAGE), (3, Cause.OUTAGE)]
    for values in held.sink.values.values():
        assert sum(after != before + 1 for before, after in pairwise(values)) == 1
        assert all(after > before for before, after in pairwise(values))


async def test_a_server_that_was_restarted_is_picked_up_and_each_tag_has_a_gap(held: Held) -> None:
    port = free_port()
    held.proxy.target = ("127.0.0.1", port)
    with open62541_server(port=port, interval_ms=20.0):
        await held.connect()
    with open62541_server(port=port, interval_ms=20.0):
        await until(lambda: held.sink.last > 0 and len(held.gaps()) == 3, within_s=20.0)
    assert held.gaps() == [(1, Cause.OUTAGE), (2, Cause.OUTAGE), (3, Cause.OUTAGE)]
    assert held.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 0
