"""A REST process alone, begun as the supervisor's children begin, and a client that speaks JSON."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from engine.metrics import MetricsPage, ProcessKind, ProcessState
from engine.settings import Settings
from tests.end_to_end.engine_process import until
from tests.workers.one_child import start_alone


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `json` is its body, None where that is not JSON."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        is_json = self.headers.get_content_type() == "application/json"
        return json.loads(self.body) if is_json else None

    @property
    def problem(self) -> tuple[int, str | None, str]:
        """Status, field and message of an answer that is an error."""
        error = self.json["error"]
        return self.status, error["field"], error["message"]


@dataclass
class RunningRest:
    """The process, its port and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    page: MetricsPage

    @property
    def state(self) -> ProcessState:
        return self.page.process_state(ProcessKind.REST, 0)

    def get(self, path: str, headers: dict[str, str] | None = None, **query: object) -> Answer:
        return self.send("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers)

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        """Send a body: bytes as they are, anything else as JSON."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, sent, {"Content-Type": "application/json", **(headers or {})})

    def send(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float = 30,
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Wait until the process says that it is ready; fail with the log when it ends instead."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"REST ended with {self.process.returncode}:\n{self.log.read_text()}")
            return self.state is ProcessState.READY

        until("REST is ready", ready)


@contextmanager
def running_rest(settings: Settings, folder: Path) -> Iterator[RunningRest]:
    """Run a REST process with these settings; kill it at the end if it still runs."""
    page = MetricsPage.create(1)
    log = folder / f"rest-{settings.rest_port}.log"
    with log.open("wb") as output:
        process = start_alone(ProcessKind.REST, settings, page, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield RunningRest(process, settings.rest_port, log, page)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)
        page.close()
