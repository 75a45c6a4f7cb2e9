"""The demo as users start it, as a child process of the tests: through a pipe, or on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from workers.child import follow_parent

from .conftest import bare_environment

# A line of the piped view that shows readings, in their units and with a quality.
READINGS = r"[1-9]\d* stored \| (Permian|Delaware) Basin Well 1 [A-Z_]+ [\d .]+ (PSI|BBL/D|MCF/D) (Good|Uncertain|Bad)"
_START_S = 90.0
_STOP_S = 40.0


@dataclass
class DemoProcess:
    """A running demo and everything it has written so far."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    folder: Path
    text: str = ""
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def until(self, pattern: str, *, timeout_s: float = _START_S) -> re.Match[str]:
        """Read until the pattern appears in what was written; fail with all of it otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.output], [], [], max(0.0, deadline_s - time.monotonic()))
            data = self._read() if ready else b""
            if not data:
                raise AssertionError(f"no {pattern!r} in what the demo wrote:\n{self.text}")
            self.text += data.decode("utf-8", "replace")
        return found

    def _read(self) -> bytes:
        try:
            return os.read(self.output.fileno(), 65_536)
        except OSError:  # EIO: the other side of a terminal is closed
            return b""

    def type(self, keys: bytes) -> None:
        """Type on the demo's terminal."""
        os.write(self.output.fileno(), keys)

    def wait(self) -> int:
        """Read what comes until the end and return the exit status."""
        deadline_s = time.monotonic() + _STOP_S
        while select.select([self.output], [], [], max(0.0, deadline_s - time.monotonic()))[0] and (
            data := self._read()
        ):
            self.text += data.decode("utf-8", "replace")
        return self.process.wait(max(0.1, deadline_s - time.monotonic()))

    def environment(self) -> dict[str, str]:
        """Return the variables that lead commands to this demo."""
        pairs = (
            line.removeprefix("export ").split("=", 1)
            for line in (self.folder / "env").read_text().splitlines()
        )
        return {name: value.strip("'") for name, value in pairs}

    def descendants(self) -> list[psutil.Process]:
        """Return every process that the demo started and that runs now; they are remembered."""
        running = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= {process.pid: process for process in running}
        return running

    def wait_until_all_are_gone(self) -> None:
        """Wait until no process that `descendants` ever saw runs any more, and no port answers."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=_STOP_S)
        assert [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        for name in ("METRICS_PORT", "GRPC_PORT", "SCADA_REST_PORT"):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", int(self.environment()[name]))) != 0


@contextlib.contextmanager
def demo_folder() -> Iterator[Path]:
    """A folder that the database's user can enter, other than pytest's own, which only its owner can."""
    with tempfile.TemporaryDirectory(prefix="scada-demo-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data"


@contextlib.contextmanager
def running_demo(folder: Path, *, terminal: bool = False, **variables: str) -> Iterator[DemoProcess]:
    """Run `scada-engine demo` on free ports; kill what is left at the end."""
    parent = os.getpid()
    ours, theirs = pty.openpty() if terminal else os.pipe()

    def begin() -> None:
        follow_parent(parent, signal.SIGKILL)
        if terminal:
            # Only a controlling terminal turns a typed Ctrl-C into a signal.
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    ports = {"METRICS_PORT": "0", "GRPC_PORT": "0", "SCADA_REST_PORT": "0"}
    environment = bare_environment(**(ports | {"TERM": "xterm"} | variables))
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "demo", "--dir", str(folder)],
        cwd=folder.parent,
        env=environment,
        stdin=theirs if terminal else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=begin,  # noqa: PLW1509  (pytest has no other threads here)
    )
    os.close(theirs)
    with os.fdopen(ours, "r+b" if terminal else "rb", buffering=0) as output:
        try:
            yield DemoProcess(process, output, folder)
        finally:
            process.kill()
            process.wait(10)
