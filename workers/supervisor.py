"""The supervisor: starts the children, starts again what dies, and stops them in order.

Owns the metrics page's memory, the children's process ids and the signals. One thread, no event loop, no gRPC, no
connection to anything: it has to outlive every failure of those. It imports what its children share and runs none of
it, so that a child is a fork away (see workers.child). Signals are blocked and taken one at a time with
sigtimedwait(2), so that no handler runs in the middle of anything.

    TERM, INT   stop: ingest workers drain and flush, then gRPC, REST, then the aggregator (so that the last figures
                can still be scraped); after `stop_deadline_s` what is left is killed
    again       fast stop: everything is killed now
    CHLD        a child died: start it again, after a back-off that doubles while it keeps dying

A child that leaves with EXIT_CONFIGURATION before everything was ready once stops the whole engine: a taken port, a
wrong setting or a master database of a newer engine does not get better by trying.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import structlog

from engine.metrics import MetricsPage, ProcessKind, ProcessState
from workers.child import EXIT_CONFIGURATION, EXIT_FAILED, start

if TYPE_CHECKING:
    from engine.settings import Settings

log = structlog.get_logger(__name__)

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
_POLL_S = 0.02
_IDLE_POLL_S = 1.0
_BACKOFF_FIRST_S = 0.1
# A child that ran this long was healthy: its next death starts the back-off from the beginning.
_HEALTHY_S = 60.0
# This many deaths without a healthy stretch are a crash loop that a person has to look at.
_CRASH_LOOP = 5


@dataclass(slots=True)
class _Child:
    kind: ProcessKind
    index: int
    pid: int | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    deaths: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind.value}-{self.index}"


@dataclass(slots=True)
class Supervisor:
    """Runs one engine: N ingest workers, the aggregator, the gRPC front and REST."""

    settings: Settings
    page: MetricsPage = field(init=False)
    _children: list[_Child] = field(init=False)
    _was_ready: bool = field(default=False, init=False)
    _failed: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        shards = self.settings.worker_count()
        self.page = MetricsPage.create(shards)
        # The aggregator first: while the others still import their libraries it can already say who is not ready.
        self._children = [
            _Child(ProcessKind.AGGREGATOR, 0),
            # The longest imports of their own before the shorter ones.
            _Child(ProcessKind.REST, 0),
            _Child(ProcessKind.FRONT, 0),
        ]
        self._children += [_Child(ProcessKind.INGEST, shard) for shard in range(shards)]

    def run(self) -> int:
        """Run until a signal or a fatal child ends it; return the exit status."""
        started_s = time.monotonic()
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            log.info(
                "starting",
                workers=self.page.shards,
                metrics_port=self.settings.metrics_port,
                grpc_port=self.settings.grpc_port,
                rest_port=self.settings.rest_port,
            )
            while self._failed is None:
                self._start_due()
                if not self._was_ready and self._all_ready():
                    self._was_ready = True
                    log.info("ready", seconds=round(time.monotonic() - started_s, 3))
                signum = self._wait(_IDLE_POLL_S if self._was_ready else _POLL_S)
                self._reap()
                if signum in (signal.SIGTERM, signal.SIGINT):
                    log.info("stopping", signal=signal.Signals(signum).name)
                    break
                if signum == signal.SIGHUP:
                    log.warning(
                        "SIGHUP: reloading is not supported yet; restart to apply a changed configuration"
                    )
            return self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _wait(self, timeout_s: float) -> int | None:
        due = [child.due_s for child in self._children if child.pid is None]
        if due:
            timeout_s = min(timeout_s, max(0.0, min(due) - time.monotonic()))
        info = signal.sigtimedwait(_SIGNALS, timeout_s)
        return None if info is None else info.si_signo

    def _all_ready(self) -> bool:
        return all(process.state is ProcessState.READY for process in self.page.snapshot().processes)

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for child in self._children:
            if child.pid is None and child.due_s <= now_s:
                child.pid = start(child.kind, child.index, settings=self.settings, page=self.page)
                child.started_s = now_s
                log.debug("started", child=child.name, pid=child.pid)

    def _reap(self) -> None:
        for child in self._children:
            if child.pid is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._died(child, os.waitstatus_to_exitcode(status))

    def _died(self, child: _Child, exit_code: int) -> None:
        """Decide what follows: 1. a wrong configuration ends the engine; 2. anything else is started again, later."""
        lived_s = time.monotonic() - child.started_s
        reason = signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
        self.page.process_died(child.kind, child.index, exit_code)
        child.pid = None
        if exit_code == EXIT_CONFIGURATION and not self._was_ready:
            self._failed = EXIT_CONFIGURATION
            return
        child.deaths = 1 if lived_s >= _HEALTHY_S else child.deaths + 1
        wait_s = min(self.settings.restart_backoff_most_s, _BACKOFF_FIRST_S * 2 ** min(child.deaths - 1, 16))
        child.due_s = time.monotonic() + wait_s
        say = log.error if child.deaths >= _CRASH_LOOP else log.warning
        say(
            "a child keeps dying" if child.deaths >= _CRASH_LOOP else "a child died, starting it again",
            child=child.name,
            reason=reason,
            lived_s=round(lived_s, 1),
            deaths=child.deaths,
            next_start_s=round(wait_s, 2),
        )

    def _stop(self) -> int:
        """Stop kind after kind, each within what is left of the deadline; a second signal or the deadline kills."""
        deadline_s = time.monotonic() + self.settings.stop_deadline_s
        killed: list[str] = []
        for kind in (ProcessKind.INGEST, ProcessKind.FRONT, ProcessKind.REST, ProcessKind.AGGREGATOR):
            children = [child for child in self._children if child.kind is kind and child.pid is not None]
            for child in children:
                os.kill(_pid(child), signal.SIGTERM)
            while any(child.pid is not None for child in children):
                signum = self._wait_stopping(deadline_s)
                for child in children:
                    self._reap_stopping(child)
                if signum is not None or time.monotonic() >= deadline_s:
                    killed += self._kill_all()
        if killed:
            log.error("killed instead of drained", children=killed, reason="second signal or stop_deadline_s")
        log.info("stopped")
        return self._failed or (EXIT_FAILED if killed else 0)

    def _wait_stopping(self, deadline_s: float) -> int | None:
        """Return a second TERM or INT; None for a child's death or the deadline."""
        remaining_s = max(0.0, deadline_s - time.monotonic())
        info = signal.sigtimedwait(_SIGNALS, remaining_s)
        return info.si_signo if info and info.si_signo in (signal.SIGTERM, signal.SIGINT) else None

    def _reap_stopping(self, child: _Child) -> None:
        if child.pid is None:
            return
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            child.pid = None
            exit_code = os.waitstatus_to_exitcode(status)
            # A child that had not begun to listen for TERM ends by it, and had nothing to drain.
            if exit_code not in (0, -signal.SIGTERM) and self._failed is None:
                log.error("a child did not stop cleanly", child=child.name, exit_code=exit_code)
                self._failed = EXIT_FAILED

    def _kill_all(self) -> list[str]:
        alive = [child for child in self._children if child.pid is not None]
        for child in alive:
            os.kill(_pid(child), signal.SIGKILL)
            os.waitpid(_pid(child), 0)
            child.pid = None
        return [child.name for child in alive]


def _pid(child: _Child) -> int:
    assert child.pid is not None
    return child.pid


def become_supervisor(settings: Settings) -> NoReturn:
    """Turn this process into the supervisor: the same process id, and none of the command line's libraries.

    What the supervisor has in memory, every ingest worker has too.
    """
    fd = os.memfd_create("scada-settings", 0)  # inherited: nothing secret gets into arguments or environment
    os.write(fd, pickle.dumps(settings))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers", str(fd)])


def inherited_settings(fd: int) -> Settings:
    """Return what `become_supervisor` left for us, and close the descriptor."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        settings: Settings = pickle.load(file)
    return settings
