"""A process that the demo starts: its own group, its output in a log file, and gone when the demo is gone.

The child gets its own process group, so that Ctrl-C on the terminal reaches the demo alone, which then stops its
children in order. Should the demo be killed, the kernel sends each child a TERM (prctl PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from workers.child import follow_parent

_KILL_WAIT_S = 5.0
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """One running child and where its output goes."""

    name: str
    process: asyncio.subprocess.Process
    log_file: Path

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path
    ) -> ChildProcess:
        """Start a child; its log file begins anew."""
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                preexec_fn=partial(follow_parent, os.getpid(), signal.SIGTERM),
            )
        return cls(name, process, log_file)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; minus the signal for a child that a signal ended."""
        return self.process.returncode

    def last_lines(self, lines: int = 15) -> list[str]:
        """Return the end of what it wrote."""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]

    async def stop(self, *, deadline_s: float) -> bool:
        """Ask it to end and wait; return False when it had to be killed."""
        if self.exit_status is not None:
            return True
        self.process.terminate()
        try:
            async with asyncio.timeout(deadline_s):
                await self.process.wait()
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            async with asyncio.timeout(_KILL_WAIT_S):
                await self.process.wait()
            return False
        return True
