"""A connection against a real OPC UA server, through everything that networks and servers do to it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from engine.metrics import Counter
from engine.readings import Kind
from tests.servers.cutting_proxy import CuttingProxy
from tests.workers.opcua.plant import SOURCE_TIME, Plant
from tests.workers.opcua.tenant import FAST, Tenant, connection, until

BAD_SENSOR_FAILURE = 0x808C_0000
PUBLISH_RESPONSE = b"\x01\x00\x3d\x03"


async def test_values_arrive_with_their_source_time_and_status(plant: Plant, tenant: Tenant) -> None:
    await plant.write("pressure", 1.5)
    await plant.write("flow", 2.5, status=BAD_SENSOR_FAILURE)
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure", "ns=1;s=flow"))
    await until(lambda: len(tenant.ring) >= 2)
    raw = tenant.sink.drain()
    assert sorted(raw.slot) == [0, 1]
    by_slot = {int(slot): row for row, slot in enumerate(raw.slot)}
    assert raw.value[by_slot[0]] == 1.5
    assert [int(raw.status[by_slot[slot]]) for slot in (0, 1)] == [0, BAD_SENSOR_FAILURE]
    assert set(raw.ts_us) == {int(SOURCE_TIME.timestamp() * 1e6)}
    assert raw.kind[by_slot[0]] == Kind.NUMBER
    assert tenant.sink.rows == 2


async def test_every_change_arrives_in_order(plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)
    for value in range(1, 51):
        await plant.write("pressure", float(value))
        if value % 10 == 0:
            await asyncio.sleep(0.03)
    await until(lambda: len(tenant.ring) == 51)
    assert list(tenant.sink.drain().value) == [float(value) for value in range(51)]
    await until(lambda: plant.unacknowledged == 0)
    assert tenant.counted(Counter.MISSED_MESSAGES) == 0


async def test_a_node_that_does_not_exist_is_named_and_the_rest_arrives(plant: Plant, tenant: Tenant) -> None:
    nodes = ("ns=1;s=pressure", "ns=1;s=nothing", "ns=1;s=flow", "not a node id", "ns=99999;i=1")
    tenant.connect(connection(plant.endpoint, *nodes))
    await until(lambda: len(tenant.ring) == 2)
    assert sorted(tenant.sink.drain().slot) == [0, 2]
    report = tenant.sink.reports[-1]
    assert (report.connected, report.monitored, report.wanted) == (True, 2, 5)
    assert report.error is not None
    assert report.error.startswith("3 of 5 tags not monitored: ")
    assert "ns=1;s=nothing: BadNodeIdUnknown" in report.error
    assert "not a node id: " in report.error
    assert "ns=99999;i=1: " in report.error


async def test_a_connection_of_bad_nodes_only_is_connected(plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(plant.endpoint, *(f"ns=1;s=none{place}" for place in range(9))))
    await until(lambda: tenant.sink.connected)
    report = tenant.sink.reports[-1]
    assert (report.monitored, report.wanted) == (0, 9)
    assert tenant.sink.error.endswith("; and 4 more")
    await until(lambda: tenant.counted(Counter.KEEP_ALIVES) >= 2)


async def test_items_are_made_in_batches(plant: Plant, tenant: Tenant) -> None:
    nodes = ("ns=1;s=pressure", "ns=1;s=nothing", "ns=1;s=flow", "ns=1;s=running")
    tenant.connect(connection(plant.endpoint, *nodes), replace(FAST, items_per_call=3))
    await until(lambda: len(tenant.ring) == 3)
    assert sorted(tenant.sink.drain().slot) == [0, 2, 3]


async def test_data_goes_on_after_the_server_was_restarted(plant: Plant, tenant: Tenant) -> None:
    await plant.write("pressure", 1.0)
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)
    await plant.stop()
    await until(lambda: not tenant.sink.connected)
    assert tenant.counted(Counter.RECONNECTS) == 1
    await plant.start()
    await until(lambda: tenant.sink.connected)
    await plant.write("pressure", 7.0)
    await tenant.receives(7.0)
    assert tenant.sink.connected
    assert tenant.counted(Counter.RECONNECTS) == 1


async def test_a_refused_connection_is_reported_once_and_tried_again(plant: Plant, tenant: Tenant) -> None:
    await plant.stop()
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error == "cannot connect: connection refused"
    assert tenant.sink.reports[0].wanted == 1
    await asyncio.sleep(0.3)
    assert len(tenant.sink.reports) == 1
    await plant.start()
    await until(lambda: tenant.sink.connected)


@pytest.mark.parametrize(
    ("endpoint", "changes", "words"),
    [
        ("opc.tcp://no-such-host.invalid:4840", {}, "cannot connect: the host name is not known"),
        ("http://127.0.0.1:4840", {}, "the address has to be opc.tcp://host[:port][/path]"),
        ("opc.tcp://127.0.0.1:99999", {}, "is not a URL"),
        ("opc.tcp://a:b@127.0.0.1:1", {}, "the address holds a user name"),
        (
            "opc.tcp://127.0.0.1:1",
            {"security_mode": "Sign"},
            "security mode Sign does not go with security policy None",
        ),
    ],
)
async def test_what_cannot_work_says_why(
    tenant: Tenant, endpoint: str, changes: dict[str, str], words: str
) -> None:
    tenant.connect(connection(endpoint, "ns=1;s=pressure", **changes))
    await until(lambda: bool(tenant.sink.reports))
    assert words in tenant.sink.error


async def test_an_unreadable_publish_response_is_counted_and_the_connection_made_again(
    plant: Plant, proxy: CuttingProxy, tenant: Tenant
) -> None:
    tenant.connect(connection(f"opc.tcp://127.0.0.1:{proxy.port}/plant", "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)

    def spoil(data: bytes) -> bytes:
        place = data.find(PUBLISH_RESPONSE)
        # The string table's length, behind TypeId, Timestamp, handle, result and diagnostics mask.
        return data if place < 0 else data[: place + 21] + b"\xff\xff\xff\x7f" + data[place + 25 :]

    proxy.tamper = spoil
    await until(lambda: tenant.counted(Counter.MALFORMED_MESSAGES) >= 2)
    assert "at byte" in tenant.sink.error or tenant.sink.connected
    proxy.tamper = None
    await until(lambda: tenant.sink.connected)
    tenant.sink.drain()
    await plant.write("pressure", 42.0)
    await tenant.receives(42.0)


@pytest.mark.parametrize(
    "header", [b"MSGF\xff\xff\xff\x7f", b"MSGF\x04\x00\x00\x00", b"NONSENSE"], ids=["huge", "tiny", "unknown"]
)
async def test_a_chunk_that_cannot_be_one_is_refused_before_it_is_buffered(
    plant: Plant, proxy: CuttingProxy, tenant: Tenant, header: bytes
) -> None:
    tenant.connect(connection(f"opc.tcp://127.0.0.1:{proxy.port}/plant", "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)
    proxy.tamper = lambda data: header + data[8:]
    await until(lambda: tenant.counted(Counter.MALFORMED_MESSAGES) >= 1)
    proxy.tamper = None
    await until(lambda: tenant.sink.connected and len(tenant.sink.reports) >= 3)


async def test_a_full_ring_holds_back_acknowledgements_and_loses_nothing(
    plant: Plant, tenant: Tenant
) -> None:
    tenant.use_ring(20)
    settings = replace(FAST, session_timeout_s=1.0)
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"), settings)
    sent = [0.0]
    received: list[float] = []
    await until(lambda: len(tenant.ring) == 1)
    while tenant.sink.waits == 0:
        for _ in range(5):
            sent.append(sent[-1] + 1.0)
            await plant.write("pressure", sent[-1])
        await asyncio.sleep(0.03)
    pauses = tenant.counted(Counter.BACKPRESSURE_PAUSES)
    assert pauses == 1
    assert plant.unacknowledged > 0
    # Longer than the session lives without a sign of life.
    await asyncio.sleep(1.5)
    assert tenant.sink.connected

    def take() -> bool:
        received.extend(tenant.sink.drain().value)
        return len(received) >= len(sent)

    await until(take)
    assert received == sent
    await until(lambda: plant.unacknowledged == 0)
    assert len(tenant.sink.reports) == 1


async def test_a_half_open_connection_is_noticed(plant: Plant, proxy: CuttingProxy, tenant: Tenant) -> None:
    settings = replace(FAST, request_timeout_s=0.5)
    tenant.connect(connection(f"opc.tcp://127.0.0.1:{proxy.port}/plant", "ns=1;s=pressure"), settings)
    await until(lambda: len(tenant.ring) == 1)
    proxy.pause()
    await until(lambda: not tenant.sink.connected)
    assert tenant.sink.error.startswith("nothing was heard from the server for ")
    proxy.resume()
    await until(lambda: tenant.sink.connected)
    await plant.write("pressure", 5.0)
    await tenant.receives(5.0)


async def test_a_subscription_that_the_server_deleted_is_made_again(plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"), replace(FAST, request_timeout_s=0.5))
    await until(lambda: len(tenant.ring) == 1)
    await plant.forget()
    await until(lambda: len(tenant.sink.reports) >= 3)
    await plant.write("pressure", 6.0)
    await tenant.receives(6.0)


async def test_a_connection_that_is_cut_comes_back(plant: Plant, proxy: CuttingProxy, tenant: Tenant) -> None:
    tenant.connect(connection(f"opc.tcp://127.0.0.1:{proxy.port}/plant", "ns=1;s=pressure"))
    for value in (1.0, 2.0, 3.0):
        await until(lambda: tenant.sink.connected)
        await plant.write("pressure", value)
        await tenant.receives(value)
        proxy.cut()
        await until(lambda: not tenant.sink.connected)
    assert tenant.counted(Counter.RECONNECTS) == 3
    assert tenant.counted(Counter.MALFORMED_MESSAGES) == 0


async def test_cancelling_deletes_the_subscription_on_the_server(plant: Plant, tenant: Tenant) -> None:
    task = tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)
    assert plant.subscriptions == 1
    task.cancel()
    async with asyncio.timeout(1.0):
        await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: plant.subscriptions == 0)


async def test_cancelling_ends_in_time_when_the_server_does_not_answer(
    proxy: CuttingProxy, tenant: Tenant
) -> None:
    task = tenant.connect(connection(f"opc.tcp://127.0.0.1:{proxy.port}/plant", "ns=1;s=pressure"))
    await until(lambda: len(tenant.ring) == 1)
    proxy.pause()
    task.cancel()
    async with asyncio.timeout(3.0):
        await asyncio.wait([task])
    assert task.cancelled()


async def test_cancelling_is_heeded_at_any_moment(tenant: Tenant) -> None:
    refused = connection("opc.tcp://127.0.0.1:1", "ns=1;s=pressure")
    settings = replace(FAST, backoff_first_s=0.01, backoff_most_s=0.01)
    for steps in range(100):
        task = tenant.connect(refused, settings)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(1.0):
            await asyncio.wait([task])
        assert task.cancelled()
