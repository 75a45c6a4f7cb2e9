"""Each state in which a start can find the folder, with its outcome."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from engine.errors import JournalForeign, JournalTooNew, JournalUnavailable
from engine.frames import Frame, LossReason, Position
from engine.journal.checkpoint import CHECKPOINT, Checkpoint
from engine.journal.journal import Journal
from engine.journal.segment import HEADER_BYTES, Header
from tests.engine.journal.journals import (
    DATABASE,
    FOLDER,
    SETTINGS,
    TENANT,
    Lane,
    begun,
    entry,
    number_of,
    numbers,
    open_journal,
    read_all,
)
from tests.engine.journal.model_files import ModelFiles, io_error

LAST = 40


def segments(files: ModelFiles) -> list[Path]:
    return [path for path in files.paths() if path.suffix == ".seg" and path.parent == FOLDER]


async def filled(committed: int = 0) -> tuple[ModelFiles, list[Frame]]:
    """A journal of forty frames in several segments, closed."""
    files = ModelFiles()
    async with begun(files, SETTINGS) as journal:
        frames = await journal.append([entry(number) for number in range(1, LAST + 1)])
        if committed:
            journal._retention.grace_s = 3_600
            journal.committed(frames[committed - 1].sequence)
    assert len(segments(files)) > 4
    return files, frames


async def in_segment(files: ModelFiles, frames: list[Frame], place: int) -> list[int]:
    """The numbers of the frames in a segment."""
    first = Header.decoded(bytes(files.content(segments(files)[place]))).first
    nexts = segments(files)[place + 1 :]
    end = Header.decoded(bytes(files.content(nexts[0]))).first if nexts else 1 << 62
    return [number_of(frame) for frame in frames if first <= frame.sequence < end]


async def test_a_new_folder_is_a_new_stream() -> None:
    async with begun(ModelFiles()) as journal:
        assert journal.recovered.frames == 0
        assert journal.last_sequence == 0
        (frame,) = await journal.append([entry(1)])
        assert (frame.sequence, frame.previous) == (1 << 40 | 1, 0)


async def test_a_second_start_goes_on_with_the_stream() -> None:
    files, frames = await filled()
    async with begun(files) as journal:
        assert journal.last_epoch == 2
        assert journal.recovered.frames == LAST
        assert journal.database_id == DATABASE
        (frame,) = await journal.append([entry(99)])
        assert (frame.sequence, frame.previous) == (2 << 40 | 1, frames[-1].sequence)
        assert numbers((await read_all(journal))[0]) == [*range(1, LAST + 1), 99]


async def test_an_epoch_that_was_there_is_refused() -> None:
    files, _ = await filled()
    journal = await open_journal(files)
    with pytest.raises(ValueError, match="epoch 1"):
        await journal.begin(1, DATABASE)
    await journal.close()


async def test_two_processes_cannot_have_one_journal() -> None:
    files = ModelFiles()
    async with begun(files):
        with pytest.raises(JournalUnavailable, match="another process"):
            await open_journal(files)
    await (await open_journal(files)).close()


async def test_frames_for_another_database_are_not_written_to_this_one() -> None:
    files, _ = await filled()
    journal = await open_journal(files)
    with pytest.raises(JournalForeign, match="database"):
        await journal.begin(2, UUID(int=77))
    await journal.close()


async def test_a_later_format_stops_the_start_and_leaves_everything_where_it_is() -> None:
    files, _ = await filled()
    path = segments(files)[2]
    content = files.content(path)
    files.put(path, Header.decoded(bytes(content)).encoded(version=2) + content[HEADER_BYTES:])
    before = files.paths()
    with pytest.raises(JournalTooNew, match="format 2"):
        await open_journal(files)
    assert files.paths() == before
    with pytest.raises(JournalTooNew):  # and not: locked
        await open_journal(files)


@pytest.mark.parametrize("place", [1, 2, -2])
async def test_a_missing_segment_is_a_hole_and_the_rest_is_read(place: int) -> None:
    files, frames = await filled()
    gone = await in_segment(files, frames, place % len(segments(files)))
    files.remove(segments(files)[place])
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert numbers(found) == [number for number in range(1, LAST + 1) if number not in gone]
    (loss,) = losses
    assert loss.reason is LossReason.MISSING
    assert (loss.after, loss.until) == (frames[gone[0] - 2].sequence, frames[gone[-1]].sequence)
    assert journal.recovered.losses == (loss,)
    await journal.close()


async def test_missing_first_segments_are_a_hole_only_for_who_does_not_have_them() -> None:
    files, frames = await filled()
    gone = await in_segment(files, frames, 0)
    files.remove(segments(files)[0])
    journal = await open_journal(files)
    (loss,) = (await read_all(journal))[1]
    assert (loss.after, loss.until, loss.reason) == (0, frames[gone[-1]].sequence, LossReason.MISSING)
    found, losses = await read_all(journal, frames[gone[-1] - 1].sequence)
    assert (numbers(found), losses) == (list(range(gone[-1] + 1, LAST + 1)), [])
    await journal.close()


@pytest.mark.parametrize("closed", [True, False])
async def test_a_missing_newest_segment_is_seen_by_the_checkpoint(closed: bool) -> None:
    files, frames = await filled()
    gone = await in_segment(files, frames, len(segments(files)) - 1)
    files.remove(segments(files)[-1])
    if not closed:
        content = files.content(FOLDER / CHECKPOINT)
        checkpoint = Checkpoint.decoded(bytes(content))
        assert checkpoint is not None
        files.put(FOLDER / CHECKPOINT, replace(checkpoint, closed=False).encoded())
    async with begun(files) as journal:
        (loss,) = journal.recovered.losses
        assert loss.after == frames[gone[0] - 2].sequence
        assert loss.until == frames[-1].sequence + (1 if closed else 2)
        assert journal.last_sequence == loss.until - 1
        await journal.append([entry(99)])
        found, losses = await read_all(journal)
        assert numbers(found) == [*range(1, gone[0]), 99]
        assert [(each.after, each.reason) for each in losses] == [(loss.after, LossReason.MISSING)]
    # The next start knows it from the headers.
    journal = await open_journal(files)
    assert [(each.after, each.reason) for each in journal.recovered.losses] == [
        (loss.after, LossReason.MISSING)
    ]
    await journal.close()


async def test_when_all_segments_are_gone_the_stream_goes_on_behind_a_hole() -> None:
    files, frames = await filled(committed=10)
    stream = (await read_stream(files))[0]
    for path in segments(files):
        files.remove(path)
    async with begun(files) as journal:
        assert journal.stream == stream
        mark = frames[9].sequence
        part = await journal.read(mark, until=None, most_rows=9, most_bytes=1 << 20)
        assert part.frames == ()
        assert part.loss is not None
        assert (part.loss.after, part.loss.until) == (mark, frames[-1].sequence + 1)
        assert part.end == journal.last_sequence == frames[-1].sequence
        assert (await journal.read(part.end, until=None, most_rows=9, most_bytes=1 << 20)).loss is None
        (frame,) = await journal.append([entry(99)])
        assert frame.previous == part.end


async def read_stream(files: ModelFiles) -> tuple[UUID, Journal]:
    journal = await open_journal(files)
    await journal.close()
    return journal.stream, journal


@pytest.mark.parametrize("how", ["lost", "damaged", "cut", "of another tenant"])
async def test_without_the_checkpoint_a_start_only_reads_more(how: str) -> None:
    files, frames = await filled(committed=25)
    path = FOLDER / CHECKPOINT
    with_it = await open_journal(files)
    assert with_it.recovered.frames < LAST
    await with_it.close()
    content = files.content(path)
    if how == "lost":
        files.remove(path)
    elif how == "damaged":
        content[30] ^= 1
        files.put(path, content)
    elif how == "cut":
        files.put(path, content[:50])
    else:
        other = ModelFiles()
        async with begun(other, tenant_id=UUID(int=66)):
            pass
        files.put(path, other.content(path))
    journal = await open_journal(files)
    assert journal.recovered.frames == LAST
    assert journal.recovered.losses == ()
    assert numbers((await read_all(journal, frames[24].sequence))[0]) == list(range(26, LAST + 1))
    await journal.close()


async def test_what_the_checkpoint_lets_a_start_pass_over_is_there_when_the_database_lost_commits() -> None:
    files, frames = await filled(committed=35)
    async with begun(files) as journal:
        assert journal.recovered.frames < LAST
        assert [position.sequence_number for position in journal.recovered.positions] == [LAST]
        assert await journal.count_rows([Lane(0, frames[2].sequence)]) == 3 * (LAST - 3)
        found, losses = await read_all(journal, frames[2].sequence)
        assert (numbers(found), losses) == (list(range(4, LAST + 1)), [])


@pytest.mark.parametrize("tenant", [TENANT, UUID(int=66)])
async def test_a_foreign_segment_is_moved_away_and_the_hole_where_it_lay_is_told(tenant: UUID) -> None:
    files, frames = await filled()
    gone = await in_segment(files, frames, 2)
    other = ModelFiles()
    async with begun(other, SETTINGS, tenant_id=tenant) as journal:
        await journal.append([entry(number + 500) for number in range(1, LAST + 1)])
    name = segments(files)[2]
    assert name in segments(other)
    files.put(name, other.content(name))
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert numbers(found) == [number for number in range(1, LAST + 1) if number not in gone]
    (loss,) = losses
    assert (loss.reason, loss.kept_in) == (LossReason.FOREIGN, f"corrupt/{name.name}")
    assert bytes(files.content(FOLDER / loss.kept_in)) == bytes(other.content(name))
    await journal.close()


async def test_a_foreign_segment_that_is_in_nobodys_place_costs_nothing() -> None:
    files, _ = await filled()
    other = ModelFiles()
    async with begun(other, SETTINGS, tenant_id=UUID(int=66)) as journal:
        await journal.append([entry(500)])
    files.put(FOLDER / "0000000a-00000a0000000001.seg", other.content(segments(other)[0]))
    journal = await open_journal(files)
    assert (numbers((await read_all(journal))[0]), journal.recovered.losses) == (list(range(1, LAST + 1)), ())
    await journal.close()


async def test_a_segment_of_which_only_the_header_is_damaged_loses_nothing() -> None:
    files, _ = await filled()
    for path in segments(files):
        content = files.content(path)
        content[:HEADER_BYTES] = bytes(HEADER_BYTES)
        files.put(path, content)
    files.remove(FOLDER / CHECKPOINT)
    stream = (await read_stream(files))[0]
    journal = await open_journal(files)
    found, losses = await read_all(journal)
    assert (journal.stream, numbers(found), losses) == (stream, list(range(1, LAST + 1)), [])
    await journal.close()


async def test_a_segment_without_any_frame_left_is_kept_and_is_a_hole() -> None:
    files, frames = await filled()
    gone = await in_segment(files, frames, 2)
    path = segments(files)[2]
    files.put(path, b"\x55" * files.size_bytes(path))
    journal = await open_journal(files)
    found, (loss,) = await read_all(journal)
    assert numbers(found) == [number for number in range(1, LAST + 1) if number not in gone]
    assert loss.reason is LossReason.CORRUPT
    assert loss.kept_in.startswith(f"corrupt/{path.name}")
    assert FOLDER / loss.kept_in in files.paths()
    await journal.close()


@pytest.mark.parametrize("content", [b"", bytes(HEADER_BYTES), bytes(4_096), b"SCADAJNL"])
async def test_a_newest_segment_that_never_got_a_header_is_removed(content: bytes) -> None:
    files, _ = await filled()
    path = FOLDER / "00000002-0000020000000001.seg"
    files.put(path, content)
    async with begun(files) as journal:
        assert journal.recovered.losses == ()
        assert numbers((await read_all(journal))[0]) == list(range(1, LAST + 1))
        await journal.append([entry(99)])


async def test_other_files_are_left_alone() -> None:
    files, _ = await filled()
    for name in ("notes.txt", "sessions", "00000001-0000010000000001.seg.copy"):
        files.put(FOLDER / name, b"x")
    async with begun(files) as journal:
        assert numbers((await read_all(journal))[0]) == list(range(1, LAST + 1))
    assert FOLDER / "notes.txt" in files.paths()


async def test_the_newest_segment_is_synced_before_it_is_believed_and_written_anew_when_that_fails() -> None:
    files, _ = await filled()
    left = 1

    def before(call: str, _: Path) -> None:
        nonlocal left
        if call == "sync" and left:
            left -= 1
            raise io_error()

    files.before = before
    newest = segments(files)[-1]
    journal = await open_journal(files)
    assert ("sync", f"{newest.name}.copy") in files.calls
    assert numbers((await read_all(journal))[0]) == list(range(1, LAST + 1))
    await journal.close()


async def test_a_disk_that_cannot_be_read_makes_the_journal_unavailable() -> None:
    files, _ = await filled()

    def before(call: str, _: Path) -> None:
        if call == "list":
            raise PermissionError(13, "Permission denied")

    files.before = before
    with pytest.raises(JournalUnavailable, match="Permission denied"):
        await open_journal(files)
    files.before = lambda *_: None
    await (await open_journal(files)).close()


async def test_a_backlog_is_read_in_parts_of_the_size_that_is_asked_for() -> None:
    files, frames = await filled()
    async with begun(files) as journal:
        after, seen = 0, []
        while True:
            part = await journal.read(after, until=frames[29].sequence, most_rows=7, most_bytes=1 << 20)
            assert len(part.frames) <= 2
            if after == part.end:
                break
            seen += numbers(part.frames)
            after = part.end
        assert seen == list(range(1, 31))
        assert after == frames[29].sequence
        one = await journal.read(0, until=None, most_rows=1, most_bytes=1)
        assert numbers(one.frames) == [1]


async def test_rows_are_counted_by_lanes() -> None:
    files, frames = await filled()
    async with begun(files) as journal:
        (frame,) = await journal.append([entry(99, rows=5)])
        end = frames[-1].sequence
        assert await journal.count_rows([Lane(0, 0)]) == 3 * LAST + 5
        assert await journal.count_rows([Lane(0, frames[3].sequence), Lane(end, end)]) == 3 * (LAST - 4) + 5
        assert await journal.count_rows([Lane(0, frames[3].sequence), Lane(end, frame.sequence)]) == 3 * (
            LAST - 4
        )
        assert await journal.count_rows([Lane(0, end), Lane(end, frame.sequence)]) == 0
        assert await journal.count_rows([Lane(0, 9 << 40)]) == 0


async def test_the_newest_reading_of_each_tag_is_the_backlogs() -> None:
    files, frames = await filled()
    async with begun(files) as journal:
        newest = await journal.newest(frames[4].sequence)
        assert newest.batch.tag_id.tolist() == [1, 2, 3]
        assert newest.batch.ts_us.tolist() == [40_000, 40_001, 40_002]
        stored = entry(7).batch
        stored.ts_us[1] = 50_000
        assert newest.laid_over(stored).value.tolist() == [40.0, 7.0, 40.0]
        assert len(await journal.newest(frames[-1].sequence)) == 0


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_position_outlives_the_segments_in_which_it_moved(damaged: bool) -> None:
    files = ModelFiles()
    quiet = Position(UUID(int=0xC1), 3, 4_294_967_295)
    wrapped = replace(quiet, sequence_number=1)  # these numbers roll over to 1
    async with begun(files) as journal:
        await journal.append([replace(entry(1), positions=(quiet,)), replace(entry(2), positions=(wrapped,))])
        frames = await journal.append([entry(number) for number in range(3, LAST)])
        if not damaged:
            journal.committed(frames[-1].sequence)
            async with asyncio.timeout(20):
                while len(segments(files)) > 1:  # noqa: ASYNC110
                    await asyncio.sleep(0)
    if damaged:  # then an earlier segment has it
        path = segments(files)[-1]
        content = files.content(path)
        content[HEADER_BYTES + 60] ^= 1
        files.put(path, content)
    journal = await open_journal(files)
    assert set(journal.recovered.positions) == {wrapped, *entry(LAST - 1).positions}
    await journal.close()
