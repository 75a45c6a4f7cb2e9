"""What a worker makes of the counters that its dead predecessor left, once journal and database have been asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import UUID

import pytest

from engine.metrics import Counter, DropReason, Gauge, MetricsPage, TenantSample
from tests.engine.counting import committed, received

STREAM = UUID("00000000-0000-4000-8000-000000000007")
OTHER_STREAM = UUID("00000000-0000-4000-8000-000000000008")


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    """A page for one ingest worker."""
    made = MetricsPage.create(1)
    yield made
    made.close()


def successor(page: MetricsPage) -> MetricsPage:
    """The same page as a process that starts now sees it: nothing is claimed yet."""
    return MetricsPage.attach(os.dup(page.fd))


def test_what_a_dead_worker_held_is_in_flight_until_its_journal_was_asked_and_then_dropped_once(
    page: MetricsPage,
) -> None:
    slots = page.shard(0).tenant("acme")
    received(slots, 100, in_flight=60)
    slots.drop(DropReason.UNKNOWN_HANDLE, 10)
    committed(slots, 30, in_flight=60)
    for _ in range(2):
        following = successor(page)
        following.shard(0)
        sample = page.snapshot().tenants["acme"]
        assert sample.gauges[Gauge.IN_FLIGHT] == 60
        assert sample.dropped == (10, 0, 0, 0, 0)
        assert sample.accounting_difference == 0
        following.close()
    for _ in range(2):
        following = successor(page)
        slots = following.shard(0).tenant("acme")
        slots.settle(STREAM, readings=1_030, quarantined=7, waiting=45)
        sample = page.snapshot().tenants["acme"]
        assert sample.counters[Counter.COMMITTED] == 30
        assert sample.gauges[Gauge.IN_FLIGHT] == 45
        assert sample.dropped == (10, 15, 0, 0, 0)
        assert sample.accounting_difference == 0
        following.close()


def settled(page: MetricsPage, *, readings: int, quarantined: int, waiting: int) -> TenantSample:
    """What a successor makes of a stream that the database has so much of."""
    following = successor(page)
    slots = following.shard(0).tenant("acme")
    slots.settle(STREAM, readings=readings, quarantined=quarantined, waiting=waiting)
    sample = page.snapshot().tenants["acme"]
    assert sample.accounting_difference == 0
    assert sample.gauges[Gauge.IN_FLIGHT] == waiting
    following.close()
    return sample


def test_what_the_database_took_uncounted_is_committed_and_not_dropped(page: MetricsPage) -> None:
    settled(page, readings=1_000, quarantined=50, waiting=0)
    slots = page.shard(0).tenant("acme")
    received(slots, 100, in_flight=100)
    slots.committed_up_to(1_020, 50)
    sample = settled(page, readings=1_065, quarantined=55, waiting=20)
    assert sample.counters[Counter.COMMITTED] == 65
    assert sample.counters[Counter.QUARANTINED] == 5
    assert sample.dropped[DropReason.WORKER_KILLED] == 10
    assert sample.counters[Counter.RECEIVED] == 100


def test_what_an_engine_before_this_one_left_in_the_journal_counts_as_received(page: MetricsPage) -> None:
    sample = settled(page, readings=1_000, quarantined=0, waiting=250)
    assert sample.counters[Counter.RECEIVED] == 250
    assert sample.counters[Counter.COMMITTED] == 0
    slots = page.shard(0).tenant("acme")
    slots.committed_up_to(1_250, 0)
    slots.set(Gauge.IN_FLIGHT, 0)
    assert page.snapshot().tenants["acme"].counters[Counter.COMMITTED] == 250
    assert page.snapshot().tenants["acme"].accounting_difference == 0


def test_what_the_database_lost_and_the_journal_still_has_is_received_once_more(page: MetricsPage) -> None:
    settled(page, readings=0, quarantined=0, waiting=0)
    slots = page.shard(0).tenant("acme")
    received(slots, 100, in_flight=100)
    slots.committed_up_to(100, 0)
    sample = settled(page, readings=60, quarantined=0, waiting=40)
    assert sample.counters[Counter.COMMITTED] == 100
    assert sample.counters[Counter.RECEIVED] == 140
    slots.committed_up_to(100, 0)
    assert page.snapshot().tenants["acme"].counters[Counter.COMMITTED] == 140


def test_totals_of_another_stream_say_nothing_of_what_was_counted(page: MetricsPage) -> None:
    settled(page, readings=500, quarantined=0, waiting=0)
    slots = page.shard(0).tenant("acme")
    received(slots, 30, in_flight=30)
    following = successor(page)
    lost = following.shard(0).tenant("acme").settle(OTHER_STREAM, readings=900, quarantined=3, waiting=0)
    sample = page.snapshot().tenants["acme"]
    assert lost == sample.dropped[DropReason.WORKER_KILLED] == 30
    assert sample.counters[Counter.COMMITTED] == 0
    assert sample.accounting_difference == 0
    following.close()


def test_a_tenant_that_rests_keeps_what_lies_in_its_journal_in_flight(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    received(slots, 30, in_flight=30)
    slots.set(Gauge.DATABASE_UP, 1)
    slots.set(Gauge.BACKLOG, 30)
    slots.set_active(False)
    sample = page.snapshot().tenants["acme"]
    assert sample.gauges[Gauge.IN_FLIGHT] == sample.gauges[Gauge.BACKLOG] == 30
    assert sample.gauges[Gauge.DATABASE_UP] == 0
    assert sample.accounting_difference == 0
