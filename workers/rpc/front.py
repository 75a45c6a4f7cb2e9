"""The gRPC process: start, health, reflection, limits, graceful stop. What is answered is in the services beside it.

    start     bind the port -> read the tenants, until the master database answers -> SERVING, READY
    running   the tenants every catalog_refresh_s; a heartbeat every second; NOT_SERVING while their list is too old
    TERM      NOT_SERVING, accept no more, let running calls end within stop_deadline_s, exit with 0
    TERM x 2  cut what still runs

Until callers have tokens the port is open to this machine only: a host that is not loopback is refused.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.metrics import ProcessState
from scada.v1 import (
    gaps_pb2,
    gaps_pb2_grpc,
    quarantine_pb2,
    quarantine_pb2_grpc,
    readings_pb2,
    readings_pb2_grpc,
)
from workers.identity import TenantDirectory
from workers.loopback import beside_port, bound, loopback, port_error
from workers.rpc.calls import Calls
from workers.rpc.columns import MESSAGE_MOST_BYTES
from workers.rpc.gaps import GapService
from workers.rpc.identity import APPLICATION, PLACE
from workers.rpc.quarantine import QuarantineService
from workers.rpc.readings import ReadingService

if TYPE_CHECKING:
    from engine.metrics import MetricsPage, ProcessSlots
    from engine.settings import Settings

log = structlog.get_logger(__name__)

SERVICES = tuple(
    service.full_name
    for file in (readings_pb2, gaps_pb2, quarantine_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
_HEARTBEAT_S = 1.0
# Beyond these calls at once, a caller gets RESOURCE_EXHAUSTED; each may hold one batch, a quarter of a megabyte.
_CALLS_MOST = 256

_OPTIONS: tuple[tuple[str, int], ...] = (
    # One front owns its port; sharing it with a second engine on the same machine would be an accident.
    ("grpc.so_reuseport", 0),
    # A request is a few fields; 10 000 tag ids take 50 kB.
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_send_message_length", MESSAGE_MOST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 100),
    # Callers that vanished are noticed after 80 s; callers who ping more than every 10 s are sent away.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    # So that callers spread when there are several fronts, and a forgotten connection ends.
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 3_600_000),
)


def main(settings: Settings, page: MetricsPage, index: int) -> int:
    """Run front `index` until SIGTERM; return its exit status. Raises ConfigurationError for host and port."""
    return uvloop.run(_run(settings, page.front(index)))


async def _run(settings: Settings, slots: ProcessSlots) -> int:
    stop, cut = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (cut if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_signal)
    front = Front(settings)
    await front.start()
    beating = asyncio.create_task(_beat(slots))
    keeping = asyncio.create_task(front.keep_ready(slots))
    stopping = asyncio.create_task(stop.wait())
    try:
        # Neither of the first two returns; one that raises ends the process, and the supervisor starts another.
        done, _ = await asyncio.wait((beating, keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
        slots.set_state(ProcessState.STOPPING)
        keeping.cancel()
        await front.stop(settings.stop_deadline_s, cut)
        for task in done - {stopping}:
            task.result()
    finally:
        for task in (beating, keeping, stopping):
            task.cancel()
        await asyncio.gather(beating, keeping, stopping, return_exceptions=True)
        slots.set_state(ProcessState.STOPPED)
    return 0


async def _beat(slots: ProcessSlots) -> None:
    while True:
        slots.beat()
        await asyncio.sleep(_HEARTBEAT_S)


class Front:
    """The server with its services; `port` is the bound one after `start`, also where the settings say 0."""

    def __init__(self, settings: Settings) -> None:
        """Check the host; raises ConfigurationError."""
        self.port = 0
        self._settings = settings
        self._address = loopback(settings.host)
        self._directory = TenantDirectory(settings, application=APPLICATION, place=PLACE)
        self._calls = Calls(self._directory, settings)
        self._health = health.aio.HealthServicer()
        self._serving = False

    async def start(self) -> None:
        """Bind the port and answer calls, with health NOT_SERVING. Raises ConfigurationError for a taken port."""
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_CALLS_MOST)
        readings_pb2_grpc.add_ReadingServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ReadingService(self._calls, self._settings), self._server
        )
        gaps_pb2_grpc.add_GapServiceServicer_to_server(  # type: ignore[no-untyped-call]
            GapService(self._calls, self._settings), self._server
        )
        quarantine_pb2_grpc.add_QuarantineServiceServicer_to_server(  # type: ignore[no-untyped-call]
            QuarantineService(self._calls, self._settings), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._set_serving(False)
        wanted = self._settings.grpc_port
        # gRPC would say in many lines of its own that the port is taken.
        bound("grpc_port", self._address, wanted).close()
        host = beside_port(self._address)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{wanted}")
        except RuntimeError as exc:
            raise port_error("grpc_port", self._address, wanted, str(exc)) from exc
        await self._server.start()
        log.info("gRPC port open", address=f"{host}:{self.port}")

    async def keep_ready(self, slots: ProcessSlots | None = None) -> None:
        """Read the tenants again and again; health and process state say whether they are known. Never returns."""
        async for known in self._directory.follow():
            await self._calls.forget_all_but(self._directory.active())
            if known != self._serving:
                await self._set_serving(known)
                if slots is not None:
                    slots.set_state(ProcessState.READY if known else ProcessState.STARTING)

    async def stop(self, deadline_s: float, cut: asyncio.Event | None = None) -> None:
        """Accept no more, let running calls end within the deadline or until `cut`, then end the rest."""
        await self._health.enter_graceful_shutdown()
        refusing = asyncio.create_task(self._server.stop(deadline_s))
        idle = asyncio.create_task(self._calls.idle())
        waits = {refusing, idle} | ({asyncio.create_task(cut.wait())} if cut else set())
        # Health watchers and reflection never end by themselves, so the end of our own calls decides.
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await self._server.stop(None)
        for task in waits - {refusing}:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await self._calls.close()
        await self._directory.close()

    async def _set_serving(self, serving: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", *SERVICES):
            await self._health.set(service, status)
        self._serving = serving
