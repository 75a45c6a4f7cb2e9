"""The engine as it is, but its ingest worker is killed (SIGKILL) once at each of the named points.

    python -m tests.end_to_end.killed_at FOLDER POINT[:N[:EARLIER]] ...

A point is a function of the worker's, wrapped here, before the supervisor forks: its N-th call in a worker's life kills
that worker, before or after the call as the table says. A file in FOLDER then says that it happened, so that the next
worker lives; with EARLIER, one must have died at that point before. Two more words are about the journal's disk and
kill nobody: slow_sync:SECONDS has every sync take longer, failing_sync:N has the N-th one fail, once. Production code
has no hooks for any of this; settings come from the environment as ever.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from engine import settings as engine_settings
from engine.journal.disk import DiskFile
from workers import logs
from workers.child import set_title
from workers.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Point:
    """A function, and on which side of it the worker dies."""

    module: str
    name: str
    after: bool


POINTS = {
    # Frames that left the ring are in memory only.
    "drained": Point("engine.journal.journal", "Journal.append", after=False),
    # Written, and the kernel was not yet asked to sync.
    "written": Point("engine.journal.disk", "DiskFile.sync", after=False),
    # On disk, and nobody has been told: no acknowledgement has gone out.
    "synced": Point("engine.journal.journal", "Journal.append", after=True),
    # The database has some of a transaction's rows.
    "copying": Point("psycopg", "AsyncCopy.write", after=True),
    # All rows are sent, COMMIT is not.
    "uncommitted": Point("engine.store.session", "Session.commit", after=False),
    # The database has committed, and the journal does not know.
    "committed": Point("engine.journal.journal", "Journal.committed", after=False),
    # A segment is gone, and the folder was not synced.
    "trimmed": Point("engine.journal.disk", "Disk.remove", after=True),
    # The next worker, while it reads the journal that this one left.
    "recovering": Point("engine.journal.recovery", "scan", after=True),
    # The remembered session is written beside the old one.
    "remembering": Point("workers.opcua.remembered", "_write", after=True),
}


def marker(folder: Path, point: str) -> Path:
    """Return the file that is there once a worker was killed at a point."""
    return folder / f"killed-at-{point}"


def arm(folder: Path, point: str, calls: int, earlier: str = "") -> None:
    """Wrap a point's function: its so many-th call in a process kills the process, unless that was done before.

    Calls count from when a process died at the point `earlier`.
    """
    where = POINTS[point]
    owner: Any = import_module(where.module)
    *parents, name = where.name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    found = inspect.getattr_static(owner, name)
    function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
    made = 0

    def count() -> None:
        nonlocal made
        if earlier and not marker(folder, earlier).exists():
            return
        made += 1
        if made == calls and not marker(folder, point).exists():
            marker(folder, point).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    wrapped = _wrapped(function, count, after=where.after)
    setattr(owner, name, type(found)(wrapped) if isinstance(found, classmethod | staticmethod) else wrapped)


def _wrapped(function: Callable[..., Any], count: Callable[[], None], *, after: bool) -> Callable[..., Any]:
    before = not after

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def called(*args: Any, **kwargs: Any) -> Any:
            if before:
                count()
            answer = await function(*args, **kwargs)
            if after:
                count()
            return answer

        return called

    @functools.wraps(function)
    def called_at_once(*args: Any, **kwargs: Any) -> Any:
        if before:
            count()
        answer = function(*args, **kwargs)
        if after:
            count()
        return answer

    return called_at_once


def slow_sync(seconds: float) -> None:
    """Have each sync of the journal's take longer."""
    sync = DiskFile.sync

    def slow(self: DiskFile) -> None:
        time.sleep(seconds)
        sync(self)

    setattr(DiskFile, "sync", slow)  # noqa: B010  (the type checker knows better than to assign methods)


def failing_sync(folder: Path, calls: int) -> None:
    """Have one sync of the journal's fail as a broken disk's does."""
    sync = DiskFile.sync
    made = 0

    def failing(self: DiskFile) -> None:
        nonlocal made
        made += 1
        if made == calls and not marker(folder, "failing_sync").exists():
            marker(folder, "failing_sync").touch()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(self)

    setattr(DiskFile, "sync", failing)  # noqa: B010


def main(arguments: list[str]) -> int:
    """Run the engine until a signal, with its points armed; return its exit status."""
    folder, *points = arguments
    for wanted in points:
        point, _, number = wanted.partition(":")
        if point == "slow_sync":
            slow_sync(float(number))
        elif point == "failing_sync":
            failing_sync(Path(folder), int(number))
        else:
            calls, _, earlier = number.partition(":")
            arm(Path(folder), point, int(calls or 1), earlier)
    settings = engine_settings.load()
    logs.configure(settings, process="supervisor", index=0)
    set_title("scada-engine")
    return Supervisor(settings).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
