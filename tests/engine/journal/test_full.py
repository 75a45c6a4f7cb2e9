"""A journal that is full, on a disk that is full, fails or is slow; and what goes when the database has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from structlog.testing import capture_logs

from engine.errors import JournalUnavailable
from engine.frames import LossReason
from engine.journal.journal import Journal
from engine.settings import JournalSettings
from tests.engine.journal.journals import begun, entry, numbers, open_journal, read_all
from tests.engine.journal.model_files import ModelFiles, io_error

SMALL = JournalSettings(quota_mb=16, segment_mb=2, grace_s=3_600.0)


async def turns(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # of whatever kind it is
            await asyncio.sleep(0)


async def fill(journal: Journal, first: int = 1) -> tuple[asyncio.Task[list[object]], list[int]]:
    """Append until one waits; return that task and the sequences of the others."""
    sequences: list[int] = []
    number = first
    while True:
        task: asyncio.Task[list[object]] = asyncio.ensure_future(journal.append([entry(number)]))  # type: ignore[arg-type]
        await turns(lambda task=task: task.done() or not journal.accepting)  # type: ignore[misc]
        if not task.done():
            return task, sequences
        sequences.append(journal.last_sequence)
        number += 1


async def test_a_full_journal_waits_says_so_and_goes_on_by_itself() -> None:
    async with begun(ModelFiles(), SMALL) as journal:
        changes: list[bool] = []
        journal.on_change(lambda: changes.append(journal.accepting))
        with capture_logs() as logs:
            task, sequences = await fill(journal)
            assert journal.nbytes <= journal.quota_bytes
            assert journal.reason == "its quota is full"
            assert journal.alarms == 2
            journal.committed(sequences[-1])
            await task
        assert journal.accepting
        assert journal.reason is None
        assert changes[-1] is True
        levels = [(line["log_level"], line.get("percent")) for line in logs if "fills" in line["event"]]
        assert levels == [("warning", 70), ("error", 90)]
        assert numbers((await read_all(journal, sequences[-1]))[0]) == [len(sequences) + 1]


async def test_committed_segments_go_before_their_grace_is_over_when_the_quota_is_reached() -> None:
    files = ModelFiles()
    async with begun(files, SMALL) as journal:
        for number in range(1, 400):
            (frame,) = await journal.append([entry(number)])
            journal.committed(frame.sequence)
            assert journal.nbytes <= journal.quota_bytes
            assert journal.accepting
        # The oldest have gone, the younger are in their grace.
        part = await journal.read(0, until=None, most_rows=1, most_bytes=1)
        assert part.loss is not None
        assert part.loss.reason is LossReason.TRIMMED
        assert journal.nbytes > journal.quota_bytes / 2


async def test_an_alarm_does_not_swing_with_the_level() -> None:
    async with begun(ModelFiles(), SMALL) as journal:
        _, sequences = await fill(journal)
        assert journal.alarms == 2
        journal.committed(sequences[len(sequences) * 15 // 100])
        assert journal.alarms == 2
        journal.committed(sequences[len(sequences) * 25 // 100])
        assert journal.alarms == 1
        journal.committed(sequences[len(sequences) * 60 // 100])
        assert journal.alarms == 0


async def test_who_gives_up_waiting_leaves_a_journal_that_accepts() -> None:
    async with begun(ModelFiles(), SMALL) as journal:
        task, sequences = await fill(journal)
        task.cancel()
        await turns(task.done)
        assert journal.accepting
        journal.committed(sequences[-1])
        await journal.append([entry(1_000)])
        assert numbers((await read_all(journal, sequences[-1]))[0]) == [1_000]


async def test_a_frame_larger_than_a_segment_has_one_of_its_own() -> None:
    files = ModelFiles()
    async with begun(files, SMALL) as journal:
        await journal.append([entry(1), entry(2, rows=200), entry(3)])
        sizes = [files.size_bytes(path) for path in files.paths() if path.suffix == ".seg"]
        assert sizes[1] > 2_048
        assert len(sizes) == 3
        assert numbers((await read_all(journal))[0]) == [1, 2, 3]


async def test_a_frame_larger_than_the_quota_goes_through_when_nothing_waits() -> None:
    async with begun(ModelFiles(), SMALL) as journal:
        (frame,) = await journal.append([entry(1)])
        task = asyncio.ensure_future(journal.append([entry(2, rows=2_000)]))
        await turns(lambda: not journal.accepting)
        journal.committed(frame.sequence)
        assert numbers(await task) == [2]
        assert journal.accepting


async def test_segments_go_when_their_grace_is_over_and_their_positions_do_not() -> None:
    files = ModelFiles()
    settings = JournalSettings(quota_mb=64, segment_mb=1, grace_s=0.0)
    async with begun(files, settings) as journal:
        frames = await journal.append([entry(number) for number in range(1, 40)])
        count = len([path for path in files.paths() if path.suffix == ".seg"])
        assert count > 3
        journal.committed(frames[-1].sequence)
        await turns(lambda: len([path for path in files.paths() if path.suffix == ".seg"]) == 1)
    journal = await open_journal(files, settings)
    assert [position.sequence_number for position in journal.recovered.positions] == [39]
    await journal.close()


async def test_a_mark_that_went_back_keeps_what_is_not_committed_any_more() -> None:
    files = ModelFiles()
    async with begun(files, SMALL) as journal:
        task, sequences = await fill(journal)
        journal.committed(sequences[-1])
        journal.committed(sequences[0])
        await turns(lambda: not journal.accepting)
        found, losses = await read_all(journal, sequences[0])
        assert numbers(found) == list(range(2, len(sequences) + 1))
        assert losses == []
        task.cancel()
        await turns(task.done)


async def test_a_full_disk_undoes_what_it_took_and_goes_on_by_itself() -> None:
    files = ModelFiles()
    async with begun(files, JournalSettings(quota_mb=64, segment_mb=4)) as journal:
        await journal.append([entry(1)])
        (path,) = [path for path in files.paths() if path.suffix == ".seg"]
        size = files.size_bytes(path)
        files.capacity_bytes = files._used_bytes() + 50
        task = asyncio.ensure_future(journal.append([entry(2)]))
        await turns(lambda: not journal.accepting)
        assert journal.reason is not None
        assert "disk is full" in journal.reason
        assert files.size_bytes(path) == size
        files.capacity_bytes = 1 << 30
        assert numbers(await task) == [2]
        assert journal.accepting
        assert journal.failures > 0
        assert [each.suffix for each in files.paths()].count(".seg") == 1


async def test_a_full_disk_at_the_start_leaves_the_backlog_to_be_read() -> None:
    files = ModelFiles()
    async with begun(files) as journal:
        await journal.append([entry(1)])
    files.capacity_bytes = 0
    async with begun(files) as journal:
        assert numbers((await read_all(journal))[0]) == [1]
        task = asyncio.ensure_future(journal.append([entry(2)]))
        await turns(lambda: not journal.accepting)
        files.capacity_bytes = 1 << 30
        assert numbers(await task) == [2]


def failing(files: ModelFiles, *calls: str, times: int) -> None:
    left = times

    def before(call: str, _: Path) -> None:
        nonlocal left
        if call in calls and left:
            left -= 1
            raise io_error()

    files.before = before


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("after", [0, 2])
async def test_after_an_error_nothing_goes_to_that_file_any_more(call: str, after: int) -> None:
    files = ModelFiles()
    async with begun(files) as journal:
        before = await journal.append([entry(number) for number in range(1, after + 1)])
        (old,) = [path for path in files.paths() if path.suffix == ".seg"]
        failing(files, call, times=1)
        files.calls.clear()
        frames = await journal.append([entry(after + 1), entry(after + 2)])
        if after:
            assert [made for made, name in files.calls if name == old.name and made in {"write", "sync"}][
                1:
            ] in (
                [],
                ["sync"],
            )
            assert [path.suffix for path in files.paths()].count(".seg") == 2
        assert numbers(before + frames) == list(range(1, after + 3))
        assert journal.failures == 1
        assert numbers((await read_all(journal))[0]) == list(range(1, after + 3))
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert (numbers(found), losses) == (list(range(1, after + 3)), [])
    await journal.close()


async def test_a_disk_that_fails_twice_is_given_up() -> None:
    files = ModelFiles()
    async with begun(files) as journal:
        await journal.append([entry(1)])
        failing(files, "sync", times=2)
        with pytest.raises(JournalUnavailable, match="fails"):
            await journal.append([entry(2)])
        assert not journal.accepting
        # Whoever tries again finds a disk that works.
        await journal.append([entry(3)])
        assert journal.accepting
        assert numbers((await read_all(journal))[0]) == [1, 3]


async def test_a_slow_disk_is_told_once_and_holds_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.journal.writer._SLOW_S", 0.05)
    files = ModelFiles()
    let = Event()
    seconds: list[float] = []
    with ThreadPoolExecutor(4) as threads, capture_logs() as logs:
        async with begun(files, threads=threads, observe=seconds.append) as journal:
            await journal.append([entry(1)])

            def before(call: str, _: Path) -> None:
                if call == "sync":
                    assert let.wait(20)

            files.before = before
            task = asyncio.ensure_future(journal.append([entry(2)]))
            async with asyncio.timeout(20):
                while not any("slow" in line["event"] for line in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert numbers((await read_all(journal))[0]) == [1]
            let.set()
            await task
            await journal.append([entry(3)])
            assert numbers((await read_all(journal))[0]) == [1, 2, 3]
    assert len([line for line in logs if "slow" in line["event"]]) == 1
    assert max(seconds) > 0.05


async def test_a_cancelled_append_is_in_the_journal_or_not_and_the_next_one_follows() -> None:
    files = ModelFiles()
    let = Event()
    with ThreadPoolExecutor(4) as threads:
        async with begun(files, threads=threads) as journal:
            entered = Event()

            def before(call: str, _: Path) -> None:
                if call == "sync":
                    entered.set()
                    assert let.wait(20)

            files.before = before
            task = asyncio.ensure_future(journal.append([entry(1)]))
            await asyncio.to_thread(entered.wait, 20)
            task.cancel()
            await turns(task.done)
            let.set()
            assert numbers(await journal.append([entry(2)])) == [2]
            assert numbers((await read_all(journal))[0]) == [1, 2]
