"""Segments that were cut or changed, at each of their bytes: what is whole is read, what is not is told."""

from __future__ import annotations

import asyncio

import pytest

from engine.frames import Frame, Loss, LossReason
from engine.journal.checkpoint import CHECKPOINT
from engine.journal.segment import HEADER_BYTES
from tests.engine.journal.journals import (
    DATABASE,
    FOLDER,
    SETTINGS,
    begun,
    entry,
    numbers,
    open_journal,
    read_all,
)
from tests.engine.journal.model_files import ModelFiles

FRAMES = 4


async def a_journal() -> tuple[bytearray, list[Frame], str]:
    """One segment of four frames, with their places and its name."""
    files = ModelFiles()
    async with begun(files) as journal:
        # One at a time: with others of its group a frame is cut off, see below.
        frames = [(await journal.append([entry(number, rows=1)]))[0] for number in range(1, FRAMES + 1)]
    (path,) = [path for path in files.paths() if path.suffix == ".seg"]
    return files.content(path), frames, path.name


def ends_of(content: bytearray, frames: list[Frame]) -> list[int]:
    ends = [HEADER_BYTES]
    for frame in frames:
        ends.append(ends[-1] + frame.nbytes)
    assert ends[-1] == len(content)
    return ends


async def outcome(name: str, content: bytes | bytearray) -> tuple[list[int], list[Loss], ModelFiles]:
    """What a start finds; and that it finds the same when it starts again, and goes on."""
    files = ModelFiles()
    files.put(FOLDER / name, content)
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert [(loss.after, loss.until) for loss in journal.recovered.losses] == [
        (loss.after, loss.until) for loss in losses if loss.after
    ]
    await journal.begin(2, DATABASE)
    await journal.append([entry(99)])
    assert numbers((await read_all(journal))[0]) == [*numbers(found), 99]
    await journal.close()
    again = await open_journal(files)
    assert numbers((await read_all(again))[0]) == [*numbers(found), 99]
    await again.close()
    return numbers(found), losses, files


def test_a_segment_cut_off_at_any_byte_has_the_frames_before_it() -> None:
    async def run() -> None:
        content, frames, name = await a_journal()
        ends = ends_of(content, frames)
        for size in range(len(content)):
            found, losses, files = await outcome(name, content[:size])
            assert found == [number for number in range(1, FRAMES + 1) if ends[number] <= size], size
            assert losses == []
            torn = 0 < size < HEADER_BYTES or (size > HEADER_BYTES and size not in ends)
            assert any("corrupt" in path.parts for path in files.paths()) == torn

    asyncio.run(run())


def test_a_changed_byte_anywhere_costs_its_own_frame_at_most_and_is_told() -> None:
    async def run() -> None:
        content, frames, name = await a_journal()
        ends = ends_of(content, frames)
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            hit = next(
                (number for number in range(1, FRAMES + 1) if ends[number - 1] <= place < ends[number]), 0
            )
            found, losses, _ = await outcome(name, changed)
            assert found == [number for number in range(1, FRAMES + 1) if number != hit], place
            if 0 < hit < FRAMES:
                (loss,) = losses
                assert loss.reason is LossReason.CORRUPT
                assert loss.after == (frames[hit - 2].sequence if hit > 1 else 0)
                assert loss.until == frames[hit].sequence
                assert loss.kept_in == f"corrupt/{name}.{ends[hit - 1]}-{ends[hit]}"
            else:
                # The header is no frame; and the last frame looks like one that was never finished.
                assert losses == []

    asyncio.run(run())


