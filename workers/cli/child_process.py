"""A process that the demo starts: its own session, its output in a log file, and gone when the demo is gone.

In a session of its own, Ctrl-C on the terminal reaches the demo alone, which then stops its children in order. Should
the demo be killed, the kernel sends each child an interrupt (guarded_exec).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from workers import guarded_exec

_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """One running child and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @classmethod
    def start(
        cls, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], log_file: Path
    ) -> Self:
        """Start `scada-engine` with these arguments; its log file begins anew."""
        guard = [sys.executable, "-I", "-S", str(guarded_exec.__file__), str(os.getpid()), "-", "-"]
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*guard, sys.executable, "-m", "workers.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return cls(name, process, log_file)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; minus the signal for a child that a signal ended."""
        return self.process.poll()

    def log_text(self) -> str:
        """Return the end of what it wrote, at most 64 KiB."""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace")

    def ask_to_stop(self) -> None:
        """Send a TERM; for the engine, a second one means: at once."""
        if self.exit_status is None:
            self.process.terminate()

    def stop(self, *, deadline_s: float) -> bool:
        """Ask it to stop and wait; return False when it had to be killed."""
        self.ask_to_stop()
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return False
        return True
