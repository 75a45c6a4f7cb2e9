"""A tenant's pipeline with a real ring, journal, database and page of counters: what it promises, step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from engine.errors import StreamTakenOver
from engine.gaps import Cause, Gaps
from engine.metrics import Counter, DropReason, Gauge
from tests.engine.life import Site, until
from tests.servers.databases import MasterAndTenant


@pytest.fixture
async def site(databases: MasterAndTenant, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Where one tenant's pipelines live; what was started is ended after the test."""
    site = Site(databases, tmp_path_factory.mktemp("journal"))
    yield site
    await site.close()


async def test_a_full_batch_is_flushed_before_its_time(site: Site) -> None:
    life = await site.begin()
    life.receive(99)
    life.receive(1)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    assert site.stored() == [(7, number * 2.0 + 1.0) for number in range(100)]


async def test_a_small_batch_waits_until_its_oldest_reading_is_old_enough(site: Site) -> None:
    life = await site.begin(buffer_duration_ms=300)
    began_s = time.monotonic()
    life.receive(3)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 3)
    assert time.monotonic() - began_s >= 0.3
    assert len(site.stored()) == 3


async def test_received_equals_committed_plus_in_flight_at_every_step(site: Site) -> None:
    life = await site.begin()
    life.receive(60)
    assert life.counts().gauges[Gauge.IN_FLIGHT] == 60
    assert life.counts().accounting_difference == 0
    await until(lambda: len(life.pipeline.ring) == 0)
    assert life.counts().accounting_difference == 0
    await until(lambda: life.pipeline.journaled_rows == 60)
    assert life.counts().gauges[Gauge.BACKLOG] == life.counts().gauges[Gauge.IN_FLIGHT] == 60
    life.receive(60)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 120)
    assert life.counts().gauges[Gauge.IN_FLIGHT] == 0
    assert life.counts().accounting_difference == 0


async def test_a_message_is_told_when_it_is_durable_although_the_database_has_nothing(site: Site) -> None:
    life = await site.begin()
    life.receive(10, message=1)
    life.receive(0, message=2)
    assert life.durable == []
    await until(lambda: life.durable == [1, 2])
    assert site.stored() == []
    assert [frame.positions for frame in await life.frames()] == [(life.position(2),)]


async def test_nothing_is_told_while_the_journal_does_not_take_it(site: Site) -> None:
    life = await site.begin()
    async with life.journal_stuck():
        life.receive(10, message=1)
        life.receive(10, message=2)
        await until(lambda: life.pipeline.in_flight_rows > len(life.pipeline.ring))
        await life.turn()
        assert life.durable == []
        assert life.counts().accounting_difference == 0
    await until(lambda: life.durable == [1, 2])


async def test_the_rows_of_a_message_are_never_parted_and_others_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pipeline.journaling.ENTRY_MOST_ROWS", 100)
    life = await site.begin()
    async with life.journal_stuck():
        life.receive(1)
        await until(lambda: len(life.pipeline.ring) == 0)
        life.receive(60, message=1)
        life.receive(60, message=2)
        life.receive(150)
        life.receive(130, message=3)
        life.receive(0, message=4)
    await until(lambda: life.durable == [1, 2, 3, 4])
    frames = await life.frames()
    assert [len(frame.batch) for frame in frames] == [1, 60, 100, 100, 10, 130]
    assert [[position.sequence_number for position in frame.positions] for frame in frames] == [
        [],
        [1],
        [2],
        [],
        [],
        [4],
    ]


async def test_a_value_that_is_told_again_is_counted_and_not_stored_and_a_gap_goes_with_its_batch(
    site: Site,
) -> None:
    life = await site.begin()
    continuity = life.pipeline.continuity
    life.receive(1)
    slots = np.zeros(1, np.uint32)
    continuity.interrupted(slots, Cause.OUTAGE)
    site.sent = 0
    life.receive(1)
    continuity.interrupted(slots, Cause.OUTAGE)
    life.receive(98)
    life.pipeline.drain()
    await life.ended()
    assert life.counts().dropped[DropReason.REPEATED] == 1
    assert life.counts().counters[Counter.GAPS] == 1
    assert life.counts().counters[Counter.COMMITTED] == len(site.stored()) == 99
    assert life.counts().accounting_difference == 0
    assert site.gaps() == [(7, "outage")]


