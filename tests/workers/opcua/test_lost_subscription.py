"""A server that ends one of a connection's subscriptions: it is made again alone, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from engine.catalog.records import ItemSettings, Tag
from engine.catalog.tag_set import TagSet
from engine.metrics import Counter
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import FAST, Tenant, connection, until

# How long the pump waits for a subscription that alone is silent: 2.5 keep-alives and this.
SETTINGS = replace(FAST, request_timeout_s=1.0)


def two_subscriptions() -> TagSet:
    """Return two tags whose publishing intervals differ, and so their subscriptions."""
    return TagSet.of(
        Tag(
            tag_id,
            uuid4(),
            uuid4(),
            uuid4(),
            node_id,
            node_id,
            "DOUBLE",
            None,
            1.0,
            0.0,
            ItemSettings(publishing_interval_ms=interval_ms),
        )
        for tag_id, (node_id, interval_ms) in enumerate(
            (("ns=1;s=pressure", 20.0), ("ns=1;s=flow", 30.0)), start=1
        )
    )


async def end_the_oldest(plant: Plant) -> None:
    """Let the server delete the subscription that was made first."""
    assert plant._server is not None
    service = plant._server.iserver.subscription_service

    async def end() -> None:
        await service.delete_subscriptions([min(service.subscriptions)])

    await plant._call(end())


async def test_a_subscription_that_the_server_ends_is_made_again_alone_and_the_other_goes_on(
    plant: Plant, tenant: Tenant
) -> None:
    wanted = replace(connection(plant.endpoint), tags=two_subscriptions())
    tenant.connect(wanted, SETTINGS)
    await until(lambda: len(tenant.ring) == 2)
    assert plant.subscriptions == 2
    assert len(tenant.sink.reports[-1].revised) == 2
    await end_the_oldest(plant)
    await plant.write("flow", 1.0)
    await tenant.receives(1.0)
    await until(lambda: plant.subscriptions == 2)
    await plant.write("pressure", 2.0)
    await tenant.receives(2.0)
    await plant.write("flow", 3.0)
    await tenant.receives(3.0)
    assert tenant.counted(Counter.RECONNECTS) == 0
    assert tenant.sink.connected
    assert tenant.sink.reports[-1].monitored == 2
