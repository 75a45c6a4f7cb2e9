"""The shared-memory page: its bytes, its writers, and what survives the death of a process."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from engine.errors import ConfigurationError, InvalidInput
from engine.metrics import (
    Counter,
    DropReason,
    Gauge,
    MetricsPage,
    MissingReason,
    ProcessKind,
    ProcessSample,
    ProcessState,
    TenantSample,
    samples,
)
from engine.metrics.layout import (
    BLOCK_WORDS,
    TENANT_WORDS,
    TENANTS_PER_BLOCK,
    ProcessWord,
    TenantWord,
)
from engine.metrics.names import (
    BATCH_ROWS_BOUNDS,
    COUNTERS,
    GAUGES,
    SYNC_SECONDS_BOUNDS,
    WRITE_SECONDS_BOUNDS,
)
from tests.engine.counting import committed, received

_DEADLINE_S = 20.0
STREAM = UUID("00000000-0000-4000-8000-000000000007")


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    """A page for two ingest workers, the aggregator and one front."""
    made = MetricsPage.create(2)
    yield made
    made.close()


def successor(page: MetricsPage) -> MetricsPage:
    """The same page as a process that starts now sees it: nothing is claimed yet."""
    return MetricsPage.attach(os.dup(page.fd))


def words_of(page: MetricsPage) -> list[int]:
    """Every word of the page up to the end of shard 0's first tenant."""
    length = 4096 + 4096 + 4096 + 2048
    return list(struct.unpack(f"@{length // 8}Q", os.pread(page.fd, length, 0)))


