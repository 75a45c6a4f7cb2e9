"""A PostgreSQL that a test may kill and start again: the embedded one, on a folder and a port of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from tests.servers.embedded_postgres import memory
from tests.servers.opcua_server import free_port
from workers.embedded import EmbeddedPostgres

_END_DEADLINE_S = 10.0
_READY_DEADLINE_S = 30.0


class CrashingPostgres:
    """A running server; what it has committed survives `kill`, as it does the end of any process."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    @property
    def dsn(self) -> str:
        """A superuser's DSN on the maintenance database; the same after each start."""
        return self._server.dsn()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._server.port

    def kill(self) -> None:
        """End all of the server's processes at once, as when it runs out of memory."""
        assert self._server.pid is not None
        postmaster = psutil.Process(self._server.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, _END_DEADLINE_S)
        self._server.stop()

    def start(self) -> None:
        """Start it again where it was; it recovers first."""
        self._server.start()

    def wait_ready(self) -> None:
        """Wait until it takes connections again, after `kill_backend_of`."""
        deadline_s = time.monotonic() + _READY_DEADLINE_S
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)
            else:
                return

    def kill_backend_of(self, application: str) -> bool:
        """Kill one server process that works for an application; the server then restarts itself. False: none does."""
        with psycopg.connect(self.dsn) as connection:
            found = connection.execute(
                "select pid from pg_stat_activity where application_name = %s limit 1", [application]
            ).fetchone()
        if found is None:
            return False
        psutil.Process(found[0]).kill()
        return True


@contextmanager
def crashing_postgres() -> Iterator[CrashingPostgres]:
    """Run a server with nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="scada-crashing-", dir=memory()))
    folder.chmod(0o755)
    settings = {"fsync": "off", "max_connections": "200"}
    try:
        with EmbeddedPostgres(folder, port=free_port(), server_settings=settings) as server:
            yield CrashingPostgres(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
