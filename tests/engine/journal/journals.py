"""Journals on a model file system, and entries that can be told apart; megabytes are kilobytes here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from engine.frames import Entry, Frame, Loss, Position
from engine.gaps import GapChanges
from engine.journal.files import Files
from engine.journal.journal import Journal
from engine.readings import Batch, Kind
from engine.settings import JournalSettings

FOLDER = Path("/journal/acme")
TENANT = UUID(int=0xACE)
DATABASE = UUID(int=0xDB)
CONNECTION = UUID(int=0xC0)
NOW_US = 1_760_000_000_000_000
SETTINGS = JournalSettings(quota_mb=64, segment_mb=1, grace_s=0.0)


class AtOnce(Executor):
    """Runs what it is given at once, in the thread of the caller: tests are then the same each time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001
            future.set_exception(exc)
        return future


@dataclass(frozen=True)
class Lane:
    after: int
    mark: int


def entry(number: int, rows: int = 3) -> Entry:
    """An entry that says its number, in its values and as the position of its subscription."""
    batch = Batch(
        ts_us=np.arange(rows, dtype=np.int64) + number * 1_000,
        tag_id=np.arange(rows, dtype=np.int32) + 1,
        status=np.zeros(rows, np.uint32),
        value=np.full(rows, float(number)),
        kind=np.full(rows, Kind.NUMBER, np.uint8),
    )
    return Entry(batch, GapChanges(), (Position(CONNECTION, 7, number),))


def number_of(frame: Frame | Entry) -> int:
    return int(frame.batch.value[0]) if len(frame.batch) else frame.positions[-1].sequence_number


def numbers(frames: Sequence[Frame]) -> list[int]:
    return [number_of(frame) for frame in frames]


async def open_journal(files: Files, settings: JournalSettings = SETTINGS, **more: Any) -> Journal:
    more.setdefault("threads", AtOnce())
    more.setdefault("tenant_id", TENANT)
    return await Journal.open(
        more.pop("folder", FOLDER), settings=settings, files=files, now_us=lambda: NOW_US, **more
    )


@asynccontextmanager
async def begun(files: Files, settings: JournalSettings = SETTINGS, **more: Any) -> AsyncIterator[Journal]:
    """A journal that an owner with the next epoch has begun; closed in the end."""
    journal = await open_journal(files, settings, **more)
    try:
        await journal.begin(journal.last_epoch + 1, DATABASE)
        yield journal
    finally:
        await journal.close()


async def read_all(
    journal: Journal, after: int = 0, most_rows: int = 1_000_000
) -> tuple[list[Frame], list[Loss]]:
    """Read to the end, in parts."""
    frames: list[Frame] = []
    losses: list[Loss] = []
    while True:
        part = await journal.read(after, until=None, most_rows=most_rows, most_bytes=1 << 30)
        frames += part.frames
        if part.loss is not None:
            losses.append(part.loss)
        if part.end == after:
            return frames, losses
        after = part.end


def counted() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number
