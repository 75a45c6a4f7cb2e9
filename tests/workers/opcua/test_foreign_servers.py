"""The same connection against servers that others wrote: open62541 and node-opcua."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from engine.metrics import Counter
from engine.settings import OpcuaSettings
from tests.servers.opcua_server import OpcuaServer
from tests.workers.opcua.tenant import FAST, Tenant, connection, until

SLOWER = replace(OpcuaSettings(), publishing_interval_ms=50, sampling_interval_ms=50, keep_alive_count=5)


@pytest.mark.parametrize("server", ["open62541_server", "node_opcua_server", "simulator"])
async def test_values_move_and_are_recent(
    request: pytest.FixtureRequest, tenant: Tenant, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    nodes = [one.node_id for one in served.moving][:5]
    tenant.connect(connection(served.endpoint, *nodes, "ns=1;s=no such node"), SLOWER)
    await until(lambda: tenant.counted(Counter.MESSAGES) >= 5 and tenant.sink.rows >= 20)
    raw = tenant.sink.drain()
    assert set(raw.slot) == set(range(len(nodes)))
    assert abs(time.time() * 1e6 - raw.ts_us[-1]) < 5e6
    assert (tenant.sink.reports[0].monitored, tenant.sink.reports[0].wanted) == (5, 6)
    assert tenant.counted(Counter.MISSED_MESSAGES) == 0
    assert tenant.counted(Counter.REFUSED_ACKS) == 0
    assert len(tenant.sink.reports) == 1


@pytest.mark.parametrize("server", ["open62541_server", "node_opcua_server"])
async def test_silence_is_filled_with_keep_alives(
    request: pytest.FixtureRequest, tenant: Tenant, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    nodes = [one.node_id for one in served.fixed]
    tenant.connect(connection(served.endpoint, *nodes), replace(SLOWER, request_timeout_s=2.0))
    await until(lambda: tenant.counted(Counter.KEEP_ALIVES) >= 3)
    assert tenant.sink.rows == len(nodes)
    assert tenant.sink.reports[0].error is None
    assert tenant.counted(Counter.MISSED_MESSAGES) == 0


@pytest.mark.parametrize("server", ["open62541_server", "node_opcua_server"])
async def test_a_full_ring_holds_the_connection(
    request: pytest.FixtureRequest, tenant: Tenant, server: str
) -> None:
    tenant.use_ring(60)
    served: OpcuaServer = request.getfixturevalue(server)
    nodes = [one.node_id for one in served.moving]
    settings = replace(
        SLOWER, session_timeout_s=3.0, lifetime_count=40, request_timeout_s=FAST.request_timeout_s
    )
    tenant.connect(connection(served.endpoint, *nodes), settings)
    await until(lambda: tenant.sink.waits == 1)
    waited = time.monotonic()
    # Past the subscription's lifetime of 40 x 50 ms, unless it is touched.
    await until(lambda: time.monotonic() - waited > 4.0)
    seen = tenant.sink.rows
    await until(lambda: len(tenant.sink.drain()) >= 0 and tenant.sink.rows > seen + 60)
    assert len(tenant.sink.reports) == 1
    assert tenant.counted(Counter.MISSED_MESSAGES) == 0