def test_a_changed_byte_in_the_last_frame_is_told_when_the_checkpoint_knows_of_it() -> None:
    async def run() -> None:
        files = ModelFiles()
        async with begun(files) as journal:
            frames = await journal.append([entry(1), entry(2)])
        (path,) = [path for path in files.paths() if path.suffix == ".seg"]
        content = files.content(path)
        content[-1] ^= 1
        files.put(path, content)
        journal = await open_journal(files)
        found, losses = await read_all(journal)
        assert numbers(found) == [1]
        (loss,) = losses
        assert (loss.after, loss.until) == (frames[0].sequence, frames[1].sequence + 1)
        assert loss.reason is LossReason.CORRUPT
        await journal.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("lost", "later", "known", "found"),
    [
        # Of frames 1 | 2 3 4 | and, later, 5.
        (2, False, False, [1]),
        (3, False, False, [1, 2]),
        (4, False, False, [1, 2, 3]),
        (1, False, False, [2, 3, 4]),
        (2, True, False, [1, 3, 4, 5]),
        (3, True, False, [1, 2, 4, 5]),
        (3, False, True, [1, 2, 4]),
    ],
)
async def test_of_frames_that_were_to_be_synced_together_none_is_read_behind_one_that_is_not_there(
    lost: int, later: bool, known: bool, found: list[int]
) -> None:
    files = ModelFiles()
    async with begun(files) as journal:
        frames = await journal.append([entry(1)])
        frames += await journal.append([entry(2), entry(3), entry(4)])
        if later:
            frames += await journal.append([entry(5)])
    (path,) = [path for path in files.paths() if path.suffix == ".seg"]
    content = files.content(path)
    content[HEADER_BYTES + sum(frame.nbytes for frame in frames[: lost - 1]) + 60] ^= 1
    files.put(path, content)
    if not known:
        files.remove(FOLDER / CHECKPOINT)
    journal = await open_journal(files)
    assert numbers((await read_all(journal))[0]) == found
    hole = found[-1] > lost
    assert [loss.reason for loss in journal.recovered.losses if loss.after] == [LossReason.CORRUPT] * (
        hole and lost > 1
    )
    assert [position.sequence_number for position in journal.recovered.positions] == found[-1:]
    await journal.begin(2, DATABASE)
    await journal.append([entry(99)])
    await journal.close()
    journal = await open_journal(files)
    assert numbers((await read_all(journal))[0]) == [*found, 99]
    await journal.close()


@pytest.mark.parametrize("zeros", [8, 64, 4_096])
async def test_zeros_behind_the_last_frame_are_its_end(zeros: int) -> None:
    content, _, name = await a_journal()
    found, losses, files = await outcome(name, bytes(content) + bytes(zeros))
    assert (found, losses) == ([1, 2, 3, 4], [])
    assert not any("corrupt" in path.parts for path in files.paths())


async def test_garbage_between_two_frames_that_replaces_none_is_no_loss() -> None:
    content, frames, name = await a_journal()
    place = ends_of(content, frames)[2]
    found, losses, files = await outcome(name, content[:place] + b"SREC" + bytes([7] * 60) + content[place:])
    assert (found, losses) == ([1, 2, 3, 4], [])
    assert FOLDER / "corrupt" / f"{name}.{place}-{place + 64}" in files.paths()


async def test_a_text_that_looks_like_a_record_of_another_stream_is_not_read_behind_damage() -> None:
    files = ModelFiles()
    inner, _, _ = await a_journal()
    looks_so = bytes(inner[HEADER_BYTES:]).decode("utf-8", "surrogateescape")
    made = entry(1)
    made.batch.texts[0] = looks_so
    made.batch.kind[0] = 2
    async with begun(files) as journal:
        await journal.append([made, entry(2)])
    (path,) = [path for path in files.paths() if path.suffix == ".seg"]
    content = files.content(path)
    content[HEADER_BYTES + 60] ^= 1
    files.put(path, content)
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert numbers(found) == [2]
    assert [loss.reason for loss in losses] == [LossReason.CORRUPT]
    await journal.close()


async def test_damage_that_comes_after_the_start_is_told_when_it_is_read() -> None:
    files = ModelFiles()
    async with begun(files) as journal:
        frames = await journal.append([entry(number) for number in range(1, 5)])
        (path,) = [path for path in files.paths() if path.suffix == ".seg"]
        content = files.content(path)
        content[HEADER_BYTES + frames[0].nbytes + 70] ^= 1
        files.put(path, content)
        first = await journal.read(0, until=None, most_rows=1_000, most_bytes=1 << 20)
        assert numbers(first.frames) == [1]
        assert first.loss is None
        second = await journal.read(first.end, until=None, most_rows=1_000, most_bytes=1 << 20)
        assert numbers(second.frames) == [3, 4]
        assert second.loss is not None
        assert second.loss.reason is LossReason.CORRUPT


async def test_a_record_longer_than_what_is_read_at_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ModelFiles()
    async with begun(files, SETTINGS) as journal:
        await journal.append([entry(1), entry(2, rows=20), entry(3), entry(4)])
    monkeypatch.setattr("engine.journal.walking.PIECE_BYTES", 64)
    monkeypatch.setattr("engine.journal.walking.walk.__kwdefaults__", {"piece_bytes": 64}, raising=False)
    files.remove(FOLDER / CHECKPOINT)
    journal = await open_journal(files)
    assert numbers((await read_all(journal))[0]) == [1, 2, 3, 4]
    await journal.close()