async def test_a_message_of_repetitions_alone_is_told_and_its_position_is_kept(site: Site) -> None:
    life = await site.begin()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    life.pipeline.continuity.interrupted(np.zeros(1, np.uint32), Cause.OUTAGE)
    site.sent = 99
    life.receive(1, message=1)
    life.pipeline.drain()
    await life.ended()
    assert life.durable == [1]
    assert life.counts().dropped[DropReason.REPEATED] == 1
    assert life.counts().gauges[Gauge.IN_FLIGHT] == 0
    assert life.counts().accounting_difference == 0
    assert len(site.stored()) == 100
    await life.kill()
    assert [each.sequence_number for each in (await site.begin()).journal.recovered.positions] == [1]


async def test_a_gap_that_was_filled_is_forgotten_although_no_row_follows(site: Site) -> None:
    life = await site.begin(buffer_duration_ms=10)
    given: list[Gaps] = []
    continuity = life.pipeline.continuity
    life.pipeline.tags.slot(7, scaling_factor=2.0, offset=1.0)
    continuity.attach(np.zeros(1, np.uint32), given.append)
    life.receive(1)
    continuity.interrupted(np.zeros(1, np.uint32), Cause.OUTAGE)
    life.receive(1)
    await until(lambda: len(site.gaps()) == 1)
    continuity.recovered(given[0])
    await until(lambda: site.gaps() == [])
    assert life.counts().counters[Counter.GAPS] == 0


async def test_drain_writes_what_is_there_at_once_and_ends_the_run(site: Site) -> None:
    life = await site.begin()
    life.receive(5)
    life.pipeline.drain()
    await life.ended()
    assert len(site.stored()) == 5
    assert life.pipeline.abandon(journal_stays=True) == 0


async def test_who_waits_for_space_goes_on_although_no_batch_was_due(site: Site) -> None:
    life = await site.begin(max_buffer_size=1_000_000, ring_rows=2_000_000)
    life.receive(10)
    async with asyncio.timeout(20):
        await life.pipeline.wait_for_space()
    assert len(life.pipeline.ring) == 0


async def test_while_the_journal_is_full_nothing_is_accepted_and_it_goes_on_by_itself(site: Site) -> None:
    cut = await site.cut_off()
    life = await site.begin(dsn=cut.dsn, quota_mb=1, max_buffer_size=100, ring_rows=1_024)
    cut.refuse()
    told: list[bool] = []
    forget = life.pipeline.on_accepting(lambda: told.append(life.pipeline.accepting))
    message = 0
    async with asyncio.timeout(60):
        while life.pipeline.accepting or len(life.pipeline.ring) == 0:
            if life.pipeline.ring.free_rows >= 500:
                message += 1
                life.receive(500, message=message)
            await asyncio.sleep(0.001)
    assert told == [False]
    assert life.counts().gauges[Gauge.ACCEPTING] == 0
    assert life.counts().accounting_difference == 0
    assert len(life.durable) < message
    await cut.accept()
    await until(lambda: life.durable == list(range(1, message + 1)))
    assert told == [False, True]
    forget()
    life.pipeline.drain()
    await life.ended()
    assert len(site.stored()) == site.sent
    assert life.counts().accounting_difference == 0


async def test_batches_wait_while_the_database_is_away_and_are_stored_when_it_is_back(site: Site) -> None:
    cut = await site.cut_off()
    life = await site.begin(dsn=cut.dsn)
    cut.refuse()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.WRITE_FAILURES] >= 2)
    assert life.counts().gauges[Gauge.DATABASE_UP] == 0
    assert life.counts().gauges[Gauge.HELD] == 0
    assert life.counts().gauges[Gauge.IN_FLIGHT] == 100
    life.receive(50)
    await cut.accept()
    await until(lambda: life.counts().gauges[Gauge.DATABASE_UP] == 1)
    life.pipeline.drain()
    await life.ended()
    assert len(site.stored()) == 150
    assert life.counts().accounting_difference == 0


