"""The REST process: start, limits of a connection, readiness, graceful stop. What is answered is in the app beside it.

    start     bind the port -> read the tenants, until the master database answers -> READY
    running   the tenants every catalog_refresh_s; a heartbeat every second; not READY while their list is too old
    TERM      accept no more, let running requests end within stop_deadline_s, exit with 0
    TERM x 2  cut what still runs

Until callers have tokens the port is open to this machine only: a host that is not loopback is refused.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
import uvloop
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from engine.metrics import ProcessState
from workers.identity import TenantDirectory
from workers.loopback import beside_port, bound, loopback
from workers.rest import app
from workers.rest.answers import TENANT
from workers.rest.gate import Gate
from workers.rest.tenancy import APPLICATION, Tenancies

if TYPE_CHECKING:
    from socket import socket

    from engine.metrics import MetricsPage, ProcessSlots
    from engine.settings import Settings

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 1.0
# Beyond these, a request is refused before it is read. Idle ones are closed after 5 s.
_CONNECTIONS_MOST = 256
_HEAD_MOST_BYTES = 16 << 10
# A client that sends no whole head, or takes nothing of an answer, for so long (or twice that) is gone.
SILENCE_MOST_S = 15.0


def main(settings: Settings, page: MetricsPage, index: int) -> int:  # noqa: ARG001  (there is one REST process)
    """Serve until SIGTERM; return the exit status. Raises ConfigurationError for host and port."""
    return uvloop.run(_run(settings, page.rest()))


async def _run(settings: Settings, slots: ProcessSlots) -> int:
    listening = bound("rest_port", loopback(settings.host), settings.rest_port)
    directory = TenantDirectory(settings, application=APPLICATION, place=f"the request header {TENANT}")
    tenancies = Tenancies(settings, directory.databases)
    server = RestServer(Gate(app.build(directory, tenancies)))
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if server.should_exit:
            server.cut()
        else:
            slots.set_state(ProcessState.STOPPING)
            server.should_exit = True
            loop.call_later(settings.stop_deadline_s, server.cut)

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    host, port = listening.getsockname()[:2]
    log.info("REST port open", address=f"{beside_port(host)}:{port}")
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    beside = [
        asyncio.create_task(_beat(slots)),
        asyncio.create_task(_keep_ready(slots, server, directory, tenancies)),
    ]
    try:
        # Only the server returns; another one that raises ends the process, and the supervisor starts a new one.
        done, _ = await asyncio.wait((serving, *beside), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (serving, *beside):
            task.cancel()
        await asyncio.gather(serving, *beside, return_exceptions=True)
        await tenancies.close()
        await directory.close()
        slots.set_state(ProcessState.STOPPED)
    return 0


async def _beat(slots: ProcessSlots) -> None:
    while True:
        slots.beat()
        await asyncio.sleep(_HEARTBEAT_S)


async def _keep_ready(
    slots: ProcessSlots, server: RestServer, directory: TenantDirectory, tenancies: Tenancies
) -> None:
    ready = False
    await server.listening.wait()
    async for known in directory.follow():
        await tenancies.forget_all_but(directory.active())
        if known != ready and not server.should_exit:
            slots.set_state(ProcessState.READY if known else ProcessState.STARTING)
            ready = known


class PatientProtocol(H11Protocol):
    """Closes a connection whose client neither sends a request nor takes an answer; a slow one may go on."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection now and then."""
        super().connection_made(transport)
        self._seen: tuple[object, int] | None = None
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        idle = self.cycle is None or self.cycle.response_complete
        now = (self.cycle, unsent_bytes)
        if now == self._seen and (idle or unsent_bytes):
            self.transport.abort()
        self._seen = now
        self._next_look = self.loop.call_later(SILENCE_MOST_S, self._look)


class RestServer(Server):
    """uvicorn's server with our limits; signals and logging are ours too."""

    def __init__(self, application: Gate) -> None:
        super().__init__(
            Config(
                application,
                loop="none",
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                # Below, it says a line for each request that is not HTTP.
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS_MOST,
                h11_max_incomplete_event_size=_HEAD_MOST_BYTES,
            )
        )
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `main`."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.listening.set()

    def cut(self) -> None:
        """End at once what still runs."""
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
