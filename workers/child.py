"""How the supervisor starts a child, and how a child begins.

Every child is forked from the supervisor, which first imports what children of its kind have in common with later
ones: it is imported once and shared, so that N workers are started for the price of one, and a worker that died is
back in milliseconds. What only one kind needs, it imports itself after the fork: gRPC, which must not live through
one, and the web framework never get into the supervisor or into an ingest worker.

A child never returns into the supervisor's code: it ends with os._exit.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, DatabaseTooNew, ScadaError
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


# Imported before the fork, in the order in which children are started: the processors are busy from the first moment.
_SHARED = {
    ProcessKind.AGGREGATOR: (),
    ProcessKind.FRONT: ("uvloop", "engine.catalog", "engine.query"),
    ProcessKind.REST: ("uvloop", "engine.catalog", "engine.query"),
    ProcessKind.INGEST: ("workers.ingest",),
}


def start(kind: ProcessKind, index: int, *, settings: Settings, page: MetricsPage) -> int:
    """Fork a child with every signal unblocked and at its default; return its process id."""
    # BLAS would start threads at its import, and a process with threads must not be forked; we only multiply and add.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for module in _SHARED[kind]:
        import_module(module)
    # What is there now stays for good: the collector need not touch it, so that the pages stay shared.
    gc.freeze()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = EXIT_FAILED
    try:
        for signum in _DEFAULTED:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        status = begin(kind, index, settings=settings, page_fd=page.fd, parent_pid=parent_pid)
    except BaseException:  # noqa: BLE001  (nothing of the supervisor's own code may run in the child)
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


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


def begin(kind: ProcessKind, index: int, *, settings: Settings, page_fd: int, parent_pid: int) -> int:
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
        return EXIT_CONFIGURATION if isinstance(exc, ConfigurationError | DatabaseTooNew) else EXIT_FAILED
    return status
