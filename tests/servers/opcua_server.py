"""An OPC UA server in a process of its own, and what it serves. Used by simulator.py, open62541.py and node_opcua.py.

A server program prints a line that begins with READY once it listens, ends on SIGTERM, and ends by itself
when this process dies: through its standard input, which then closes, or because it asked the kernel for it.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from tests.servers.server_options import ServerOptions

Maker = Literal["simulator", "asyncua", "open62541", "node-opcua"]
REPOSITORY = Path(__file__).parents[2]
_READY = re.compile(rb"^READY ?(.*)\n", re.MULTILINE)
_POLL_S = 0.01
_STOP_DEADLINE_S = 5.0
# Below the range that Linux hands out to outgoing connections (32768 and up), so that none of them takes the
# port between the choice and the server's bind.
_PORTS = range(20_000, 32_000)


class ServerFailed(Exception):
    """A server program ended or said nothing; the message has the end of what it printed."""


@dataclass(frozen=True, slots=True)
class ServedVariable:
    """A variable that a test can subscribe to.

    `data_type` is the built-in type's name. `value` is what every sample holds, as plain Python: a DateTime
    is an aware datetime, a StatusCode an integer, a LocalizedText its text, a NodeId its string; None where
    it moves.
    """

    node_id: str
    data_type: str
    value: object = None
    status: int = 0

    @property
    def moves(self) -> bool:
        """Whether the server changes the value by itself."""
        return self.value is None


class ServerProcess:
    """A running server program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._log = log
        self.ready_text = ""

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Send the program a line on its standard input, which it obeys soon."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the program at once, as a crash would, and wait for it."""
        self._process.kill()
        self._process.wait(_STOP_DEADLINE_S)

    def wait(self, deadline_s: float) -> int:
        """Wait for the program's end and return its exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(deadline_s)

    def wait_ready(self, deadline_s: float) -> None:
        """Wait for the READY line. Raises ServerFailed with what the program printed."""
        give_up = time.monotonic() + deadline_s
        while (found := _READY.search(self._printed())) is None:
            status = self._process.poll()
            if status is not None:
                raise ServerFailed(f"{self._name} ended with status {status}: {self._tail()}")
            if time.monotonic() > give_up:
                raise ServerFailed(f"{self._name} was not ready after {deadline_s:g} s: {self._tail()}")
            time.sleep(_POLL_S)
        self.ready_text = found.group(1).decode()

    def stop(self) -> int:
        """End the program with SIGTERM, with SIGKILL if it does not obey; return its exit status."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            return self._process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_STOP_DEADLINE_S)

    def _printed(self) -> bytes:
        # Not by seek and read: the program writes through the same file description, and would write where we are.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def _tail(self) -> str:
        return self._printed().decode(errors="replace").strip()[-2_000:] or "(it printed nothing)"


@dataclass(frozen=True, slots=True)
class OpcuaServer:
    """A server that is ready for clients."""

    endpoint: str
    variables: tuple[ServedVariable, ...]
    process: ServerProcess
    maker: Maker = "simulator"
    options: ServerOptions = field(default_factory=ServerOptions)

    @property
    def port(self) -> int:
        """The TCP port of 127.0.0.1 that it listens on."""
        return urlsplit(self.endpoint).port or 4840

    @property
    def certificate(self) -> bytes | None:
        """The certificate that it shows, DER; None without security."""
        return self.options.identity.der if self.options.identity else None

    def write(self, name: str, value: float) -> None:
        """Give a variable of folder Changing (`analog`, `plain`, `enum.State`) a value, soon."""
        self.process.tell(f"set {name} {value!r}")

    def hold(self) -> None:
        """Keep the counters where they are, soon, so that a test knows the last value."""
        self.process.tell("hold")

    def release(self) -> None:
        """Let the counters go on, soon."""
        self.process.tell("release")

    def set_service_level(self, level: int) -> None:
        """Change what the server says of its health, 0 to 255, soon."""
        self.process.tell(f"service-level {level}")

    @property
    def moving(self) -> tuple[ServedVariable, ...]:
        """The variables whose values change by themselves."""
        return tuple(variable for variable in self.variables if variable.moves)

    @property
    def fixed(self) -> tuple[ServedVariable, ...]:
        """The variables that always hold the same value."""
        return tuple(variable for variable in self.variables if not variable.moves)


@contextmanager
def server_process(
    name: str,
    command: Sequence[str],
    *,
    deadline_s: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Start a server program, wait until it is ready, and end it afterwards. Raises ServerFailed."""
    # A file and not a pipe: nobody has to read along, however much a server prints.
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=REPOSITORY, env=environment
        )
        process = ServerProcess(name, started, log)
        try:
            process.wait_ready(deadline_s)
            yield process
        finally:
            process.stop()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    for port in random.sample(_PORTS, k=200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port on 127.0.0.1")