async def test_after_an_outage_live_readings_go_first_and_the_backlog_follows_in_its_order(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most in ("BATCH_MOST_ROWS", "COLUMNSTORE_MOST_ROWS"):
        monkeypatch.setattr(f"engine.pipeline.batches.{most}", 200)
    cut = await site.cut_off()
    life = await site.begin(dsn=cut.dsn, memory_most_rows=300)
    marks = life.follow_commits()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    cut.refuse()
    for _ in range(20):
        life.receive(100)
        await until(lambda: len(life.pipeline.ring) == 0)
    await until(lambda: life.pipeline.journaled_rows == 2_000)
    marks.clear()
    await cut.accept()
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 2_100)
    sequences = [mark for _, mark in marks]
    backlog = [mark for is_live, mark in marks if not is_live]
    # The batch that was in hand when the database went away comes first; then what is live, then the rest in order.
    first_live = next(at for at, (is_live, _) in enumerate(marks) if is_live and at > 0)
    assert first_live <= 1
    assert sequences[first_live] == max(sequences)
    assert len(backlog) > 3
    assert backlog == sorted(backlog)
    assert life.counts().counters[Counter.REPLAYED] >= 1_500
    assert site.lanes() == 1
    assert len(site.stored()) == len(set(site.stored())) == 2_100
    assert life.counts().accounting_difference == 0


async def test_a_killed_pipeline_s_journal_is_replayed_and_nothing_is_lost_or_stored_twice(
    site: Site,
) -> None:
    life = await site.begin()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    life.receive(70, message=1)
    await until(lambda: life.durable == [1])
    async with life.journal_stuck():
        life.receive(30)
        life.receive(5)
        await life.kill()
    site.sent -= 35
    assert site.counts().gauges[Gauge.IN_FLIGHT] == 105
    assert site.counts().accounting_difference == 0
    life = await site.begin(buffer_duration_ms=50)
    assert site.counts().accounting_difference == 0
    life.receive(35)
    await until(lambda: life.counts().gauges[Gauge.IN_FLIGHT] == 0)
    counts = life.counts()
    assert counts.dropped[DropReason.WORKER_KILLED] == 35
    assert counts.counters[Counter.COMMITTED] == 205
    assert counts.counters[Counter.REPLAYED] == 70
    assert counts.accounting_difference == 0
    assert site.stored() == [(7, number * 2.0 + 1.0) for number in range(205)]
    assert site.lanes() == 1


async def test_a_commit_that_the_killed_worker_never_counted_is_counted_by_the_next(site: Site) -> None:
    life = await site.begin()
    async with life.killed_after_commit() as committed:
        life.receive(100)
        await committed.wait()
    assert len(site.stored()) == 100
    assert site.counts().counters[Counter.COMMITTED] == 0
    assert site.counts().gauges[Gauge.IN_FLIGHT] == 100
    life = await site.begin()
    counts = life.counts()
    assert counts.counters[Counter.COMMITTED] == 100
    assert counts.gauges[Gauge.IN_FLIGHT] == 0
    assert counts.dropped == (0, 0, 0, 0, 0)
    assert counts.accounting_difference == 0
    life.pipeline.drain()
    await life.ended()
    assert len(site.stored()) == 100


async def test_a_new_supervisor_counts_what_an_earlier_one_left_in_the_journal_as_received(
    site: Site,
) -> None:
    life = await site.begin()
    life.receive(40, message=1)
    await until(lambda: life.durable == [1])
    await life.kill()
    site.new_page()
    life = await site.begin()
    assert life.counts().counters[Counter.RECEIVED] == life.counts().gauges[Gauge.IN_FLIGHT] == 40
    life.pipeline.drain()
    await life.ended()
    assert life.counts().counters[Counter.COMMITTED] == len(site.stored()) == 40
    assert life.counts().accounting_difference == 0


async def test_commits_that_the_database_lost_are_replayed_and_counted_once_more(site: Site) -> None:
    life = await site.begin()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    before = site.backup()
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 200)
    site.restore(before)
    life.receive(100)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 400)
    await until(lambda: life.counts().gauges[Gauge.IN_FLIGHT] == 0)
    assert life.counts().counters[Counter.RECEIVED] == 400
    assert life.counts().counters[Counter.REPLAYED] == 100
    assert life.counts().accounting_difference == 0
    assert site.stored() == [(7, number * 2.0 + 1.0) for number in range(300)]


