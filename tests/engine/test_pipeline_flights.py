"""Two commits of one stream on their way at once: what the second one may do, and what becomes of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from uuid import UUID

import pytest

from engine.database_pool import NoSpareConnection
from engine.errors import DatabaseRejected, DatabaseUnavailable, StreamTakenOver
from engine.journal.memory import MemoryJournal
from engine.journal.reading import Part
from engine.metrics import Counter, Gauge
from engine.pipeline import flights
from engine.store import Lane, MarkMoved, Totals
from tests.engine.committing import Bench, bench
from tests.engine.life import TENANT, until


async def test_the_next_batch_of_a_backlog_is_copied_while_the_first_one_is_and_committed_after_it() -> None:
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held) as running:
        await until(lambda: running.store.waiting == 1)
        first, second = running.store.commits
        assert second.lane == Lane(0, first.end)
        assert running.store.made == []
        assert running.journal.nbytes > 0
        held.set()
        await running.drained()
        assert [commit.end for commit in running.store.made] == sorted(c.end for c in running.store.made)
        assert running.store.readings == running.counts().counters[Counter.COMMITTED] == 3_600


async def test_no_more_than_two_are_on_their_way() -> None:
    held = asyncio.Event()
    async with bench(waiting=(600,) * 20, held=held) as running:
        await until(lambda: running.store.waiting == 1)
        await running.add(*[1_000] * 5)
        await settle()
        assert len(running.store.commits) == 2
        held.set()
        await running.drained()


async def test_live_frames_behind_live_ones_go_only_when_they_fill_a_batch() -> None:
    held = asyncio.Event()
    async with bench(held=held) as running:
        await running.add(1_000)
        await until(lambda: len(running.store.commits) == 1)
        await running.add(600)
        await settle()
        assert len(running.store.commits) == 1
        await running.add(600)
        await until(lambda: running.store.waiting == 1)
        first, second = running.store.commits
        assert second.lane == Lane(0, first.end)
        assert not second.opens
        held.set()
        await running.drained()
        assert running.store.readings == 2_200


async def test_a_live_batch_that_opens_a_lane_goes_behind_the_backlog_and_the_next_one_into_that_lane() -> (
    None
):
    held = asyncio.Event()
    async with bench(waiting=(600, 600), held=held) as running:
        await until(lambda: len(running.store.commits) == 1)
        await running.add(1_000)
        await until(lambda: running.store.waiting == 1)
        assert [commit.opens for commit in running.store.commits] == [False, True]
        held.set()
        await until(lambda: len(running.store.made) == 3)
        await running.drained()
        assert len(running.store.lanes) == 1


async def test_what_the_second_one_answers_too_early_is_none_of_the_first_s_business_and_it_is_sent_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = asyncio.Event()
    errors: list[Exception] = [DatabaseRejected("no", "42804")]
    async with bench(waiting=(600,) * 4, held=held, second_errors=errors) as running:
        await until(lambda: len(running.store.commits) == 2)
        await settle()
        assert running.counts().gauges[Gauge.HELD] == 0
        held.set()
        await running.drained()
        first, second, again, *_ = running.store.commits
        assert again == second
        assert running.store.made[:2] == [first, again]
        assert running.counts().counters[Counter.WRITE_FAILURES] == 1
        assert running.store.readings == 2_400
    assert capsys.readouterr().out.count("sent behind another failed") == 1


async def test_after_a_second_one_failed_they_go_one_at_a_time_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = asyncio.Event()
    errors: list[Exception] = [DatabaseUnavailable("no connection left", "53300")]
    async with bench(waiting=(600,) * 12, held=held, second_errors=errors) as running:
        await until(lambda: len(running.store.commits) == 2)
        await settle()
        follows: list[bool] = []
        monkeypatch.setattr(flights.Flights, "follow", lambda *_: follows.append(True))
        held.set()
        await running.drained()
        assert follows == []


async def test_a_pool_without_a_connection_to_spare_is_no_failure() -> None:
    held = asyncio.Event()
    errors: list[Exception] = [NoSpareConnection("none") for _ in range(2)]
    async with bench(waiting=(600,) * 8, held=held, second_errors=errors) as running:
        await until(lambda: len(running.store.commits) == 2)
        held.set()
        await running.drained()
        assert errors == []
        assert running.counts().counters[Counter.WRITE_FAILURES] == 0
        assert running.store.readings == 4_800


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailable("away"),
        DatabaseUnavailable("deadlock", "40P01"),
        DatabaseUnavailable("too slow", "57014"),
        DatabaseRejected("systemic"),
    ],
)
async def test_when_the_first_one_fails_the_second_is_abandoned_and_planned_anew_behind_it(
    error: Exception,
) -> None:
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held, errors=[error]) as running:
        await until(lambda: running.store.waiting == 1)
        held.set()
        await until(lambda: len(running.store.commits) > 2)
        first, _, again, *_ = running.store.commits
        assert again.lane == first.lane
        await running.drained()
        assert running.store.made[0].end == first.end
        assert running.store.readings == 3_600


async def test_a_batch_that_has_failed_goes_alone_until_it_is_stored() -> None:
    held = asyncio.Event()
    errors: list[Exception] = [DatabaseUnavailable("away") for _ in range(3)]
    async with bench(waiting=(600,) * 6, held=held, errors=errors) as running:
        await until(lambda: running.store.waiting == 1)
        held.set()
        await running.drained()
        assert len({commit.end for commit in (running.store.commits[0], *running.store.commits[2:5])}) == 1


async def test_a_first_whose_answer_was_lost_is_stored_once_and_so_is_what_waited_behind_it() -> None:
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held, lost_answers=1) as running:
        await until(lambda: running.store.waiting == 1)
        held.set()
        await running.drained()
        assert running.store.readings == running.counts().counters[Counter.COMMITTED] == 3_600


async def test_when_the_stream_is_taken_over_the_second_one_is_never_stored() -> None:
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held, errors=[StreamTakenOver("epoch 2")]) as running:
        await until(lambda: running.store.waiting == 1)
        held.set()
        with pytest.raises(StreamTakenOver):
            await running.running
        assert running.store.made == []
        assert running.store.waiting == 0


async def test_marks_that_moved_are_believed_when_the_first_one_says_so_only() -> None:
    held = asyncio.Event()
    stale = MarkMoved("seen beside the first", (Lane(0, 0),), Totals(0, 0))
    async with bench(waiting=(600,) * 6, held=held, second_errors=[stale]) as running:
        await until(lambda: len(running.store.commits) == 2)
        held.set()
        await running.drained()
        assert running.counts().counters[Counter.RECEIVED] == 3_600
        assert running.store.readings == 3_600


async def test_what_the_second_one_stands_in_the_way_of_does_not_wait_for_it_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flights, "GIVE_WAY_S", 0.05)
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held) as running:
        await until(lambda: running.store.waiting == 1)
        await until(lambda: running.store.waiting == 0)
        assert running.store.made == []
        held.set()
        await running.drained()
        assert running.store.readings == 3_600


async def test_a_cancelled_committer_leaves_nothing_on_its_way() -> None:
    async with bench(waiting=(600,) * 6, held=asyncio.Event()) as running:
        await until(lambda: running.store.waiting == 1)
        running.running.cancel()
        await asyncio.wait([running.running])
        assert running.store.waiting == 0
        assert running.store.made == []
        assert running.counts().accounting_difference == 0


async def test_the_journal_is_read_ahead_while_two_batches_are_on_their_way() -> None:
    journal = ReadJournal(TENANT, now_us=lambda: time.time_ns() // 1_000)
    held = asyncio.Event()
    async with bench(waiting=(600,) * 6, held=held, journal=journal) as running:
        await until(lambda: len(journal.read_from) == 3)
        assert len(running.store.commits) == 2
        held.set()
        await running.drained()
        assert len(journal.read_from) == len(set(journal.read_from))


def test_whatever_fails_and_whenever_each_reading_is_stored_once_and_counted_at_every_moment() -> None:
    for seed in range(40):
        asyncio.run(_any_failures(seed))


async def _any_failures(seed: int) -> None:
    chance = random.Random(seed)

    def errors(most: int) -> list[Exception]:
        kinds = [
            DatabaseUnavailable("away"),
            DatabaseUnavailable("conflict", "40001"),
            DatabaseUnavailable("too slow", "57014"),
            NoSpareConnection("none"),
        ]
        return [chance.choice(kinds) for _ in range(chance.randrange(most))]

    waiting = tuple(chance.randint(1, 900) for _ in range(chance.randrange(12)))
    async with bench(
        waiting=waiting, errors=errors(4), second_errors=errors(4), lost_answers=chance.randrange(3)
    ) as running:
        watching = asyncio.create_task(_watch(running))
        sent = sum(waiting)
        for _ in range(chance.randrange(12)):
            rows = [chance.randint(1, 900) for _ in range(chance.randint(1, 4))]
            sent += sum(rows)
            await running.add(*rows)
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
        await running.drained()
        watching.cancel()
        await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()
        assert running.store.readings == running.counts().counters[Counter.COMMITTED] == sent, seed
        assert running.journal.nbytes == 0


async def _watch(running: Bench) -> None:
    """Hold the identity at every turn of the loop: `add` counts what it hands over before it is in flight."""
    while True:
        counts = running.counts()
        committed = counts.counters[Counter.COMMITTED]
        assert committed <= running.store.readings
        assert committed + counts.gauges[Gauge.IN_FLIGHT] <= counts.counters[Counter.RECEIVED]
        await asyncio.sleep(0)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


class ReadJournal(MemoryJournal):
    """Says from where it was read."""

    def __init__(self, tenant_id: UUID, *, now_us: Callable[[], int]) -> None:
        super().__init__(tenant_id, now_us=now_us)
        self.read_from: list[int] = []

    async def read(self, after: int, *, until: int | None, most_rows: int, most_bytes: int) -> Part:
        self.read_from.append(after)
        return await super().read(after, until=until, most_rows=most_rows, most_bytes=most_bytes)
