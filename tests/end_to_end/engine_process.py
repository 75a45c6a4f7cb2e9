"""The whole engine as users start it, `scada-engine run`, as a child process of the tests.

No test can forget that the engine must account for every reading: `stop`, and the end of `running_engine`, wait until
scada_accounting_difference is 0 for all tenants, or fail.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
# Makes a program end with the process that started it; used here so that a killed test run leaves no engine behind.
GUARD = REPOSITORY / "workers" / "guarded_exec.py"
_START_S = 20.0
# A worker that was killed is accounted for when the next one has opened its journal.
_ACCOUNTED_S = 20.0
# As users start it.
_RUN = ("-m", "workers.cli", "run")
_UNSHARE = "/usr/bin/unshare"
# In a mount namespace of its own, so that nothing is left behind: a file system of $1 for folder $2.
_SMALL_DISK = 'mkdir -p "$2"; mount -t tmpfs -o "$1,mode=0700" tmpfs "$2"; shift 2; exec "$@"'


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
    folder: Path

    @property
    def journal(self) -> Path:
        """The journal's folder, seen as the engine sees it: it may lie on a file system of its own. While it runs."""
        return Path(f"/proc/{self.process.pid}/root{self.folder}/journal")

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET on the metrics port; status 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as exc:
            return exc.code, exc.read().decode()
        except (URLError, OSError):
            return 0, ""

    def samples(self, name: str) -> list[Sample]:
        """Return all samples of one name in /metrics; none while nothing answers."""
        status, text = self.get("/metrics")
        families = text_string_to_metric_families(text) if status == 200 else ()
        return [sample for family in families for sample in family.samples if sample.name == name]

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample of /metrics; 0.0 when it is not there (yet)."""
        for sample in self.samples(name):
            if labels.items() <= sample.labels.items():
                return float(sample.value)
        return 0.0

    def wait_accounted(self) -> None:
        """Wait until every tenant's readings are accounted for: stored, quarantined, dropped or in flight.

        Once there is nothing to ask any more, because the engine has ended, there is nothing to wait for.
        """
        wrong: dict[str, float] = {}

        def accounted() -> bool:
            nonlocal wrong
            differences = self.samples("scada_accounting_difference")
            wrong = {each.labels["tenant"]: each.value for each in differences if each.value}
            answered = self.get("/livez")[0] != 0
            return self.process.poll() is not None or (answered and not wrong)

        try:
            until("all readings are accounted for", accounted, timeout_s=_ACCOUNTED_S)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; difference by tenant: {wrong}\n{self.log.read_text()}") from exc

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

    def kill(self) -> None:
        """End all of the engine's processes at once, as when the machine loses them."""
        supervisor = psutil.Process(self.process.pid)
        # So that it starts nothing again, and nobody hears of its end.
        supervisor.suspend()
        children = supervisor.children()
        for child in [*children, supervisor]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait(10)
        psutil.wait_procs(children, 10)

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """See that every reading is accounted for, send a signal, wait for the end, return the exit status."""
        self.wait_accounted()
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def running_engine(
    master_dsn: str,
    folder: Path,
    *,
    workers: int = 2,
    program: Sequence[str] | None = None,
    journal_disk: str = "",
    **environment: str,
) -> Iterator[Engine]:
    """Run `scada-engine run` on free ports with a short flush interval; kill what is left at the end.

    `program` is what Python runs instead. `journal_disk` ("size=8m") gives the journal a file system of its own, which
    needs root. Fails at the end when the engine does not account for every reading.
    """
    metrics_port, grpc_port = free_port(), free_port()
    log = folder / "engine.log"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SCADA_")} | {
        "DATABASE_URL": master_dsn,
        "METRICS_PORT": str(metrics_port),
        "GRPC_PORT": str(grpc_port),
        "SCADA_REST_PORT": str(free_port()),
        "SCADA_WORKERS": str(workers),
        "SCADA_LOG_FORMAT": "json",
        "SCADA_JOURNAL__FOLDER": str(folder / "journal"),
        "BUFFER_DURATION_MS": "200",
        "SCADA_CATALOG_REFRESH_S": "0.5",
        "SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "100",
        "SCADA_OPCUA__SAMPLING_INTERVAL_MS": "100",
        **environment,
    }
    command = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), "-", "-"]
    if journal_disk:
        command += [_UNSHARE, "--mount", "--propagation=private", "/bin/sh", "-eu", "-c", _SMALL_DISK, "sh"]
        command += [journal_disk, str(folder / "journal")]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, sys.executable, *(program or _RUN)],
            env=variables,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    engine = Engine(process, metrics_port, grpc_port, log, folder)
    try:
        yield engine
        if process.poll() is None:
            engine.wait_accounted()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
