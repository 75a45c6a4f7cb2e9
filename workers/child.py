"""How the supervisor starts a child, and how a child begins. Owns the hand-over of Settings and of the metrics page.

A child is forked and then executes a fresh interpreter, so that an ingest worker carries neither the command line nor
the validation library in its memory, and gRPC never lives through a fork. Both things it needs come as inherited file
descriptors (memfd_create(2)): nothing secret is in its arguments or its environment.

    python -m workers.child KIND INDEX SETTINGS_FD PAGE_FD SUPERVISOR_PID
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, ScadaError
from engine.metric_names import ProcessKind

if TYPE_CHECKING:
    from engine.settings import Settings

_PR_SET_PDEATHSIG = 1

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


_MAIN_OF = {
    ProcessKind.INGEST: "workers.ingest",
    ProcessKind.AGGREGATOR: "workers.aggregator",
    ProcessKind.FRONT: "workers.rpc.front",
}


def settings_to_fd(settings: Settings) -> int:
    """Return the descriptor of an anonymous file that holds the settings; children read it, nobody else can."""
    fd = os.memfd_create("scada-settings", 0)
    os.write(fd, pickle.dumps(settings))
    return fd


def _settings_from_fd(fd: int) -> Settings:
    size = os.fstat(fd).st_size
    settings: Settings = pickle.loads(os.pread(fd, size, 0))
    return settings


def spawn(kind: ProcessKind, index: int, *, settings_fd: int, page_fd: int) -> int:
    """Start a child with every signal unblocked and at its default; return its process id."""
    argv = [
        sys.executable,
        "-m",
        __name__,
        kind.value,
        str(index),
        str(settings_fd),
        str(page_fd),
        str(os.getpid()),
    ]
    for fd in (settings_fd, page_fd):
        os.set_inheritable(fd, True)
    return os.posix_spawn(
        sys.executable,
        argv,
        os.environ,
        setsigmask=[],
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD],
    )


def follow_parent(parent_pid: int, signum: int = signal.SIGTERM) -> None:
    """Ask the kernel to send us `signum` when the parent dies: no orphan keeps ports or subscriptions."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(EXIT_FAILED)


def main(argv: list[str]) -> int:
    """Run the child that the arguments name; return its exit status."""
    kind = ProcessKind(argv[0])
    index, settings_fd, page_fd, parent_pid = map(int, argv[1:5])
    follow_parent(parent_pid)
    # Ctrl-C reaches the whole process group; the supervisor decides the order in which children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = _settings_from_fd(settings_fd)

    from engine.metrics import MetricsPage  # noqa: PLC0415  (after the cheap checks above)
    from workers import logs  # noqa: PLC0415

    logs.configure(settings, process=kind.value, index=index)
    page = MetricsPage.attach(page_fd)
    try:
        status: int = import_module(_MAIN_OF[kind]).main(settings, page, index)
    except ConfigurationError as exc:
        print(f"scada-engine: {kind.value}: {exc}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except ScadaError as exc:
        print(f"scada-engine: {kind.value}: {exc}", file=sys.stderr)
        return EXIT_FAILED
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
