"""A front alone, begun as the supervisor's children begin; a child process of the tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from engine.metrics import MetricsPage, ProcessKind, ProcessState
from engine.settings import Settings
from scada.v1.readings_pb2_grpc import ReadingServiceStub
from tests.end_to_end.engine_process import until
from tests.workers.one_child import start_alone


@dataclass
class RunningFront:
    """The process, its address and its log; `stub` calls the ReadingService."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    page: MetricsPage
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(self.address)
        self.stub = ReadingServiceStub(self.channel)  # type: ignore[no-untyped-call]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def state(self) -> ProcessState:
        return self.page.process_state(ProcessKind.FRONT, 0)

    def health(self, service: str = "") -> str:
        """Return SERVING, NOT_SERVING, ..., or the status code of a call that failed."""
        try:
            answer = HealthStub(self.channel).Check(HealthCheckRequest(service=service), timeout=5)
        except grpc.RpcError as exc:
            return str(exc.code().name)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))

    def wait_serving(self) -> None:
        """Wait until health says SERVING; fail with the log when the process ends instead."""

        def serving() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the front ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            return self.health() == "SERVING"

        until("the front is serving", serving)


@contextmanager
def running_front(settings: Settings, folder: Path) -> Iterator[RunningFront]:
    """Run a front with these settings; kill it at the end if it still runs."""
    page = MetricsPage.create(1)
    log = folder / f"front-{settings.grpc_port}.log"
    with log.open("wb") as output:
        process = start_alone(ProcessKind.FRONT, settings, page, stdout=output, stderr=subprocess.STDOUT)
    front = RunningFront(process, settings.grpc_port, log, page)
    try:
        yield front
    finally:
        front.channel.close()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)
        page.close()
