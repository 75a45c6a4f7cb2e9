"""A tenant's pipeline with a real ring, store and page of counters: when it flushes, and what it promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest

from engine.gaps import Cause, Gaps
from engine.metrics import Counter, DropReason, Gauge, MetricsPage, TenantSample
from engine.pipeline import TenantPipeline
from engine.readings import Kind, RawBatch
from engine.settings import Settings
from engine.store import Store
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant

BASE_US = 1_780_000_000_000_000
FOREVER_MS = 600_000
SETTINGS = Settings(
    buffer_duration_ms=FOREVER_MS, max_buffer_size=100, ring_rows=1_024, database_retry_most_s=0.2
)


@dataclass
class Running:
    """A pipeline whose `run` is running, and what can be seen of it from outside."""

    pipeline: TenantPipeline
    page: MetricsPage
    dsn: str
    task: asyncio.Task[None]
    sent: int = 0

    def receive(self, rows: int) -> None:
        """Put readings into the ring as the publish pump does."""
        slot = self.pipeline.tags.slot(7, scaling_factor=2.0, offset=1.0)
        raw = RawBatch(
            ts_us=BASE_US + np.arange(self.sent, self.sent + rows, dtype=np.int64),
            slot=np.full(rows, slot, np.uint32),
            status=np.zeros(rows, np.uint32),
            value=np.arange(self.sent, self.sent + rows, dtype=np.float64),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        )
        assert self.pipeline.ring.append(raw)
        self.sent += rows
        self.pipeline.stored(rows)

    def stored(self) -> list[tuple[int, float]]:
        """Return (tag_id, value) of what the database holds, oldest first."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute("select tag_id, value from readings order by ts").fetchall()

    def counts(self) -> TenantSample:
        """Return what the page says of the tenant."""
        return self.page.snapshot().tenants["acme"]


@pytest.fixture
async def start(databases: MasterAndTenant) -> AsyncIterator[Callable[..., Running]]:
    """A function that starts a pipeline with settings; what it started is ended after the test."""
    started: list[tuple[Running, Store]] = []

    def begin(dsn: str = databases.tenant_dsn, **changed: object) -> Running:
        page = MetricsPage.create(1)
        store = Store(dsn, "test pipeline")
        pipeline = TenantPipeline(
            store=store,
            counters=page.shard(0).tenant("acme"),
            settings=replace(SETTINGS, **changed),  # type: ignore[arg-type]
        )
        running = Running(pipeline, page, databases.tenant_dsn, asyncio.create_task(pipeline.run()))
        started.append((running, store))
        return running

    yield begin
    for running, store in started:
        running.task.cancel()
        await asyncio.wait([running.task])
        await store.close()


