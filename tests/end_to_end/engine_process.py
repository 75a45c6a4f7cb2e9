"""The whole engine as users start it, `scada-engine run`, as a child process of the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError

import psutil
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
# Makes a program end with the process that started it; used here so that a killed test run leaves no engine behind.
GUARD = REPOSITORY / "workers" / "guarded_exec.py"
_START_S = 20.0


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(what: str, probe: Callable[[], T | None], *, timeout_s: float = 20.0, poll_s: float = 0.05) -> T:
    """Return the first truthy answer of `probe`; fail with `what` when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(poll_s)


def _is_running(child: psutil.Process, kind: str) -> bool:
    """Tell whether a child is of one kind and alive; it may end, and be reaped, between two of these questions."""
    try:
        return child.name().startswith(f"scada-{kind}"[:15]) and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Engine:
    """A running engine and what its ports say."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    grpc_port: int
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET on the metrics port; status 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as exc:
            return exc.code, exc.read().decode()
        except (URLError, OSError):
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample of /metrics; 0.0 when it is not there (yet)."""
        status, text = self.get("/metrics")
        if status != 200:
            return 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def wait_ready(self) -> None:
        """Wait until /readyz says 200; fail with the log when the engine ends instead."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the engine ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            return self.get("/readyz")[0] == 200

        try:
            until("the engine is ready", ready, timeout_s=_START_S)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; {self.get('/readyz')}:\n{self.log.read_text()}") from exc

    def children(self, kind: str) -> list[psutil.Process]:
        """Return the engine's child processes of one kind: ingest, aggregator or front."""
        return [child for child in psutil.Process(self.process.pid).children() if _is_running(child, kind)]

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal, wait for the end, return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def running_engine(
    master_dsn: str, folder: Path, *, workers: int = 2, **environment: str
) -> Iterator[Engine]:
    """Run `scada-engine run` on free ports with a short flush interval; kill what is left at the end."""
    metrics_port, grpc_port = free_port(), free_port()
    log = folder / "engine.log"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SCADA_")} | {
        "DATABASE_URL": master_dsn,
        "METRICS_PORT": str(metrics_port),
        "GRPC_PORT": str(grpc_port),
        "SCADA_REST_PORT": str(free_port()),
        "SCADA_JOURNAL__FOLDER": str(folder / "journal"),
        "BUFFER_DURATION_MS": "200",
        "SCADA_CATALOG_REFRESH_S": "0.5",
        "SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "100",
        "SCADA_OPCUA__SAMPLING_INTERVAL_MS": "100",
        **environment,
    }
    guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), "-", "-"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *guard,
                sys.executable,
                "-m",
                "workers.cli",
                "run",
                "--workers",
                str(workers),
                "--log-format",
                "json",
            ],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    engine = Engine(process, metrics_port, grpc_port, log)
    try:
        yield engine
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