@contextmanager
def child(page: MetricsPage, body: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python that has the page as `page`; it tells by a line on standard output how far it is."""
    prelude = "import sys, time\nfrom engine.metrics import *\nfrom tests.engine.counting import *\n"
    prelude += "page = MetricsPage.attach(int(sys.argv[1]))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + body, str(page.fd)],
        pass_fds=[page.fd],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_bytes_are_where_the_layout_says(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    received(slots, 7, in_flight=5)
    committed(slots, 2, in_flight=5)
    slots.drop(DropReason.STOPPED, 1)
    slots.set(Gauge.DATABASE_UP, 1)
    slots.observe_write(50, 0.3)
    slots.set_missing(MissingReason.UNKNOWN_NODE, 12)
    slots.observe_sync(0.002)
    slots.count_from(STREAM, readings=1, quarantined=5)
    page.shard(0).set_state(ProcessState.READY)
    page.process_died(ProcessKind.INGEST, 0, -9)

    words = words_of(page)
    assert struct.pack("@Q", words[0]) in (b"SCADAMET", b"SCADAMET"[::-1])
    assert words[1:6] == [3, 2, 1, 1024, os.fstat(page.fd).st_size]
    assert os.fstat(page.fd).st_size == 4096 + 4096 + 5 * (4096 + 1024 * 2048)
    assert words[512:515] == [1, os.getpid(), 2**64 - 9]
    block = words[1024:]
    assert block[:2] == [ProcessState.READY, os.getpid()]
    assert block[4] == 1
    tenant = block[512:]
    assert tenant[0] % 2 == 0
    assert tenant[1:3] == [1, 4]
    assert struct.pack("@8Q", *tenant[3:11]) == b"acme".ljust(64, b"\0")
    assert tenant[11:14] == [0x8000_0000_0000_0007, 1, 2**64 - 5]
    assert tenant[16:18] == [7, 2]
    assert tenant[48:51] == [0, 0, 1]
    assert struct.unpack("@6d", struct.pack("@6Q", *tenant[56:62])) == (0, 0, 0, 0, 5, 1)
    assert tenant[72 + BATCH_ROWS_BOUNDS.index(50)] == 1
    assert tenant[89 + WRITE_SECONDS_BOUNDS.index(0.5)] == 1
    assert struct.unpack("@d", struct.pack("@Q", tenant[88])) == (50.0,)
    assert struct.unpack("@d", struct.pack("@Q", tenant[105])) == (0.3,)
    assert tenant[106:111] == [0, 0, 0, 12, 0]
    assert tenant[128 + SYNC_SECONDS_BOUNDS.index(0.0025)] == 1
    assert struct.unpack("@d", struct.pack("@Q", tenant[144])) == (0.002,)


def test_every_number_has_room_in_the_layout() -> None:
    assert TenantWord.COUNTERS + len(Counter) <= TenantWord.DROPPED
    assert TenantWord.DROPPED + len(DropReason) <= TenantWord.GAUGES
    assert TenantWord.GAUGES + len(Gauge) <= TenantWord.BATCH_ROWS
    assert TenantWord.BATCH_ROWS + len(BATCH_ROWS_BOUNDS) + 1 <= TenantWord.BATCH_ROWS_SUM
    assert TenantWord.WRITE_SECONDS + len(WRITE_SECONDS_BOUNDS) + 1 <= TenantWord.WRITE_SECONDS_SUM
    assert TenantWord.WRITE_SECONDS_SUM < TenantWord.MISSING
    assert TenantWord.MISSING + len(MissingReason) <= TenantWord.SYNC_SECONDS
    assert TenantWord.SYNC_SECONDS + len(SYNC_SECONDS_BOUNDS) + 1 <= TenantWord.SYNC_SECONDS_SUM
    assert TenantWord.SYNC_SECONDS_SUM < TENANT_WORDS
    assert TenantWord.SETTLED + 3 <= TenantWord.COUNTERS
    assert set(COUNTERS) == set(Counter)
    assert set(GAUGES) == set(Gauge)


def test_a_page_takes_memory_only_for_what_was_written() -> None:
    page = MetricsPage.create(256)
    for shard in (0, 255):
        page.shard(shard).tenant("acme").count(Counter.MESSAGES)
    page.snapshot()
    status = os.fstat(page.fd)
    assert status.st_size > 256 * 1024 * 1024
    # Two tenants, and what reading the heads of 259 blocks touches: a page each.
    assert status.st_blocks * 512 <= (259 + 8) * 4096
    page.close()


def test_a_tenant_that_moved_is_one_tenant_with_the_sum_of_its_shards(page: MetricsPage) -> None:
    old, new = page.shard(0).tenant("acme"), page.shard(1).tenant("acme")
    received(old, 10, in_flight=0)
    committed(old, 10, in_flight=0)
    old.observe_write(10, 0.001)
    old.set(Gauge.DATABASE_UP, 1)
    old.set(Gauge.ACTIVE_CONNECTIONS, 2)
    old.set_active(False)
    received(new, 5, in_flight=5)
    new.set(Gauge.DATABASE_UP, 1)

    tenant = page.snapshot().tenants["acme"]
    assert tenant.active
    assert tenant.counters[Counter.RECEIVED] == 15
    assert tenant.counters[Counter.COMMITTED] == 10
    assert tenant.gauges[: Gauge.BACKLOG] == (0, 0, 0, 0, 5, 1)
    assert tenant.batch_rows.buckets[BATCH_ROWS_BOUNDS.index(10)] == 1
    assert tenant.batch_rows.sum == 10
    assert tenant.accounting_difference == 0


def test_observations_on_a_bound_belong_to_its_bucket_and_above_the_last_to_one_more(
    page: MetricsPage,
) -> None:
    slots = page.shard(0).tenant("acme")
    slots.observe_write(10_000, 30.0)
    slots.observe_write(10_001, 30.001)
    slots.observe_write(10_000_000, 0.0)
    tenant = page.snapshot().tenants["acme"]
    at = BATCH_ROWS_BOUNDS.index(10_000)
    assert tenant.batch_rows.buckets[at : at + 2] == (1, 1)
    assert tenant.batch_rows.buckets[-1] == 1
    assert (
        tenant.write_seconds.buckets[0]
        == tenant.write_seconds.buckets[-1]
        == tenant.write_seconds.buckets[-2]
        == 1
    )


def test_the_next_worker_finds_counters_as_they_were_and_gauges_at_zero(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    received(slots, 3, in_flight=3)
    committed(slots, 2, in_flight=1)
    for gauge in Gauge:
        slots.set(gauge, 1)
    following = successor(page)
    shard = following.shard(0)
    sample = page.snapshot().tenants["acme"]
    assert not sample.active
    assert [gauge for gauge in Gauge if sample.gauges[gauge]] == [Gauge.IN_FLIGHT]
    assert sample.accounting_difference == 0
    received(shard.tenant("acme"), 1, in_flight=2)
    sample = page.snapshot().tenants["acme"]
    assert sample.active
    assert sample.counters[Counter.RECEIVED] == 4
    following.close()


def test_tags_that_are_missing_are_told_by_reason_until_the_tenant_rests(page: MetricsPage) -> None:
    old, new = page.shard(0).tenant("acme"), page.shard(1).tenant("acme")
    old.set_missing(MissingReason.UNKNOWN_NODE, 3)
    new.set_missing(MissingReason.UNKNOWN_NODE, 4)
    new.set_missing(MissingReason.OTHER, 1)
    assert page.snapshot().tenants["acme"].missing == (0, 0, 0, 7, 0, 0, 0, 0, 1)
    new.set_active(False)
    assert page.snapshot().tenants["acme"].missing == (0, 0, 0, 3, 0, 0, 0, 0, 0)


def test_of_a_dead_worker_every_tag_is_not_connected(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    slots.set(Gauge.WANTED_ITEMS, 10)
    slots.set(Gauge.MONITORED_ITEMS, 8)
    slots.set_missing(MissingReason.NOT_READABLE, 2)
    page.process_died(ProcessKind.INGEST, 0, -9)
    tenant = page.snapshot().tenants["acme"]
    assert (tenant.gauges[Gauge.WANTED_ITEMS], tenant.gauges[Gauge.MONITORED_ITEMS]) == (10, 0)
    assert tenant.missing[MissingReason.NOT_CONNECTED] == sum(tenant.missing) == 10


def test_a_worker_that_died_in_the_middle_of_a_change_does_not_stop_readers(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    slots.__enter__()
    slots.count(Counter.RECEIVED, 5)
    assert page.snapshot().tenants["acme"].counters[Counter.RECEIVED] == 5
    following = successor(page)
    following.shard(0)
    assert words_of(page)[1024 + 512] % 2 == 0
    assert page.snapshot().tenants["acme"].accounting_difference == 0
    following.close()


def test_claiming_a_block_twice_in_one_process_resets_nothing(page: MetricsPage) -> None:
    received(page.shard(0).tenant("acme"), 5, in_flight=5)
    page.shard(0).tenant("acme").set(Gauge.WANTED_ITEMS, 3)
    assert page.snapshot().tenants["acme"].dropped == (0, 0, 0, 0, 0)
    assert page.snapshot().tenants["acme"].gauges[Gauge.WANTED_ITEMS] == 3


def test_a_change_in_several_steps_is_seen_as_one_and_may_be_nested(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    with slots.together():
        received(slots, 5, in_flight=5)
        assert words_of(page)[1024 + 512] % 2 == 1
    assert words_of(page)[1024 + 512] % 2 == 0


def test_a_reader_in_another_process_sees_numbers_that_add_up(
    page: MetricsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As patient as it takes: a writer may lose its processor in the middle of a change for longer than a scrape waits.
    monkeypatch.setattr(samples, "_READ_TRIES", 100_000)
    body = """
slots = page.shard(0).tenant("acme")
print("begun", flush=True)
held = 0
for rows in range(1, 1_000_000_000):
    held += rows
    received(slots, rows, in_flight=held)
    with slots.together():
        slots.count(Counter.RECEIVED)
        slots.drop(DropReason.UNKNOWN_HANDLE)
    committed(slots, held, in_flight=0)
    held = 0
"""
    with child(page, body) as process:
        assert line_of(process) == "begun"
        moments: set[int] = set()
        torn = 0
        for _ in range(3_000):
            sample = page.snapshot().tenants["acme"]
            moments.add(sample.counters[Counter.RECEIVED])
            torn += sample.accounting_difference != 0
    assert len(moments) > 10
    assert torn == 0


def test_a_reader_sees_whole_words_only(page: MetricsPage) -> None:
    body = """
words, base = page._u64, page._block(0)
print("begun", flush=True)
while True:
    words[base + 100] = 2**64 - 1
    words[base + 100] = 0
"""
    with child(page, body) as process:
        assert line_of(process) == "begun"
        words, base = page._u64, page._block(0)
        seen = {words[base + 100] for _ in range(300_000)}
    assert seen == {0, 2**64 - 1}


def test_counters_do_not_go_back_when_workers_are_killed_again_and_again(page: MetricsPage) -> None:
    body = """
shard = page.shard(0)
slots = shard.tenant("acme")
shard.set_state(ProcessState.READY)
print("begun", flush=True)
while True:
    received(slots, 10, in_flight=10)
    committed(slots, 7, in_flight=3)
    committed(slots, 3, in_flight=0)
    slots.observe_write(10, 0.002)
"""
    seen: list[TenantSample] = []
    for _ in range(3):
        with child(page, body) as process:
            assert line_of(process) == "begun"
            before = page.snapshot().tenants["acme"].counters[Counter.COMMITTED]
            until = time.monotonic() + _DEADLINE_S
            while page.snapshot().tenants["acme"].counters[Counter.COMMITTED] < before + 1_000:
                assert time.monotonic() < until
                seen.append(page.snapshot().tenants["acme"])
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            page.process_died(ProcessKind.INGEST, 0, -signal.SIGKILL)
            seen.append(page.snapshot().tenants["acme"])
    following = successor(page)
    following.shard(0).tenant("acme").settle(STREAM, readings=0, quarantined=0, waiting=0)
    last = page.snapshot().tenants["acme"]
    following.close()
    for earlier, later in zip(seen, [*seen[1:], last], strict=True):
        assert all(
            a <= b
            for a, b in zip(earlier.counters + earlier.dropped, later.counters + later.dropped, strict=True)
        )
        assert earlier.batch_rows.sum <= later.batch_rows.sum
    assert last.accounting_difference == 0
    assert last.dropped[DropReason.WORKER_KILLED] <= 3 * 10


def _front_of(page: MetricsPage) -> ProcessSample:
    (front,) = (each for each in page.snapshot().processes if each.kind is ProcessKind.FRONT)
    return front


def test_the_supervisor_sees_a_process_absent_while_it_is_dead_and_its_successor_when_it_claims(
    page: MetricsPage,
) -> None:
    body = 'page.front().set_state(ProcessState.READY)\nprint("begun", flush=True)\ntime.sleep(60)\n'
    assert page.process_state("front", 0) is ProcessState.ABSENT
    for restarts in range(2):
        with child(page, body) as process:
            assert line_of(process) == "begun"
            assert page.process_state("front", 0) is ProcessState.READY
            front = _front_of(page)
            assert (front.kind, front.pid, front.exited, front.restarts) == (
                "front",
                process.pid,
                False,
                restarts,
            )
            assert front.heartbeat_age_s is not None
            assert front.heartbeat_age_s < _DEADLINE_S
            assert abs(front.started_at_s - time.time()) < _DEADLINE_S
            process.kill()
            process.wait()
        page.process_died("front", 0, -9)
        front = _front_of(page)
        assert (front.state, front.exited, front.exit_status) == (ProcessState.ABSENT, True, -9)


def test_nothing_is_connected_at_a_worker_that_has_died(page: MetricsPage) -> None:
    slots = page.shard(0).tenant("acme")
    for gauge in Gauge:
        slots.set(gauge, 4)
    page.process_died(ProcessKind.INGEST, 0, 1)
    gauges = page.snapshot().tenants["acme"].gauges
    assert gauges[Gauge.ACTIVE_CONNECTIONS] == gauges[Gauge.MONITORED_ITEMS] == 0
    assert gauges[Gauge.WANTED_CONNECTIONS] == gauges[Gauge.WANTED_ITEMS] == 4


def test_tenants_come_sorted_and_slugs_of_64_bytes_fit(page: MetricsPage) -> None:
    slugs = ["z", "a" * 64, "ölfeld-" + "x" * 56, "b"]
    for slug in slugs:
        page.shard(0).tenant(slug)
    assert list(page.snapshot().tenants) == sorted(slugs)


@pytest.mark.parametrize("slug", ["", "a" * 65, "ö" * 33, 'a"b', "a\\b", "a\nb"])
def test_a_slug_that_cannot_stand_in_metrics_is_refused(page: MetricsPage, slug: str) -> None:
    with pytest.raises(InvalidInput, match="slug"):
        page.shard(0).tenant(slug)
    assert page.snapshot().tenants == {}


def test_one_tenant_too_many_is_refused_and_the_others_go_on(page: MetricsPage) -> None:
    shard = page.shard(0)
    for number in range(TENANTS_PER_BLOCK):
        shard.tenant(f"tenant-{number}")
    with pytest.raises(ConfigurationError, match="tenant one-more: this worker has had 1024 tenants"):
        shard.tenant("one-more")
    shard.tenant("tenant-1023").count(Counter.MESSAGES)
    assert len(page.snapshot().tenants) == TENANTS_PER_BLOCK
    # The last tenant's words end before the next worker's block begins.
    assert page.snapshot().processes[1].state is ProcessState.ABSENT
    assert page._block(1) - page._block(0) == BLOCK_WORDS


@pytest.mark.parametrize(
    ("kind", "index"), [("ingest", 2), ("ingest", -1), ("front", 1), ("aggregator", 1), ("rest", 1)]
)
def test_a_process_without_a_block_is_refused(page: MetricsPage, kind: str, index: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{kind} processes, none for {index}"):
        page.process_state(kind, index)


def test_a_descriptor_that_is_no_page_is_refused() -> None:
    read, write = os.pipe()
    memory = os.memfd_create("other")
    os.ftruncate(memory, 8192)
    empty = os.memfd_create("empty")
    for fd in (read, memory, empty, 9_999):
        with pytest.raises(ConfigurationError, match=f"descriptor {fd} is not the metrics page"):
            MetricsPage.attach(fd)
    for fd in (read, write, memory, empty):
        os.close(fd)


def test_no_process_can_cut_the_page_from_under_the_others(page: MetricsPage) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(page.fd, 4096)


def test_the_process_words_do_not_reach_into_the_tenants() -> None:
    assert len(ProcessWord) * 8 < 4096
