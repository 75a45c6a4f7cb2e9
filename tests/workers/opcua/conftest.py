"""What the tests of workers.opcua share: a plant (a real OPC UA server), and a tenant that connects to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from engine.metrics import MetricsPage
from tests.servers.cutting_proxy import CuttingProxy
from tests.workers.opcua.growing_plant import GrowingPlant
from tests.workers.opcua.held import Held
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.publishing_script import Running, Script
from tests.workers.opcua.tenant import Tenant, until


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the event loop that a worker has; the plant's thread has asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def one_plant() -> Iterator[Plant]:
    """The server that all tests share."""
    plant = Plant()
    yield plant
    plant.close()


@pytest.fixture
async def plant(one_plant: Plant) -> Plant:
    """A running OPC UA server without subscriptions whose tags are 0.0."""
    await one_plant.start()
    await one_plant.forget()
    return one_plant


@pytest.fixture(scope="session")
def one_growing() -> Iterator[GrowingPlant]:
    """The server of `growing`; making its address space takes seconds."""
    plant = GrowingPlant()
    yield plant
    plant.close()


@pytest.fixture
async def growing(one_growing: GrowingPlant) -> GrowingPlant:
    """A server that can be given nodes (they stay), and told to refuse a service (until the next test)."""
    await one_growing.start()
    await one_growing.forget()
    one_growing.refuse_nothing()
    return one_growing


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    """A metrics page of one shard."""
    page = MetricsPage.create(1)
    yield page
    page.close()


@pytest.fixture
async def tenant(page: MetricsPage) -> AsyncIterator[Tenant]:
    """A tenant whose connections are cancelled at the end."""
    tenant = Tenant(page.shard(0).tenant("test"), page)
    yield tenant
    await tenant.stop()


@pytest.fixture
async def proxy(plant: Plant) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of the plant."""
    proxy = await CuttingProxy.start("127.0.0.1", plant.port)
    yield proxy
    await proxy.stop()


@pytest.fixture
async def running(tenant: Tenant) -> AsyncIterator[Running]:
    """A pump with two publish requests outstanding and a ring of ten rows."""
    tenant.use_ring(10)
    running = Running(Script(), tenant)
    await until(lambda: len(running.script.waiting) == 2)
    yield running
    running.task.cancel()
    await asyncio.wait([running.task])


@pytest.fixture
async def held(tenant: Tenant) -> AsyncIterator[Held]:
    """A connection to be made; its proxy leads where `target` says."""
    proxy = await CuttingProxy.start("127.0.0.1", 1)
    held = Held(tenant, proxy)
    yield held
    if held.task is not None:
        held.task.cancel()
        await asyncio.wait([held.task], timeout=5)
    await proxy.stop()
