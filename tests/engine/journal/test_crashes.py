"""Whatever happens to the process, the machine or the disk: what `append` returned is read again, in order, once.

The oracle is a list of numbers. A script of steps runs against the model file system; each life of the engine ends by a
kill, by a loss of power, or in good order, and the next one reads what the journal holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import JournalUnavailable
from engine.frames import Frame
from engine.journal.journal import Journal
from tests.engine.journal.journals import DATABASE, SETTINGS, Lane, entry, numbers, open_journal, read_all
from tests.engine.journal.model_files import Crashed, ModelFiles, io_error, no_room

CHANGING = {"write", "sync", "create", "sync_folder", "remove", "rename", "replace", "truncate"}


@dataclass
class Append:
    rows: list[int]


@dataclass
class Commit:
    of_ten: int


@dataclass
class Fail:
    """Let the n-th changing call from now on fail so."""

    calls: int
    how: str


@dataclass
class Life:
    steps: list[Append | Commit | Fail]
    end: str


steps = st.one_of(
    st.builds(Append, st.lists(st.sampled_from([0, 1, 3, 12, 60]), min_size=1, max_size=4)),
    st.builds(Append, st.lists(st.sampled_from([0, 1, 3, 12, 60]), min_size=1, max_size=4)),
    st.builds(Commit, st.integers(0, 10)),
    st.builds(Fail, st.integers(1, 8), st.sampled_from(["eio", "no room", "crash", "crash"])),
)
lives = st.builds(Life, st.lists(steps, max_size=12), st.sampled_from(["kill", "power", "close"]))


@dataclass
class Oracle:
    """What must be in the journal, what may be, and what the database has."""

    returned: list[int] = field(default_factory=list)
    handed: list[int] = field(default_factory=list)
    """To the append that did not come back."""
    sequences: dict[int, int] = field(default_factory=dict)
    committed: int = 0
    """How many of `returned` the database has."""
    last_number: int = 0

    @property
    def mark(self) -> int:
        return self.sequences[self.returned[self.committed - 1]] if self.committed else 0

    def take(self, frames: list[Frame]) -> None:
        for number, frame in zip(numbers(frames), frames, strict=True):
            self.returned.append(number)
            self.sequences[number] = frame.sequence

    async def check_start(self, journal: Journal) -> None:
        found, losses = await read_all(journal, self.mark, most_rows=20)
        assert losses == []
        assert journal.recovered.losses == ()
        must = self.returned[self.committed :]
        assert numbers(found)[: len(must)] == must
        more = numbers(found)[len(must) :]
        assert more == self.handed[: len(more)]
        assert all(one.sequence < two.sequence for one, two in pairwise(found))
        assert all(two.previous == one.sequence for one, two in pairwise(found))
        for frame in found:
            assert self.sequences.get(numbers([frame])[0], frame.sequence) == frame.sequence
        # Whoever has read them may have told others.
        self.take(found[len(must) :])
        self.handed = []
        newest = [position.sequence_number for position in journal.recovered.positions]
        assert newest == self.returned[-1:]
        assert await journal.count_rows([Lane(0, self.mark)]) == sum(len(frame.batch) for frame in found)


class Script:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.files = ModelFiles(random=self.random)
        self.oracle = Oracle()
        self.pending: list[Fail] = []
        self.unheard: list[dict[str, Any]] = []
        self.sync_failed = False

    def before(self, call: str, _: Path) -> None:
        if call not in CHANGING:
            return
        # If the truncation that follows a failed sync does not happen, frames stay that only the page cache has; when
        # then the process is killed, and later the power fails, nobody can tell.
        follows, self.sync_failed = self.sync_failed, False
        if follows and call == "truncate":
            return
        for fail in list(self.pending):
            fail.calls -= 1
            if fail.calls <= 0:
                self.pending.remove(fail)
                if fail.how == "crash":
                    raise Crashed
                if fail.how == "eio" or call not in {"sync_folder", "remove", "rename", "truncate"}:
                    self.sync_failed = call == "sync"
                    raise io_error() if fail.how == "eio" else no_room()

    def run(self, life: Life) -> None:
        with suppress(Crashed):
            asyncio.run(self._life(life))
        assert self.unheard == []
        self.pending = []
        if life.end == "power":
            self.files = self.files.after_power_loss(self.random)
        else:
            self.files = self.files.after_kill()

    def _unheard(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Crashed | OSError):
            self.unheard.append(context)

    async def _life(self, life: Life) -> None:
        # Tasks of a process that is gone have nobody to tell.
        asyncio.get_running_loop().set_exception_handler(self._unheard)
        journal = await open_journal(self.files)
        await self.oracle.check_start(journal)
        self.files.before = self.before
        try:
            await journal.begin(journal.last_epoch + 1, DATABASE)
            for step in life.steps:
                await self._step(journal, step)
        except JournalUnavailable:
            pass  # the disk failed twice: the worker gives up, and starts again
        if life.end == "close":
            self.pending = []
            await journal.close()

    async def _step(self, journal: Journal, step: Append | Commit | Fail) -> None:
        oracle = self.oracle
        if isinstance(step, Fail):
            self.pending.append(Fail(step.calls, step.how))
        elif isinstance(step, Append):
            first = oracle.last_number + 1
            oracle.last_number += len(step.rows)
            oracle.handed = list(range(first, oracle.last_number + 1))
            oracle.take(await journal.append([entry(first + i, rows) for i, rows in enumerate(step.rows)]))
            oracle.handed = []
        else:
            oracle.committed = max(oracle.committed, len(oracle.returned) * step.of_ten // 10)
            journal.committed(oracle.mark)
            await asyncio.sleep(0)  # the tender removes what may go


def run(lives: list[Life], seed: int) -> None:
    script = Script(seed)
    for life in lives:
        script.run(life)
    script.run(Life([], "close"))


@settings(max_examples=400, deadline=None)
@given(st.lists(lives, min_size=1, max_size=4), st.integers(0, 2**32))
def test_what_append_returned_is_read_again_in_order_and_once(lives: list[Life], seed: int) -> None:
    run(lives, seed)


def calls_of(life: Life) -> int:
    script = Script(1)
    count = 0

    def before(call: str, path: Path) -> None:
        nonlocal count
        count += call in CHANGING

    script.before = before  # type: ignore[method-assign, assignment]
    script.run(life)
    return count


def each_call(how: str, end: str, make: Callable[[], list[Append | Commit | Fail]]) -> None:
    for call in range(1, calls_of(Life(make(), "close")) + 1):
        for seed in range(3):
            run([Life([Append([3])], "close"), Life([Fail(call, how), *make()], end)], seed)


def some_steps() -> list[Append | Commit | Fail]:
    return [
        Append([3, 3]),
        Append([60]),
        Append([60, 12]),
        Commit(8),
        Append([1]),
        Commit(10),
        Append([60, 60]),
    ]


def test_a_crash_at_each_call_loses_nothing_when_the_page_cache_survives() -> None:
    each_call("crash", "kill", some_steps)


def test_a_crash_at_each_call_loses_nothing_when_the_power_is_lost() -> None:
    each_call("crash", "power", some_steps)


def test_an_input_output_error_at_each_call_loses_nothing() -> None:
    each_call("eio", "power", some_steps)


def test_a_full_disk_at_each_call_loses_nothing() -> None:
    each_call("no room", "power", some_steps)


def test_settings_of_these_tests_reach_several_segments() -> None:
    script = Script(1)
    script.run(Life(some_steps()[:-4], "kill"))
    assert len([path for path in script.files.paths() if path.suffix == ".seg"]) > 2
    assert SETTINGS.segment_mb == 1
