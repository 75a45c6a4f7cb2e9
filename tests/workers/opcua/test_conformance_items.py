"""The conformance matrix's settings of tags: polling beside subscriptions, deadbands, types, and a cut in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from engine.catalog.records import ItemSettings
from engine.metrics import Counter
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.opcua_server import Maker, OpcuaServer
from tests.workers.opcua.cell import MODES, Cell, security, steps_are_whole
from tests.workers.opcua.tenant import Tenant
from workers.opcua.security.pki import Pki

COUNTERS = ("ns=1;s=tag.0", "ns=1;s=tag.1", "ns=1;s=tag.9")
POLLED = "ns=1;s=tag.4"
PLAIN = "ns=1;s=plain"
ANALOG = "ns=1;s=analog"
# The same nodes by another name, with a deadband.
COARSE = "/Objects/1:Changing/1:plain"
COARSE_PERCENT = "/Objects/1:Changing/1:analog"


@dataclass(frozen=True, slots=True)
class Expected:
    """What one maker's server does that others do not."""

    percent_deadband: bool = True


EXPECTED: dict[Maker, Expected] = {
    # It takes the filter and reports every change all the same.
    "asyncua": Expected(percent_deadband=False),
    "open62541": Expected(),
    "node-opcua": Expected(),
}


@pytest.fixture
async def cutter(secured_server: OpcuaServer) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of the secured server."""
    proxy = await CuttingProxy.start("127.0.0.1", secured_server.port)
    yield proxy
    await proxy.stop()


@pytest.mark.parametrize("mode", MODES)
async def test_tags_are_polled_beside_others_that_are_subscribed(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    wanted = (*COUNTERS, POLLED)
    cell = Cell.connect(
        tenant,
        secured_server,
        *wanted,
        pki=trusting,
        items={POLLED: ItemSettings(read_mode="poll")},
        poll_interval_seconds=1,
        **security(mode),
    )
    await cell.until(lambda cell: cell.has(10, *COUNTERS) and cell.has(2, POLLED))
    # Ten steps a second, read once a second.
    first, second = (row.value or 0.0 for row in cell.rows[POLLED][:2])
    assert second - first > 3
    assert all(steps_are_whole(cell.values(node_id)) for node_id in COUNTERS)
    report = tenant.sink.reports[-1]
    assert (report.monitored, report.wanted, report.error) == (4, 4, None)


@pytest.mark.parametrize("mode", MODES)
async def test_a_deadband_holds_small_changes_back(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    cell = Cell.connect(
        tenant,
        secured_server,
        PLAIN,
        COARSE,
        pki=trusting,
        items={COARSE: ItemSettings(deadband_type="Absolute", deadband_value=5.0)},
        **security(mode),
    )
    await cell.until(lambda cell: cell.has(1))
    # Far from where the last test left it, so that the deadband begins at 100.
    await cell.write("plain", 0.0, 100.0, 103.0, 110.0)
    await cell.until(lambda cell: cell.values(COARSE)[-1] == 110.0)
    assert 103.0 not in cell.values(COARSE)


@pytest.mark.parametrize("mode", MODES)
async def test_a_deadband_in_percent_of_the_range_holds_small_changes_back(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    cell = Cell.connect(
        tenant,
        secured_server,
        ANALOG,
        COARSE_PERCENT,
        pki=trusting,
        # The range goes from 0 to 200.
        items={COARSE_PERCENT: ItemSettings(deadband_type="Percent", deadband_value=5.0)},
        **security(mode),
    )
    await cell.until(lambda cell: cell.has(1))
    await cell.write("analog", 0.0, 100.0, 107.0, 120.0)
    if EXPECTED[secured_server.maker].percent_deadband:
        await cell.until(lambda cell: cell.values(COARSE_PERCENT)[-1] == 120.0)
        assert 107.0 not in cell.values(COARSE_PERCENT)
    else:
        assert cell.values(COARSE_PERCENT) == cell.values(ANALOG)


@pytest.mark.parametrize("mode", MODES)
async def test_a_cut_connection_goes_on_without_a_loss(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, cutter: CuttingProxy, mode: str
) -> None:
    endpoint = f"opc.tcp://127.0.0.1:{cutter.port}"
    cell = Cell.connect(tenant, secured_server, *COUNTERS, endpoint=endpoint, pki=trusting, **security(mode))
    await cell.until(lambda cell: cell.has(5))
    cutter.cut()
    await cell.until(lambda _: tenant.counted(Counter.RECONNECTS) >= 1 and tenant.sink.connected)
    seen = len(cell.rows[COUNTERS[0]])
    await cell.until(lambda cell: cell.has(seen + 5))
    for node_id in COUNTERS:
        steps = [value or 0.0 for value in cell.values(node_id)]
        assert all(after == before + 1 for before, after in pairwise(steps)), steps