async def test_a_worker_whose_stream_was_taken_over_stops(site: Site) -> None:
    life = await site.begin()
    life.receive(10, message=1)
    await until(lambda: life.durable == [1])
    await site.claim_elsewhere(life)
    life.receive(100)
    with pytest.raises(StreamTakenOver):
        await life.ended()
    assert site.stored() == []
    assert life.counts().accounting_difference == 0


async def test_a_database_that_refuses_holds_the_stream_until_it_does_not(site: Site) -> None:
    life = await site.begin()
    site.execute("alter table readings rename column text_value to words")
    try:
        life.receive(100, message=1)
        await until(lambda: life.counts().gauges[Gauge.HELD] == 1)
        await until(lambda: life.durable == [1])
        assert life.counts().accounting_difference == 0
    finally:
        site.execute("alter table readings rename column words to text_value")
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 100)
    assert life.counts().gauges[Gauge.HELD] == 0
    assert life.counts().accounting_difference == 0


async def test_rows_that_the_database_cannot_hold_are_counted_as_quarantined(site: Site) -> None:
    life = await site.begin()
    life.receive(50)
    life.receive(1, ts_us=0)
    life.receive(49)
    await until(lambda: life.counts().gauges[Gauge.IN_FLIGHT] == 0)
    assert life.counts().counters[Counter.QUARANTINED] == 1
    assert life.counts().counters[Counter.COMMITTED] == len(site.stored()) == 99
    assert life.counts().accounting_difference == 0


async def test_a_gap_that_is_recorded_in_the_backlog_is_forgotten_by_a_live_frame_that_goes_first(
    site: Site,
) -> None:
    cut = await site.cut_off()
    life = await site.begin(dsn=cut.dsn, memory_most_rows=50, max_buffer_size=40)
    given: list[Gaps] = []
    continuity = life.pipeline.continuity
    life.pipeline.tags.slot(7, scaling_factor=2.0, offset=1.0)
    continuity.attach(np.zeros(1, np.uint32), given.append)
    cut.refuse()
    life.receive(1)
    continuity.interrupted(np.zeros(1, np.uint32), Cause.OUTAGE)
    life.receive(49)
    await until(lambda: life.pipeline.journaled_rows == 50)
    for _ in range(4):
        life.receive(50)
        await until(lambda: len(life.pipeline.ring) == 0)
    await until(lambda: life.pipeline.journaled_rows == 250)
    continuity.recovered(given[0])
    await until(lambda: not continuity.pending)
    await cut.accept()
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 250)
    life.pipeline.drain()
    await life.ended()
    assert site.gaps() == []


async def test_what_must_be_abandoned_is_dropped_and_what_the_journal_has_stays(site: Site) -> None:
    life = await site.begin()
    life.receive(42, message=1)
    await until(lambda: life.durable == [1])
    async with life.journal_stuck():
        life.receive(10)
        await life.cancel()
        assert life.pipeline.abandon(journal_stays=True) == 10
    assert life.counts().dropped[DropReason.STOPPED] == 10
    assert life.counts().gauges[Gauge.IN_FLIGHT] == 42
    assert life.counts().accounting_difference == 0


async def test_the_newest_reading_is_found_in_the_database_the_journal_and_memory(site: Site) -> None:
    tags = np.array([7, 8], np.int32)
    life = await site.begin(buffer_duration_ms=10)
    life.receive(3)
    await until(lambda: life.counts().counters[Counter.COMMITTED] == 3)
    assert (await life.pipeline.newest(tags)).value.tolist() == [5.0, 0.0]
    await life.kill()
    life = await site.begin()
    life.receive(2, message=1)
    await until(lambda: life.durable == [1])
    assert (await life.pipeline.newest(tags)).value.tolist() == [9.0, 0.0]
    await life.kill()
    life = await site.begin(runs=False)
    assert (await life.pipeline.newest(tags)).value.tolist() == [9.0, 0.0]
