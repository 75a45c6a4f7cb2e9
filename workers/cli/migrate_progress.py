"""How far `migrate up` is, on stderr: on a terminal one bar for all databases and a line for each at work; where
nobody looks on, a line now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workers.cli.output import console, note

if TYPE_CHECKING:
    from rich.progress import TaskID

    from engine.migrations import Progress, ProgressCallback

# Of a log that somebody reads afterwards: hundreds of databases take a minute.
_LINE_EACH_S = 10.0


@contextmanager
def shown_progress() -> Iterator[ProgressCallback]:
    """Yield what `migrate_all` is to call."""
    if not console(stderr=True).is_terminal:
        yield _Lines()
        return
    with _bars() as show:
        yield show


class _Lines:
    """Says how far it is every ten seconds; nothing where it takes less."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._began_s = self._said_s = now_s()

    def __call__(self, progress: Progress) -> None:
        now_s = self._now_s()
        if now_s - self._said_s >= _LINE_EACH_S:
            self._said_s = now_s
            note(_said(progress, now_s - self._began_s))


def _said(progress: Progress, seconds: float) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    rate = progress.finished / seconds if seconds > 0 else 0.0
    return f"{progress.finished} of {progress.databases} databases done{failed}, {rate:.1f} a second"


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    at_work: dict[str, TaskID] = {}
    began_s = time.monotonic()
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=console(stderr=True), transient=True) as bars:
        whole = bars.add_task("", total=1)

        def show(progress: Progress) -> None:
            bars.update(
                whole,
                completed=progress.finished,
                total=progress.databases,
                description=_said(progress, time.monotonic() - began_s),
            )
            if progress.current is None:
                # What is done makes room.
                if (task := at_work.pop(progress.label, None)) is not None:
                    bars.remove_task(task)
                return
            if progress.label not in at_work:
                at_work[progress.label] = bars.add_task("")
            bars.update(
                at_work[progress.label],
                completed=progress.done,
                total=progress.total,
                description=f"{progress.label}: {progress.current}",
            )

        yield show