async def until(probe: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own timeout ends a wait in vain."""
    async with asyncio.timeout(20):
        while not probe():  # noqa: ASYNC110  (what is probed is in shared memory)
            await asyncio.sleep(0.01)


async def test_a_full_batch_is_flushed_before_its_time(start: Callable[..., Running]) -> None:
    running = start()
    running.receive(99)
    running.receive(1)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 100)
    assert running.stored() == [(7, number * 2.0 + 1.0) for number in range(100)]


async def test_a_small_batch_waits_until_its_oldest_reading_is_old_enough(
    start: Callable[..., Running],
) -> None:
    running = start(buffer_duration_ms=300)
    began_s = time.monotonic()
    running.receive(3)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 3)
    assert time.monotonic() - began_s >= 0.3
    assert len(running.stored()) == 3


async def test_received_equals_committed_plus_in_flight_at_every_step(start: Callable[..., Running]) -> None:
    running = start()
    running.receive(60)
    assert running.counts().gauges[Gauge.IN_FLIGHT] == 60
    assert running.counts().accounting_difference == 0
    running.receive(60)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 120)
    assert running.counts().gauges[Gauge.IN_FLIGHT] == 0
    assert running.counts().accounting_difference == 0


async def test_a_value_that_is_told_again_is_counted_and_not_stored_and_a_gap_goes_with_its_batch(
    start: Callable[..., Running],
) -> None:
    running = start()
    continuity = running.pipeline.continuity
    running.receive(1)
    slots = np.zeros(1, np.uint32)
    continuity.interrupted(slots, Cause.OUTAGE)
    running.sent = 0
    running.receive(1)
    continuity.interrupted(slots, Cause.OUTAGE)
    running.receive(98)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 99)
    assert running.counts().dropped[DropReason.REPEATED] == 1
    assert running.counts().counters[Counter.GAPS] == 1
    assert running.counts().accounting_difference == 0
    assert len(running.stored()) == 99
    with psycopg.connect(running.dsn) as connection:
        found = connection.execute("select tag_id, cause from reading_gaps").fetchall()
    assert found == [(7, "outage")]


async def test_a_batch_of_repetitions_alone_is_settled_without_a_write(start: Callable[..., Running]) -> None:
    running = start()
    running.receive(100)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 100)
    running.pipeline.continuity.interrupted(np.zeros(1, np.uint32), Cause.OUTAGE)
    running.sent = 99
    running.receive(1)
    running.pipeline.drain()
    await asyncio.wait_for(running.task, 20)
    assert running.counts().dropped[DropReason.REPEATED] == 1
    assert running.counts().gauges[Gauge.IN_FLIGHT] == 0
    assert running.counts().accounting_difference == 0
    assert len(running.stored()) == 100


async def test_a_gap_that_was_filled_is_forgotten_although_no_row_follows(
    start: Callable[..., Running],
) -> None:
    running = start(buffer_duration_ms=10)
    given: list[Gaps] = []
    continuity = running.pipeline.continuity
    running.pipeline.tags.slot(7, scaling_factor=2.0, offset=1.0)
    continuity.attach(np.zeros(1, np.uint32), given.append)
    running.receive(1)
    continuity.interrupted(np.zeros(1, np.uint32), Cause.OUTAGE)
    running.receive(1)
    await until(lambda: running.counts().counters[Counter.COMMITTED] == 2)

    def recorded() -> int:
        with psycopg.connect(running.dsn) as connection:
            return len(connection.execute("select from reading_gaps").fetchall())

    assert recorded() == 1
    continuity.recovered(given[0])
    await until(lambda: recorded() == 0)
    assert running.counts().counters[Counter.GAPS] == 0


async def test_drain_writes_what_is_there_at_once_and_ends_the_run(start: Callable[..., Running]) -> None:
    running = start()
    running.receive(5)
    running.pipeline.drain()
    await asyncio.wait_for(running.task, 20)
    assert len(running.stored()) == 5
    assert running.pipeline.abandon() == 0


async def test_who_waits_for_space_goes_on_after_a_flush_although_no_batch_was_due(
    start: Callable[..., Running],
) -> None:
    running = start(max_buffer_size=1_000_000, ring_rows=2_000_000)
    running.receive(10)
    async with asyncio.timeout(20):
        await running.pipeline.wait_for_space()
    assert len(running.pipeline.ring) == 0


async def test_a_batch_is_held_while_the_database_is_away_and_stored_when_it_is_back(
    start: Callable[..., Running], databases: MasterAndTenant
) -> None:
    parts = urlsplit(databases.tenant_dsn)
    assert parts.hostname
    proxy = await CuttingProxy.start(parts.hostname, parts.port or 5432)
    try:
        login = parts.netloc.rpartition("@")[0]
        running = start(dsn=parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl())
        proxy.refuse()
        running.receive(100)
        await until(lambda: running.counts().counters[Counter.WRITE_FAILURES] >= 2)
        assert running.counts().gauges[Gauge.DATABASE_UP] == 0
        assert running.counts().gauges[Gauge.IN_FLIGHT] == 100
        running.receive(50)
        await proxy.accept()
        await until(lambda: running.counts().gauges[Gauge.DATABASE_UP] == 1)
        running.pipeline.drain()
        await asyncio.wait_for(running.task, 20)
        assert len(running.stored()) == 150
        assert running.counts().accounting_difference == 0
    finally:
        await proxy.stop()


async def test_what_must_be_abandoned_is_counted_as_dropped(start: Callable[..., Running]) -> None:
    running = start()
    running.receive(42)
    running.task.cancel()
    await asyncio.wait([running.task])
    assert running.pipeline.abandon() == 42
    assert running.counts().dropped[DropReason.STOPPED] == 42
    assert running.counts().accounting_difference == 0
