"""The journal without a disk: the same calls, bounded, and nothing that outlives the process."""

from __future__ import annotations

import asyncio
from uuid import uuid5

from engine.frames import LossReason
from engine.journal.memory import MemoryJournal
from tests.engine.journal.journals import DATABASE, NOW_US, TENANT, Lane, entry, numbers
from tests.engine.journal.test_full import turns


async def begun_in_memory(most_bytes: int = 1 << 20) -> MemoryJournal:
    journal = MemoryJournal(TENANT, now_us=lambda: NOW_US, most_bytes=most_bytes)
    await journal.begin(3, DATABASE)
    return journal


async def test_frames_are_there_until_the_database_has_them() -> None:
    journal = await begun_in_memory()
    frames = await journal.append([entry(number) for number in range(1, 6)])
    assert journal.stream == uuid5(TENANT, "memory")
    assert [(frame.sequence, frame.previous) for frame in frames[:2]] == [
        (3 << 40 | 1, 0),
        (3 << 40 | 2, 3 << 40 | 1),
    ]
    part = await journal.read(0, until=None, most_rows=7, most_bytes=1 << 20)
    assert (numbers(part.frames), part.loss, part.end) == ([1, 2], None, frames[1].sequence)
    assert await journal.count_rows([Lane(0, frames[0].sequence)]) == 12
    assert (await journal.newest(0)).batch.value.tolist() == [5.0] * 3
    journal.committed(frames[2].sequence)
    part = await journal.read(frames[2].sequence, until=None, most_rows=99, most_bytes=1 << 20)
    assert (numbers(part.frames), part.loss, part.end) == ([4, 5], None, frames[4].sequence)


async def test_what_the_database_lost_after_it_was_forgotten_is_a_hole() -> None:
    journal = await begun_in_memory()
    frames = await journal.append([entry(number) for number in range(1, 4)])
    journal.committed(frames[1].sequence)
    part = await journal.read(frames[0].sequence, until=None, most_rows=99, most_bytes=1 << 20)
    assert part.loss is not None
    assert (part.loss.after, part.loss.until, part.loss.reason) == (
        frames[0].sequence,
        frames[2].sequence,
        LossReason.TRIMMED,
    )
    assert numbers(part.frames) == [3]
    journal.committed(frames[2].sequence)
    part = await journal.read(frames[0].sequence, until=None, most_rows=99, most_bytes=1 << 20)
    assert part.loss is not None
    assert (part.frames, part.loss.until, part.end) == ((), frames[2].sequence + 1, frames[2].sequence)


async def test_the_mark_of_an_earlier_life_is_no_hole() -> None:
    journal = await begun_in_memory()
    part = await journal.read(2 << 40 | 17, until=None, most_rows=99, most_bytes=1 << 20)
    assert (part.frames, part.loss, part.end) == ((), None, 2 << 40 | 17)
    await journal.append([entry(1)])
    part = await journal.read(2 << 40 | 17, until=None, most_rows=99, most_bytes=1 << 20)
    assert (numbers(part.frames), part.loss) == ([1], None)


async def test_a_full_memory_waits_for_the_database() -> None:
    journal = await begun_in_memory(most_bytes=10_000)
    changes: list[bool] = []
    journal.on_change(lambda: changes.append(journal.accepting))
    task = asyncio.ensure_future(journal.append([entry(number) for number in range(1, 9)]))
    await turns(lambda: not journal.accepting)
    assert journal.nbytes <= journal.quota_bytes
    while not task.done():
        journal.committed(journal.last_sequence)
        await asyncio.sleep(0)
    assert numbers(await task) == list(range(1, 9))
    assert journal.accepting
    assert False in changes
