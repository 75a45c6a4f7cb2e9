"""Monitored items on servers that others wrote: bad nodes amid good, limits, elements, deadbands, subscriptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from asyncua.ua.status_codes import StatusCodes

from engine.catalog.records import ItemSettings, Tag
from engine.catalog.tag_set import TagSet
from engine.errors import ConnectionRefused
from engine.metrics import MissingReason
from tests.servers.opcua_server import OpcuaServer
from tests.servers.running_server import running_server
from tests.servers.server_options import Limits as ServerLimits
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.cell import SETTINGS
from tests.workers.opcua.growing_plant import GrowingPlant
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.sessions import PATIENT, session
from tests.workers.opcua.tenant import Tenant, connection, until
from workers.opcua.channel import Channel
from workers.opcua.monitoring.items import BatchSize, Items, monitor
from workers.opcua.monitoring.limits import Limits, read_limits
from workers.opcua.monitoring.mend import try_again
from workers.opcua.monitoring.outcome import Monitoring
from workers.opcua.monitoring.resolve import read_namespaces, resolve

OTHERS = ["open62541_server", "node_opcua_server"]
MOST_ROWS = 1_000


def tags_of(*node_ids: str, settings: ItemSettings | None = None) -> TagSet:
    this = uuid4()
    return TagSet.of(
        Tag(place + 1, this, this, this, "T", node_id, "DOUBLE", None, 1.0, 0.0, settings or ItemSettings())
        for place, node_id in enumerate(node_ids)
    )


async def monitored(
    channel: Channel, tags: TagSet, limits: Limits | None = None, **settings: Any
) -> Monitoring:
    return await monitor(
        channel,
        tags,
        ItemSettings(),
        replace(PATIENT, **settings),
        await read_limits(channel) if limits is None else limits,
        MOST_ROWS,
    )


@pytest.fixture(params=OTHERS)
def server(request: pytest.FixtureRequest) -> OpcuaServer:
    """Each of the two servers in other languages."""
    served: OpcuaServer = request.getfixturevalue(request.param)
    return served


@pytest.fixture(scope="module", params=["open62541", "node-opcua"])
def small_server(request: pytest.FixtureRequest) -> Iterator[OpcuaServer]:
    """Each of them with limits that 30 tags are beyond."""
    limits = ServerLimits(items_per_call=7, items_per_subscription=12, nodes_per_read=8)
    with running_server(request.param, ServerOptions(limits=limits), variables=30) as served:
        yield served


async def test_limits_are_read_and_those_that_nobody_announces_are_none(small_server: OpcuaServer) -> None:
    async with session(small_server.endpoint) as channel:
        limits = await read_limits(channel)
    assert (limits.items_per_call, limits.nodes_per_read) == (7, 8)
    assert limits.nodes_per_browse is None or limits.nodes_per_browse > 8


async def test_bad_nodes_amid_good_ones_are_told_by_reason_and_sink_nobody(server: OpcuaServer) -> None:
    good = [one.node_id for one in server.fixed]
    tags = tags_of(
        "ns=1;s=no such node", *good, "nsu=urn:nobody;s=x", "nonsense", "/Objects/1:Types/1:none", "ns=9;i=1"
    )
    async with session(server.endpoint) as channel:
        monitoring = await monitored(channel, tags)
    assert monitoring.monitored == len(good)
    assert monitoring.missing() == {
        MissingReason.UNKNOWN_NODE: 3,
        MissingReason.UNKNOWN_NAMESPACE: 1,
        MissingReason.INVALID_NODE_ID: 1,
    }
    assert not monitoring.status[1 : len(good) + 1].any()
    assert len(set(monitoring.item_id[1 : len(good) + 1].tolist())) == len(good)
    assert (monitoring.queue_size[1 : len(good) + 1] > 0).all()
    named = monitoring.refusals(10)
    assert named[0] == "ns=1;s=no such node: BadNodeIdUnknown"
    assert named[1] == "nsu=urn:nobody;s=x: the server has no namespace urn:nobody"
    assert named[2].startswith("nonsense: opc_node_id: 'nonsense' is not a node id")
    assert monitoring.refusals(2) == named[:2]


async def test_all_notations_lead_to_the_same_node(server: OpcuaServer) -> None:
    async with session(server.endpoint) as channel:
        uri = (await read_namespaces(channel))[1]
        tags = tags_of(
            "ns=1;s=type.Double",
            f"nsu={uri};s=type.Double",
            "/Objects/1:Types/1:type&.Double",
            f"/Objects/nsu={uri.replace('/', '&/')};Types/1:type&.Double",
            "/Objects/Server/ServerStatus/State",
        )
        monitoring = await monitored(channel, tags)
    assert monitoring.refusals(9) == []
    wires = [monitoring.addresses.wire_of(place) for place in range(4)]
    assert len(set(wires)) == 1


async def test_elements_that_an_array_has_are_monitored_and_others_are_named(server: OpcuaServer) -> None:
    tags = tags_of(
        "ns=1;s=type.Double.array[2]",
        "ns=1;s=type.Double.matrix[1,2]",
        "ns=1;s=type.Double.array[3]",
        "ns=1;s=type.Double[0]",
        "ns=1;s=gone[0]",
    )
    async with session(server.endpoint) as channel:
        monitoring = await monitored(channel, tags)
    assert (monitoring.status[:2] == 0).all()
    assert monitoring.missing() == {MissingReason.INVALID_ELEMENT: 2, MissingReason.UNKNOWN_NODE: 1}
    assert monitoring.elements is not None
    assert monitoring.elements[0] == 2


@pytest.mark.parametrize(
    "settings", [ItemSettings(), ItemSettings(read_mode="poll")], ids=["items", "polled"]
)
@pytest.mark.parametrize("name", ["asyncua_server", *OTHERS])
async def test_elements_have_their_own_values_also_where_a_server_does_no_index_ranges(
    request: pytest.FixtureRequest, tenant: Tenant, name: str, settings: ItemSettings
) -> None:
    # asyncua's server ignores index ranges, and sends the whole array.
    server: OpcuaServer = request.getfixturevalue(name)
    wanted = connection(
        server.endpoint,
        "ns=1;s=type.Double.array[1]",
        "ns=1;s=type.Double.matrix[1,2]",
        "ns=1;s=type.Double.matrix[1,0]",
        "ns=1;s=type.String.array[0]",
        settings=settings,
        poll_interval_seconds=1,
    )
    tenant.connect(wanted, SETTINGS)
    await until(lambda: tenant.sink.connected and tenant.sink.rows >= 4)
    assert tenant.sink.error == ""
    batch = tenant.sink.drain()
    assert {
        slot: value for slot, value in zip(batch.slot.tolist(), batch.value.tolist(), strict=True) if slot < 3
    } == {
        0: 2.0,
        1: 6.0,
        2: 4.0,
    }
    assert set(batch.texts.values()) == {"a"}
    assert not batch.status.any()


@pytest.mark.parametrize("announced", [True, False])
async def test_more_items_than_a_subscription_takes_go_into_several(
    small_server: OpcuaServer, announced: bool
) -> None:
    tags = tags_of(*(one.node_id for one in small_server.moving), "ns=1;s=no such node")
    async with session(small_server.endpoint) as channel:
        limits = None if announced else Limits()
        monitoring = await monitored(channel, tags, limits)
        assert monitoring.missing() == {MissingReason.UNKNOWN_NODE: 1}
        by_subscription = np.bincount(monitoring.subscription[:30]).tolist()
        # node-opcua announces what one takes, and takes more all the same.
        if announced or small_server.maker == "open62541":
            assert by_subscription == [12, 12, 6]
        assert len(monitoring.subscriptions) == len(by_subscription)
        assert len({one.subscription_id for one in monitoring.subscriptions}) == len(by_subscription)


async def test_a_batch_that_is_too_large_is_halved_and_the_next_session_remembers(
    small_server: OpcuaServer,
) -> None:
    tags = tags_of(*[one.node_id for one in small_server.moving][:10])
    batch = BatchSize(1_000)
    async with session(small_server.endpoint) as channel:
        settings = replace(PATIENT, items_per_call=1_000)
        monitoring = await monitor(channel, tags, ItemSettings(), settings, Limits(), MOST_ROWS, batch=batch)
    assert monitoring.monitored == 10
    assert batch.most < 10


def test_a_connection_that_broke_over_a_batch_gets_smaller_ones_and_recovers() -> None:
    batch = BatchSize(1_000)
    batch.halve(1_000)
    batch.halve(1_000)
    assert batch.most == 500
    batch.recover()
    assert batch.most == 1_000
    batch.halve(600, said=True)
    batch.recover()
    assert batch.most == 300
    for _ in range(20):
        batch.halve(batch.most)
    assert batch.most == 8
    assert BatchSize(5).most == 5


async def test_a_session_that_ends_while_items_are_made_says_so_and_halves_the_batch(plant: Plant) -> None:
    batch = BatchSize(100)
    async with session(plant.endpoint) as channel:
        limits = await read_limits(channel)
        addresses = await resolve(channel, tags := tags_of("ns=1;s=pressure", "ns=1;s=flow"))
        channel.abort(ConnectionRefused("cut"))
        with pytest.raises(ConnectionRefused, match="cut"):
            await monitor(
                channel, tags, ItemSettings(), PATIENT, limits, MOST_ROWS, addresses=addresses, batch=batch
            )


# asyncua compares with the last sample, not with the last value it sent.
async def test_a_deadband_holds_small_changes_back(tenant: Tenant, server: OpcuaServer) -> None:
    wanted = connection(
        server.endpoint,
        *[one.node_id for one in server.moving][:2],
        settings=ItemSettings(deadband_type="Absolute", deadband_value=4.5),
    )
    tenant.connect(wanted, SETTINGS)
    values: list[float] = []

    def enough() -> bool:
        batch = tenant.sink.drain()
        values.extend(batch.value[batch.slot == 0].tolist())
        return len(values) >= 4

    await until(enough)
    # The counter goes up by one: what is sent is at least five steps from what was sent before.
    assert all(after - before >= 5 for before, after in pairwise(values))


async def test_a_deadband_in_percent_needs_a_range_and_without_it_the_tag_is_monitored_all_the_same(
    server: OpcuaServer,
) -> None:
    percent = ItemSettings(deadband_type="Percent", deadband_value=10.0)
    async with session(server.endpoint) as channel:
        with_range = await monitored(channel, tags_of("ns=1;s=analog", settings=percent))
        without = await monitored(channel, tags_of("ns=1;s=plain", "ns=1;s=type.String", settings=percent))
    assert without.missing() == with_range.missing() == {}
    assert with_range.notes == ()
    assert without.notes == ("the server refuses the deadband or trigger of 2 tags: monitored without it",)


async def test_tags_with_their_own_interval_have_their_own_subscription(server: OpcuaServer) -> None:
    nodes = [one.node_id for one in server.moving][:4]
    this = uuid4()
    settings = (ItemSettings(), ItemSettings(publishing_interval_ms=200, queue_size=3))
    tags = TagSet.of(
        Tag(place + 1, this, this, this, "T", node, "DOUBLE", None, 1.0, 0.0, settings[place % 2])
        for place, node in enumerate(nodes)
    )
    async with session(server.endpoint) as channel:
        monitoring = await monitored(channel, tags, publishing_interval_ms=100, queue_size=5)
    assert monitoring.subscription.tolist() == [0, 1, 0, 1]
    assert monitoring.queue_size.tolist() == [5, 3, 5, 3]
    assert [one.wanted_interval_ms for one in monitoring.subscriptions] == [100, 200]
    assert [one.publishing_interval_s for one in monitoring.subscriptions] == [0.1, 0.2]


async def test_where_a_server_makes_one_subscription_tags_with_another_interval_share_it(
    growing: GrowingPlant,
) -> None:
    this = uuid4()
    settings = (ItemSettings(), ItemSettings(publishing_interval_ms=5_000))
    tags = TagSet.of(
        Tag(place + 1, this, this, this, "T", f"ns=1;s={name}", "DOUBLE", None, 1.0, 0.0, settings[place])
        for place, name in enumerate(("pressure", "flow"))
    )
    async with session(growing.endpoint) as channel:
        announced = await monitored(channel, tags, Limits(subscriptions_per_session=1))
        growing.refuse_after("create_subscription", 1, StatusCodes.BadTooManySubscriptions)
        refused = await monitored(channel, tags, Limits())
    for monitoring in (announced, refused):
        assert monitoring.missing() == {}
        assert monitoring.subscription.tolist() == [0, 0]
        assert monitoring.notes == (
            "the server makes no more subscriptions: tags share those with other intervals",
        )


async def test_nodes_that_appear_later_are_monitored_without_a_new_session(growing: GrowingPlant) -> None:
    tags = tags_of("ns=1;s=pressure", "ns=1;s=late", "nsu=urn:late;s=x", "/Objects/late", "nonsense")
    async with session(growing.endpoint) as channel:
        limits = await read_limits(channel)
        monitoring = await monitored(channel, tags, limits)
        assert monitoring.monitored == 1
        await growing.add("late")
        items = Items(
            channel,
            monitoring,
            defaults=ItemSettings(),
            settings=PATIENT,
            limits=limits,
            most_rows=MOST_ROWS,
        )
        assert await try_again(channel, items, limits) == 4
        assert monitoring.missing() == {
            MissingReason.UNKNOWN_NAMESPACE: 1,
            MissingReason.INVALID_NODE_ID: 1,
        }
        assert monitoring.subscription.tolist()[:2] == [0, 0]
        assert len(monitoring.subscriptions) == 1


async def test_a_subscription_that_is_gone_gives_its_tags_back(plant: Plant) -> None:
    tags = tags_of("ns=1;s=pressure", "ns=1;s=flow")
    async with session(plant.endpoint) as channel:
        monitoring = await monitored(channel, tags)
        places = monitoring.remove(monitoring.subscriptions[0].subscription_id)
    assert places.tolist() == [0, 1]
    assert monitoring.subscriptions == ()
    assert monitoring.monitored == 0


@pytest.mark.parametrize("service", ["create_subscription", "create_monitored_items"])
async def test_a_server_without_subscriptions_is_polled(growing: GrowingPlant, service: str) -> None:
    growing.refuse(service, StatusCodes.BadServiceUnsupported)
    tags = tags_of("ns=1;s=pressure", "ns=1;s=gone", "ns=1;s=flow")
    async with session(growing.endpoint) as channel:
        monitoring = await monitored(channel, tags)
    assert monitoring.polled.tolist() == [0, 1, 2]
    assert monitoring.missing() == {MissingReason.UNKNOWN_NODE: 1}
    assert monitoring.notes == ("the server has no subscriptions: every tag is polled",)


@pytest.mark.parametrize("status", [StatusCodes.BadInternalError, StatusCodes.BadTooManyOperations])
async def test_a_server_that_refuses_every_batch_is_left_with_its_reason(
    growing: GrowingPlant, status: int
) -> None:
    growing.refuse("create_monitored_items", status)
    tags = tags_of(*(f"ns=1;s=tag{number}" for number in range(200)))
    async with session(growing.endpoint) as channel:
        with pytest.raises(ConnectionRefused, match="no monitored items: Bad"):
            await monitored(channel, tags)


async def test_a_server_without_room_for_any_item_leaves_the_session_alive(growing: GrowingPlant) -> None:
    growing.refuse("create_monitored_items", StatusCodes.BadTooManyMonitoredItems)
    async with session(growing.endpoint) as channel:
        monitoring = await monitored(channel, tags_of("ns=1;s=pressure", "ns=1;s=flow"))
    assert monitoring.missing() == {MissingReason.SERVER_LIMIT: 2}
    assert len(monitoring.subscriptions) == 1


async def test_a_connection_without_tags_still_has_a_subscription(plant: Plant) -> None:
    async with session(plant.endpoint) as channel:
        monitoring = await monitored(channel, tags_of())
    assert len(monitoring.subscriptions) == 1
    assert monitoring.missing() == {}
