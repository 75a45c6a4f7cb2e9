"""How the supervisor starts a child, and how a child begins. Owns the hand-over of Settings and of the metrics page.

Ingest workers are forked from the supervisor, which has imported for all of them what they need: a worker is ready in
a few milliseconds, also when it is started again, and N workers share the memory of what was imported once. The
others are forked and then execute a fresh interpreter, because what they need does not belong into an ingest worker:
gRPC must not live through a fork at all.

What an executed child needs comes as inherited file descriptors (memfd_create(2)): nothing secret is in its arguments
or its environment.

    python -m workers.child KIND INDEX SETTINGS_FD PAGE_FD SUPERVISOR_PID
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import pickle
import signal
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, ScadaError
from engine.metrics import MetricsPage, ProcessKind
from workers import logs

if TYPE_CHECKING:
    from engine.settings import Settings

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# What the supervisor takes with sigtimedwait must do its default in a child, until the child says otherwise.
_DEFAULTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


_MAIN_OF = {
    ProcessKind.INGEST: "workers.ingest",
    ProcessKind.AGGREGATOR: "workers.aggregator",
    ProcessKind.FRONT: "workers.rpc.front",
    ProcessKind.REST: "workers.rest.server",
}


def settings_to_fd(settings: Settings) -> int:
    """Return the descriptor of an anonymous file that holds the settings, for a process that is to inherit it."""
    fd = os.memfd_create("scada-settings", 0)
    os.write(fd, pickle.dumps(settings))
    return fd


def settings_from_fd(fd: int) -> Settings:
    """Return the settings that our own parent wrote."""
    size = os.fstat(fd).st_size
    settings: Settings = pickle.loads(os.pread(fd, size, 0))
    return settings


def preload() -> None:
    """Import in this process what ingest workers need, before they are forked.

    BLAS would start threads at its import, and a process with threads must not be forked; we only multiply and add.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import_module(_MAIN_OF[ProcessKind.INGEST])
    # What is there now stays for good: the collector need not touch it, so that the pages stay shared.
    gc.collect()
    gc.freeze()


def start(kind: ProcessKind, index: int, *, settings: Settings, settings_fd: int, page_fd: int) -> int:
    """Start a child with every signal unblocked and at its default; return its process id."""
    if kind is ProcessKind.INGEST:
        return _fork(kind, index, settings=settings, page_fd=page_fd)
    return _spawn(kind, index, settings_fd=settings_fd, page_fd=page_fd)


def _fork(kind: ProcessKind, index: int, *, settings: Settings, page_fd: int) -> int:
    parent_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = EXIT_FAILED
    try:
        for signum in _DEFAULTED:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        status = _begin(kind, index, settings=settings, page_fd=page_fd, parent_pid=parent_pid)
    except BaseException:  # noqa: BLE001  (nothing of the supervisor's own code may run in the child)
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _spawn(kind: ProcessKind, index: int, *, settings_fd: int, page_fd: int) -> int:
    numbers = [str(number) for number in (index, settings_fd, page_fd, os.getpid())]
    for fd in (settings_fd, page_fd):
        os.set_inheritable(fd, True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", __name__, kind.value, *numbers],
        os.environ,
        setsigmask=[],
        setsigdef=_DEFAULTED,
    )


def follow_parent(parent_pid: int, signum: int = signal.SIGTERM) -> None:
    """Ask the kernel to send us `signum` when the parent dies: no orphan keeps ports or subscriptions."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(EXIT_FAILED)


def set_title(title: str) -> None:
    """Name this process as ps and top show it; Linux keeps 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode(), 0, 0, 0)


def _begin(kind: ProcessKind, index: int, *, settings: Settings, page_fd: int, parent_pid: int) -> int:
    """Run a child from its first moment to its exit status."""
    follow_parent(parent_pid)
    set_title(f"scada-{kind.value}-{index}")
    # Ctrl-C reaches the whole process group; the supervisor decides the order in which children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings, process=kind.value, index=index)
    page = MetricsPage.attach(page_fd)
    try:
        status: int = import_module(_MAIN_OF[kind]).main(settings, page, index)
    except ScadaError as exc:
        print(f"scada-engine: {kind.value}: {exc}", file=sys.stderr)
        return EXIT_CONFIGURATION if isinstance(exc, ConfigurationError) else EXIT_FAILED
    return status


def main(argv: list[str]) -> int:
    """Run the child that the arguments name; return its exit status."""
    kind = ProcessKind(argv[0])
    index, settings_fd, page_fd, parent_pid = map(int, argv[1:5])
    settings = settings_from_fd(settings_fd)
    return _begin(kind, index, settings=settings, page_fd=page_fd, parent_pid=parent_pid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
