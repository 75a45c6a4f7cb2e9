"""The metrics process as Prometheus and a load balancer see it: a real process, a real page, real sockets."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from engine.metrics import DropReason, Gauge, MetricsPage, ProcessKind, ProcessState, TenantSlots
from engine.settings import Settings
from engine.version import VERSION
from tests.engine.counting import committed, received
from tests.workers.one_child import start_alone
from workers.aggregator import settled
from workers.child import EXIT_CONFIGURATION
from workers.exposition import HEARTBEAT_FRESH_S

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4;q=0.5"
_DEADLINE_S = 20.0


@dataclass
class Scraped:
    """An answer, and the connection's way to say it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass
class Process:
    """A running aggregator."""

    process: subprocess.Popen[str]
    port: int

    def get(self, path: str, method: str = "GET", **headers: str) -> Scraped:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_DEADLINE_S)
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        scraped = Scraped(answer.status, answer.headers, answer.read())
        connection.close()
        return scraped

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What /metrics says: by name and labels."""
        return samples_of(text_families(self.get("/metrics").body.decode()))

    def reasons(self) -> dict[str, str]:
        """Which processes are not ready, and why."""
        answer = self.get("/readyz")
        said = json.loads(answer.body)
        assert (answer.status == 200) is said["ready"]
        return {
            f"{one['process']}-{one['index']}": one["reason"] for one in said["processes"] if not one["ready"]
        }


def samples_of(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in families
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@contextmanager
def aggregator_process(page: MetricsPage, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    process = start_alone(ProcessKind.AGGREGATOR, settings, page, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    made = MetricsPage.create(2)
    yield made
    made.close()


@pytest.fixture
def running(page: MetricsPage) -> Iterator[Process]:
    """An aggregator on a free port, as its log says."""
    with aggregator_process(page, Settings(metrics_port=0, log_format="json")) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert line["event"] == "metrics are served"
        yield Process(process, int(line["url"].rpartition(":")[2].removesuffix("/metrics")))


def filled(slots: TenantSlots) -> TenantSlots:
    received(slots, 100, in_flight=100)
    committed(slots, 60, in_flight=38)
    slots.drop(DropReason.UNKNOWN_HANDLE, 2)
    slots.observe_write(60, 0.02)
    slots.set(Gauge.ACTIVE_CONNECTIONS, 2)
    slots.set(Gauge.WANTED_CONNECTIONS, 3)
    slots.set(Gauge.DATABASE_UP, 1)
    return slots


def test_prometheus_gets_what_the_workers_counted(page: MetricsPage, running: Process) -> None:
    filled(page.shard(0).tenant("acme"))
    filled(page.shard(1).tenant("borealis"))
    page.shard(1).set_state(ProcessState.READY)
    samples = running.samples()
    for tenant in ("acme", "borealis"):
        assert samples[key("scada_readings_received_total", tenant=tenant)] == 100
        assert samples[key("scada_readings_ingested_total", tenant=tenant)] == 60
        assert samples[key("scada_readings_dropped_total", tenant=tenant, reason="unknown_handle")] == 2
        assert samples[key("scada_readings_dropped_total", tenant=tenant, reason="worker_killed")] == 0
        assert samples[key("scada_readings_in_flight", tenant=tenant)] == 38
        assert samples[key("scada_accounting_difference", tenant=tenant)] == 0
        assert samples[key("scada_active_connections", tenant=tenant)] == 2
        assert samples[key("scada_wanted_connections", tenant=tenant)] == 3
        assert samples[key("scada_database_up", tenant=tenant)] == 1
        assert samples[key("scada_monitored_items", tenant=tenant)] == 0
    assert samples[key("scada_batch_size_count")] == 2
    assert samples[key("scada_batch_size_sum")] == 120
    assert samples[key("scada_batch_size_bucket", le="50.0")] == 0
    assert samples[key("scada_batch_size_bucket", le="100.0")] == 2
    assert samples[key("scada_db_write_latency_seconds_bucket", le="0.025")] == 2
    assert samples[key("scada_db_write_latency_seconds_bucket", le="+Inf")] == 2
    assert samples[key("scada_process_up", process="ingest", index="0")] == 0
    assert samples[key("scada_process_up", process="ingest", index="1")] == 1
    assert samples[key("scada_process_up", process="aggregator", index="0")] == 1
    assert samples[key("scada_process_restarts_total", process="ingest", index="0")] == 0
    assert samples[key("scada_process_resident_bytes", process="aggregator", index="0")] > 1_000_000
    assert key("scada_process_resident_bytes", process="front", index="0") not in samples
    assert samples[key("scada_build_info", version=VERSION)] == 1


def test_no_label_is_ever_a_tag(page: MetricsPage, running: Process) -> None:
    filled(page.shard(0).tenant("acme"))
    labels = {name for _, labels in running.samples() for name, _ in labels}
    assert labels == {"tenant", "reason", "process", "index", "le", "version"}


def test_openmetrics_and_gzip_are_spoken_when_asked_for(page: MetricsPage, running: Process) -> None:
    for number in range(20):
        filled(page.shard(0).tenant(f"tenant-{number}"))
    answer = running.get("/metrics", Accept=OPENMETRICS, Accept_Encoding="gzip, deflate")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Encoding"] == "gzip"
    text = gzip.decompress(answer.body).decode()
    assert text.endswith("# EOF\n")
    samples = samples_of(openmetrics_families(text))  # type: ignore[no-untyped-call]
    assert samples[key("scada_readings_ingested_total", tenant="tenant-7")] == 60
    plain = running.get("/metrics", Accept_Encoding="gzip;q=0")
    assert plain.headers["Content-Encoding"] is None
    assert plain.headers["Content-Type"].startswith("text/plain; version=")


def test_a_tenant_that_nobody_works_for_keeps_its_counters_and_has_no_gauges(
    page: MetricsPage, running: Process
) -> None:
    committed(filled(page.shard(0).tenant("acme")), 38, in_flight=0)
    page.shard(0).tenant("acme").set_active(False)
    samples = running.samples()
    assert samples[key("scada_readings_ingested_total", tenant="acme")] == 98
    assert samples[key("scada_accounting_difference", tenant="acme")] == 0
    assert key("scada_database_up", tenant="acme") not in samples
    assert key("scada_active_connections", tenant="acme") not in samples


def test_ready_says_which_process_is_not_and_why(page: MetricsPage, running: Process) -> None:
    assert running.reasons() == {
        "ingest-0": "not started yet",
        "ingest-1": "not started yet",
        "front-0": "not started yet",
        "rest-0": "not started yet",
    }
    page.shard(0).set_state(ProcessState.READY)
    page.front().set_state(ProcessState.READY)
    page.rest().set_state(ProcessState.READY)
    page.shard(1).beat()
    assert running.reasons() == {"ingest-1": "starting"}
    page.shard(1).set_state(ProcessState.READY)
    assert running.reasons() == {}
    page.front().set_state(ProcessState.STOPPING)
    assert running.reasons() == {"front-0": "stopping"}
    page.process_died(ProcessKind.FRONT, 0, -signal.SIGKILL)
    assert running.reasons() == {"front-0": "exited with signal 9; it is being restarted (deaths so far: 1)"}
    samples = running.samples()
    assert samples[key("scada_process_restarts_total", process="front", index="0")] == 1
    assert samples[key("scada_process_up", process="front", index="0")] == 0
    assert key("scada_process_resident_bytes", process="front", index="0") not in samples


def test_a_worker_without_a_fresh_heartbeat_is_not_ready_whatever_it_said_before(
    page: MetricsPage, running: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.shard(0).set_state(ProcessState.READY)
    page.front().set_state(ProcessState.READY)
    page.rest().set_state(ProcessState.READY)
    now_ns = time.monotonic_ns()
    with monkeypatch.context() as past:
        past.setattr(time, "monotonic_ns", lambda: now_ns - int((HEARTBEAT_FRESH_S + 1) * 1e9))
        page.shard(1).set_state(ProcessState.READY)
    reasons = running.reasons()
    assert list(reasons) == ["ingest-1"]
    assert reasons["ingest-1"].startswith("no heartbeat for 6")
    page.shard(1).beat()
    assert running.reasons() == {}


def test_alive_is_alive_when_nobody_else_is(running: Process) -> None:
    assert running.get("/livez").status == 200
    assert running.get("/livez?verbose").status == 200
    head = running.get("/livez", method="HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "6")


def test_term_stops_it_in_spite_of_an_idle_connection_and_frees_the_port(
    page: MetricsPage, running: Process
) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\n")
        assert page.process_state("aggregator", 0) is ProcessState.READY
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(_DEADLINE_S) == 0
    assert page.process_state("aggregator", 0) is ProcessState.STOPPED
    assert running.process.stderr is not None
    assert running.process.stderr.read() == ""
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", running.port))


def test_a_taken_port_ends_it_with_one_line_that_names_the_port(page: MetricsPage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with aggregator_process(page, Settings(metrics_port=port, log_format="json")) as process:
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait(_DEADLINE_S) == EXIT_CONFIGURATION
    assert said.count("\n") == 1
    assert f"metrics_port: cannot listen on 127.0.0.1:{port}: another process uses this port" in said


def test_a_host_that_is_not_ours_ends_it_with_one_line_that_names_it(page: MetricsPage) -> None:
    with aggregator_process(page, Settings(host="192.0.2.1", metrics_port=0, log_format="json")) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(_DEADLINE_S) == EXIT_CONFIGURATION
    assert said.count("\n") == 1
    assert "cannot listen on 192.0.2.1:0: this machine does not have that address" in said


async def test_a_difference_is_believed_only_when_it_stays(
    page: MetricsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, late = page.shard(0).tenant("lost"), page.shard(0).tenant("late")
    received(lost, 5, in_flight=3)
    received(late, 5, in_flight=3)
    take = page.snapshot

    def and_then_the_writer_goes_on() -> object:
        sample = take()
        late.set(Gauge.IN_FLIGHT, 5)
        return sample

    monkeypatch.setattr(page, "snapshot", and_then_the_writer_goes_on)
    _, differences = await settled(page)
    assert differences == {"late": 0, "lost": 2}


def test_scrapes_beside_a_worker_that_is_killed_never_see_a_counter_go_back_or_a_difference(
    page: MetricsPage, running: Process
) -> None:
    body = """
import sys
from engine.metrics import MetricsPage
from tests.engine.counting import committed, received
slots = MetricsPage.attach(int(sys.argv[1])).shard(0).tenant("acme")
print("begun", flush=True)
while True:
    received(slots, 10, in_flight=10)
    committed(slots, 10, in_flight=0)
"""
    seen: list[float] = []
    for _ in range(3):
        worker = subprocess.Popen(
            [sys.executable, "-c", body, str(page.fd)], pass_fds=[page.fd], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        for _ in range(20):
            samples = running.samples()
            seen.append(samples[key("scada_readings_ingested_total", tenant="acme")])
        worker.kill()
        worker.wait()
        worker.stdout.close()
        page.process_died(ProcessKind.INGEST, 0, -signal.SIGKILL)
        seen.append(running.samples()[key("scada_readings_ingested_total", tenant="acme")])
    following = MetricsPage.attach(os.dup(page.fd))
    following.shard(0)
    following.close()
    samples = running.samples()
    seen.append(samples[key("scada_readings_ingested_total", tenant="acme")])
    assert samples[key("scada_accounting_difference", tenant="acme")] == 0
    assert seen == sorted(seen)
    assert seen[-1] > 0
