"""Gaps that a server's history fills, with servers whose counters show every value that is lost or comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from engine.gaps import Cause
from engine.metrics import Counter
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.held import SETTINGS, Held, port_of
from tests.workers.opcua.tenant import until

# The subscription is gone after 0.75 s without a publish request.
SHORT = replace(SETTINGS, keep_alive_count=5, lifetime_count=15)


@pytest.fixture(scope="module")
def historian() -> Iterator[OpcuaServer]:
    """A server that keeps the history of its counters, and tells 20 values at a time."""
    with open62541_server(interval_ms=20.0, options=ServerOptions(history_page=20)) as server:
        yield server


async def test_what_was_missed_past_the_subscriptions_lifetime_comes_from_the_history(
    historian: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(historian))
    await held.connect(SHORT)
    await held.away(3.0)
    await held.goes_on()
    await until(lambda: held.sink.last > 0 and len(held.sink.filled) >= 3 and not held.gaps())
    assert held.breaks() == []
    assert held.gaps() == []
    assert held.counted(Counter.BACKFILLED) >= 3 * 100
    assert held.counted(Counter.GAPS) == 0
    assert held.sink.rows == held.rows_taken()


async def test_a_connection_that_breaks_while_history_is_read_goes_on_where_it_was(
    historian: OpcuaServer, held: Held
) -> None:
    held.proxy.target = ("127.0.0.1", port_of(historian))
    await held.connect(SHORT)
    await held.away(3.0)
    await held.goes_on(1)
    for pages in (1, 2, 3):
        await _filled(held, 20 * 3 * pages)
        held.proxy.cut()
    await held.goes_on()
    await until(lambda: held.sink.last > 0 and len(held.sink.filled) >= 3 and not held.gaps())
    assert held.breaks() == []
    assert held.gaps() == []


async def _filled(held: Held, rows: int) -> None:
    await until(lambda: held.sink.last > 0 and held.counted(Counter.BACKFILLED) >= rows)


async def test_history_is_not_read_when_the_settings_say_so(historian: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(historian))
    await held.connect(replace(SHORT, history_backfill=False))
    await held.away(3.0)
    await held.goes_on()
    assert held.gaps() == [(1, Cause.OUTAGE), (2, Cause.OUTAGE), (3, Cause.OUTAGE)]
    assert held.counted(Counter.BACKFILLED) == 0


async def test_a_server_without_history_is_asked_once_and_the_gap_stays(held: Held) -> None:
    with open62541_server(interval_ms=20.0) as server:
        held.proxy.target = ("127.0.0.1", port_of(server))
        await held.connect(SHORT)
        await held.away(2.0)
        await held.goes_on()
        await until(lambda: held.counted(Counter.GAPS) == 3)
        await held.away(2.0)
        await held.goes_on()
        await until(lambda: held.counted(Counter.GAPS) == 6)
    assert len(held.gaps()) == 6
    assert held.counted(Counter.BACKFILLED) == 0


async def test_a_small_ring_holds_history_back_and_nothing_is_lost(
    historian: OpcuaServer, held: Held
) -> None:
    held.use_ring(200)
    held.proxy.target = ("127.0.0.1", port_of(historian))
    await held.connect(SHORT)
    await held.away(3.0)
    await held.goes_on()
    await until(lambda: held.sink.last > 0 and len(held.sink.filled) >= 3 and not held.gaps())
    assert held.breaks() == []


async def test_a_queue_that_overflows_is_a_gap_before_the_value_that_says_so(held: Held) -> None:
    with open62541_server(interval_ms=20.0) as server:
        held.proxy.target = ("127.0.0.1", port_of(server))
        await held.connect(replace(SETTINGS, publishing_interval_ms=400, queue_size=3))
        await until(lambda: held.sink.last > 0 and len(held.gaps()) >= 6)
    assert {cause for _, cause in held.gaps()} == {Cause.OVERFLOW}
    ends = {(tag_id, end_us) for tag_id, _, end_us, _ in held.sink.gaps}
    assert len(ends) == len(held.sink.gaps)
    assert any(after > before + 1 for _, before, after in held.breaks())


async def test_what_a_queue_lost_comes_from_the_history(historian: OpcuaServer, held: Held) -> None:
    held.proxy.target = ("127.0.0.1", port_of(historian))
    await held.connect(replace(SETTINGS, publishing_interval_ms=400, queue_size=3))
    await until(lambda: held.sink.last > 0 and len(held.sink.filled) >= 6)
    filled = {(tag_id, end_us) for tag_id, _, end_us, _ in held.sink.filled}
    assert len(filled) >= 6
    assert held.counted(Counter.BACKFILLED) > 0
    assert held.counted(Counter.GAPS) == 0
