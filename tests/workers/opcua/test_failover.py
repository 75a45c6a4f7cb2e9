"""A connection with two addresses: which server it uses, when it moves, and that its tags stay who they are."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import numpy as np

from engine.gaps import Cause
from engine.metrics import Counter
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.held import NODES, SETTINGS, Judged
from tests.workers.opcua.tenant import Tenant, connection, until
from workers.opcua.session import Connector


class Pair:
    """A connection to a server and its partner."""

    def __init__(self, tenant: Tenant, *servers: OpcuaServer) -> None:
        first, *others = [server.endpoint for server in servers]
        wanted = connection(first, *NODES, failover_urls=tuple(others))
        self.sink = Judged(tenant)
        slots = [self.sink.tags.slot(int(tag_id)) for tag_id in wanted.tags.tag_id]
        connector = Connector(
            wanted,
            slots=np.array(slots, np.uint32),
            ring=tenant.ring,
            counters=tenant.counters,
            settings=SETTINGS,
            sink=self.sink,
            continuity=self.sink.continuity,
        )
        self.task = asyncio.create_task(connector.run())

    @property
    def url(self) -> str | None:
        """The address in use."""
        report = self.sink.reports[-1] if self.sink.reports else None
        return report.active.url if report is not None and report.active is not None else None

    async def uses(self, server: OpcuaServer) -> None:
        """Wait until this server is used and its values come."""
        await until(lambda: self.url == server.endpoint, within_s=20.0)
        rows = self.sink.rows
        await until(lambda: self.sink.drain() is not None and self.sink.rows > rows + 10, within_s=20.0)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task], timeout=5)


async def test_the_healthier_server_is_used_and_when_it_dies_its_partner(tenant: Tenant) -> None:
    with ExitStack() as running:
        weak = running.enter_context(
            open62541_server(interval_ms=20.0, options=ServerOptions(service_level=100))
        )
        strong = running.enter_context(open62541_server(interval_ms=20.0))
        pair = Pair(tenant, weak, strong)
        try:
            await pair.uses(strong)
            strong.process.kill()
            await pair.uses(weak)
        finally:
            await pair.stop()
    assert sorted(pair.sink.values) == [1, 2, 3]
    assert {cause for _, _, _, cause in pair.sink.gaps} <= {Cause.OUTAGE}
    assert tenant.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 0
    assert tenant.counted(Counter.RECONNECTS) == 1


async def test_a_server_of_equal_health_is_kept_and_one_that_is_not_there_is_passed_over(
    tenant: Tenant,
) -> None:
    with open62541_server(interval_ms=20.0) as first, open62541_server(interval_ms=20.0) as second:
        pair = Pair(tenant, first, second)
        try:
            await pair.uses(first)
            second.process.kill()
            await pair.uses(first)
        finally:
            await pair.stop()
    assert tenant.counted(Counter.RECONNECTS) == 0
