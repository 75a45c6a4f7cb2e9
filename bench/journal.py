"""Claim `journal`: what it costs to have readings on disk before they are acknowledged, and how fast they come back.

The engine's own Journal in a folder of the working directory, which should be on a real disk: in memory fdatasync costs
nothing. Frames of 1 000 readings, all numbers. CPU is that of the whole process, its kernel time and its threads
included; what the kernel does in threads of its own (the file system's commits) is in nobody's figure.

- full: frames as fast as the journal takes them, 16 to an append, which is what 1.6 million readings/s would bring in
  one group_ms. ns_per_reading is from here.
- paced: a frame every 5 ms, 200 000 readings/s. As the pipeline does, frames wait up to group_ms for others and are
  appended together: two to an fdatasync. An acknowledgement's time runs from a frame's arrival until it is durable. Of
  its CPU, that of the same loop without a journal is subtracted. One fdatasync costs as much as copying thousands of
  readings, so a reading costs the more, the fewer share one: paced_us_per_append says what there is to share.
- replay: Journal.read of everything, from the disk (its cache is emptied before): checksums, decoding, up to Batches
  as encode_copy takes them. With copy, that too. Opening is Journal.open on the same files: the scan after a crash.

Baselines, in the same run: `plain` writes the same bytes, ready before the clock starts, with os.writev and fdatasync
in a thread, as often as the journal does; `memcpy` copies them; `plain_read` reads the same files with big reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from uuid import uuid4

import numpy as np
import structlog
import uvloop

from bench.report import Progress, Report, Target, interleaved, median_ratio
from engine._fastpath import encode_copy, encode_frame
from engine.frames import Entry, sequence_of
from engine.gaps import GapChanges
from engine.journal.checkpoint import CHECKPOINT
from engine.journal.journal import Journal
from engine.readings import Batch, Kind
from engine.settings import JournalSettings

ROWS = 1_000
# Not the same memory again and again: what arrives is not in the processor's caches, or not in the nearest.
BATCHES = 64
GROUP_FRAMES = 16
GROUPS = 100
PACED_FRAMES = 400
FRAME_EACH_S = 0.005
ROUNDS = 7
_READ_BYTES = 8 << 20
_FIRST_US = 1_750_000_000_000_000

TARGETS = (
    Target("ns_per_reading", "<=", 60, timed=True),
    Target("ack_p99_ms", "<=", 25, timed=True),
    Target("replay_readings_per_s", ">=", 1_000_000, timed=True),
    # Twice what is measured.
    Target("vs_plain", "<=", 4),
)
MEANING = {
    "ns_per_reading": "CPU, frames of 1,000 as fast as it goes, 16 to an append",
    "full_readings_per_s": "of that run",
    "plain_ns_per_reading": "CPU of write and fdatasync of ready bytes, as often",
    "memcpy_ns_per_reading": "CPU of copying those bytes once",
    "vs_plain": "ns_per_reading / plain_ns_per_reading",
    "paced_ns_per_reading": "CPU at 200,000 readings/s: 2 frames an fdatasync",
    "paced_us_per_append": "the same by append",
    "paced_plain_ns_per_reading": "CPU of write and fdatasync of ready bytes, as often",
    "ack_p50_ms": "from a frame's arrival until it is durable, group_ms included",
    "ack_p99_ms": "of the same",
    "plain_p99_ms": "one write and fdatasync of ready bytes",
    "replay_readings_per_s": "Journal.read from the disk, up to encode_copy",
    "replay_copy_readings_per_s": "with encode_copy",
    "open_readings_per_s": "Journal.open after a crash: every record checked",
    "plain_read_readings_per_s": "reading the same files",
    "vs_plain_read": "replay_readings_per_s / plain_read_readings_per_s",
}

_STREAM = uuid4()


def run(progress: Progress) -> Report:
    """Measure the claim."""
    with (
        _quiet(),
        tempfile.TemporaryDirectory(prefix=".bench-journal-", dir=Path.cwd()) as folder,
        ThreadPoolExecutor(1, "journal") as threads,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        bench = _Bench(Path(folder), threads)

        def measure(way: Callable[[], Awaitable[float]]) -> Callable[[], float]:
            async def awaited() -> float:
                return await way()

            return lambda: runner.run(awaited())

        ways = {
            "full": measure(bench.full),
            "plain": measure(bench.plain),
            "memcpy": bench.memcpy,
            "paced": measure(bench.paced),
            "paced_plain": measure(bench.paced_plain),
            "replay": measure(bench.replay),
            "replay_copy": measure(bench.replay_copy),
            "open": measure(bench.open),
            "plain_read": bench.plain_read,
        }
        runner.run(bench.fill())
        for name in ("full", "plain", "memcpy"):
            ways[name]()
        bench.forget_times()
        results = interleaved(ROUNDS, ways, progress)
    return Report("journal", _figures(results, bench), TARGETS, MEANING)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what a journal says each time that it is opened."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)


def _figures(results: dict[str, list[float]], bench: _Bench) -> dict[str, float]:
    middle = {name: statistics.median(each) for name, each in results.items()}
    return {
        "ns_per_reading": middle["full"],
        "full_readings_per_s": statistics.median(bench.full_rates),
        "plain_ns_per_reading": middle["plain"],
        "memcpy_ns_per_reading": middle["memcpy"],
        "vs_plain": median_ratio(results["full"], results["plain"]),
        "paced_ns_per_reading": middle["paced"],
        "paced_us_per_append": statistics.median(bench.us_per_append),
        "paced_plain_ns_per_reading": middle["paced_plain"],
        "ack_p50_ms": float(np.percentile(bench.acknowledged_ms, 50)),
        "ack_p99_ms": float(np.percentile(bench.acknowledged_ms, 99)),
        "plain_p99_ms": float(np.percentile(bench.plain_ms, 99)),
        "replay_readings_per_s": middle["replay"],
        "replay_copy_readings_per_s": middle["replay_copy"],
        "open_readings_per_s": middle["open"],
        "plain_read_readings_per_s": middle["plain_read"],
        "vs_plain_read": median_ratio(results["replay"], results["plain_read"]),
    }


def _entries() -> Iterator[Entry]:
    random = np.random.default_rng(seed=1)
    batches = [
        Batch(
            ts_us=np.full(ROWS, _FIRST_US + number * 1_000_000),
            tag_id=np.arange(1, ROWS + 1, dtype=np.int32),
            status=np.zeros(ROWS, np.uint32),
            value=random.normal(100, 10, ROWS),
            kind=np.full(ROWS, Kind.NUMBER, np.uint8),
        )
        for number in range(BATCHES)
    ]
    return cycle([Entry(batch, GapChanges()) for batch in batches])


def _now_us() -> int:
    return time.time_ns() // 1_000


class _Bench:
    """The measures. Each returns one round's figure; times of single frames and appends are collected beside them."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._filled = folder / "filled"
        self._threads = threads
        self._settings = JournalSettings()
        self._entries = _entries()
        self._tenant_id = uuid4()
        self._numbers = count()
        self._records = [
            encode_frame(entry, _STREAM.bytes, sequence_of(1, number + 1), _now_us())
            for number, entry in enumerate(islice(self._entries, BATCHES))
        ]
        self.forget_times()

    def forget_times(self) -> None:
        """Begin again with the times that are collected."""
        self.full_rates: list[float] = []
        self.us_per_append: list[float] = []
        self.acknowledged_ms: list[float] = []
        self.plain_ms: list[float] = []

    @asynccontextmanager
    async def _journal(self, folder: Path) -> AsyncIterator[Journal]:
        journal = await Journal.open(
            folder, tenant_id=self._tenant_id, settings=self._settings, threads=self._threads, now_us=_now_us
        )
        try:
            yield journal
        finally:
            await journal.close()

    @asynccontextmanager
    async def _fresh(self) -> AsyncIterator[Journal]:
        folder = self._folder / str(next(self._numbers))
        async with self._journal(folder) as journal:
            await journal.begin(1, uuid4())
            yield journal
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()

    def _group(self, frames: int) -> list[Entry]:
        return list(islice(self._entries, frames))

    async def full(self) -> float:
        """Append as fast as it goes; return ns of CPU a reading."""
        groups = [self._group(GROUP_FRAMES) for _ in range(GROUPS)]
        readings = GROUPS * GROUP_FRAMES * ROWS
        async with self._fresh() as journal:
            began, spent = time.perf_counter(), time.process_time()
            for group in groups:
                await journal.append(group)
            spent, took = time.process_time() - spent, time.perf_counter() - began
        self.full_rates.append(readings / took)
        return spent / readings * 1e9

    async def plain(self) -> float:
        """Write ready bytes, as many at a time as `full` does; return ns of CPU a reading."""
        loop = asyncio.get_running_loop()
        with self._file() as file:
            spent = time.process_time()
            for _ in range(GROUPS):
                await loop.run_in_executor(self._threads, _write, file, self._records[:GROUP_FRAMES])
            spent = time.process_time() - spent
        return spent / (GROUPS * GROUP_FRAMES * ROWS) * 1e9

    def memcpy(self) -> float:
        """Copy ready bytes; return ns of CPU a reading."""
        spent = time.process_time()
        for record in islice(cycle(self._records), GROUPS * GROUP_FRAMES):
            bytes(record)
        return (time.process_time() - spent) / (GROUPS * GROUP_FRAMES * ROWS) * 1e9

    async def paced(self) -> float:
        """Append what arrives at 200 000 readings/s; return ns of CPU a reading beyond the same loop without it."""
        async with self._fresh() as journal:
            spent, appends = await self._arrivals(journal.append, self.acknowledged_ms)
        idle, _ = await self._arrivals(_nothing, [])
        self.us_per_append.append((spent - idle) / appends * 1e6)
        return (spent - idle) / (PACED_FRAMES * ROWS) * 1e9

    async def paced_plain(self) -> float:
        """Write ready bytes at the same pace; return ns of CPU a reading beyond the same loop without it."""
        loop = asyncio.get_running_loop()

        async def write(entries: Sequence[Entry]) -> None:
            began = time.perf_counter()
            await loop.run_in_executor(self._threads, _write, file, self._records[: len(entries)])
            self.plain_ms.append((time.perf_counter() - began) * 1e3)

        with self._file() as file:
            spent, _ = await self._arrivals(write, [])
        idle, _ = await self._arrivals(_nothing, [])
        return (spent - idle) / (PACED_FRAMES * ROWS) * 1e9

    async def _arrivals(
        self, append: Callable[[Sequence[Entry]], Awaitable[object]], durable_ms: list[float]
    ) -> tuple[float, int]:
        """Let frames arrive at their pace, and append what has come in each group_ms; return CPU seconds, appends."""
        group_s = self._settings.group_ms / 1_000
        waiting: list[tuple[Entry, float]] = []
        some = asyncio.Event()
        arriving = self._group(PACED_FRAMES)
        appends, done = 0, 0
        spent, began = time.process_time(), time.perf_counter()

        async def arrive() -> None:
            for number, entry in enumerate(arriving):
                await asyncio.sleep(max(0.0, began + number * FRAME_EACH_S - time.perf_counter()))
                waiting.append((entry, time.perf_counter()))
                some.set()

        arrivals = asyncio.ensure_future(arrive())
        while done < PACED_FRAMES:
            await some.wait()
            some.clear()
            await asyncio.sleep(max(0.0, waiting[0][1] + group_s - time.perf_counter()))
            group, waiting[:] = waiting[:], []
            some.clear()
            await append([entry for entry, _ in group])
            now = time.perf_counter()
            durable_ms += [(now - arrived) * 1e3 for _, arrived in group]
            appends, done = appends + 1, done + len(group)
        await arrivals
        return time.process_time() - spent, appends

    async def fill(self) -> None:
        """Write what replays read."""
        async with self._journal(self._filled) as journal:
            await journal.begin(1, uuid4())
            for _ in range(GROUPS):
                await journal.append(self._group(GROUP_FRAMES))

    async def replay(self) -> float:
        """Read everything back; return readings a second."""
        return await self._replay(lambda _: None)

    async def replay_copy(self) -> float:
        """Read everything back and encode it for the database; return readings a second."""
        return await self._replay(
            lambda batch: encode_copy(
                batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, batch.texts
            )
        )

    async def _replay(self, use: Callable[[Batch], object]) -> float:
        async with self._journal(self._filled) as journal:
            self._empty_cache()
            began = time.perf_counter()
            after, rows = 0, 0
            while after < journal.last_sequence:
                part = await journal.read(after, until=None, most_rows=50_000, most_bytes=_READ_BYTES)
                for frame in part.frames:
                    use(frame.batch)
                    rows += len(frame.batch)
                after = part.end
            took = time.perf_counter() - began
        if rows != GROUPS * GROUP_FRAMES * ROWS:
            raise RuntimeError(
                f"{rows} readings in the journal where {GROUPS * GROUP_FRAMES * ROWS} were put"
            )
        return rows / took

    async def open(self) -> float:
        """Open the journal as after a crash; return readings a second."""
        (self._filled / CHECKPOINT).unlink(missing_ok=True)
        self._empty_cache()
        began = time.perf_counter()
        async with self._journal(self._filled) as journal:
            took = time.perf_counter() - began
            if journal.recovered.frames != GROUPS * GROUP_FRAMES:
                raise RuntimeError(f"{journal.recovered.frames} frames were found")
        return GROUPS * GROUP_FRAMES * ROWS / took

    def plain_read(self) -> float:
        """Read the files and nothing more; return readings a second."""
        self._empty_cache()
        began = time.perf_counter()
        for path in self._segments():
            with path.open("rb", buffering=0) as file:
                while file.read(_READ_BYTES):
                    pass
        return GROUPS * GROUP_FRAMES * ROWS / (time.perf_counter() - began)

    def _segments(self) -> list[Path]:
        return sorted(self._filled.glob("*.seg"))

    def _empty_cache(self) -> None:
        for path in self._segments():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @contextmanager
    def _file(self) -> Iterator[int]:
        path = self._folder / "plain"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            yield file
        finally:
            os.close(file)
            path.unlink()


def _write(file: int, records: Sequence[bytearray]) -> None:
    os.writev(file, records)
    os.fdatasync(file)


async def _nothing(_: Sequence[Entry]) -> None:
    """Append nowhere."""
