"""Claim `start`: from the command to a ready engine, and what an ingest worker then keeps in memory.

`scada-engine run --workers 2` on an existing, migrated master with two tenants; one of them reads the ten tags of the
simulator over two connections. `ready_s` is what the supervisor logs: from its first moment until every process is up
and every tenant's catalog has been loaded. `command_s` runs from the start of the command, with the interpreter and the
settings, to the first 200 of /readyz, polled every 10 ms. `worker_resident_mb` is what the kernel says of
the worker that reads the ten tags, a hundred readings later; it includes the pages it shares with the other worker.

The baseline is one fresh interpreter that only imports what an ingest worker cannot do without: asyncua, psycopg,
numpy and uvloop.

Without --dsn and SCADA_TEST_DATABASE_URL the server is found as the tests find it. Needs Linux.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import orjson
import psycopg

from bench.report import Progress, Report, Target
from engine import catalog
from engine.database import connect
from engine.errors import ConfigurationError
from engine.migrations import Which, migrate_database
from engine.settings import Settings
from tests.end_to_end.engine_process import Engine, running_engine, until
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant, temporary_database
from tests.servers.databases import run as to_its_end
from tests.servers.debian_root import ServerMissing
from tests.servers.simulator import simulator
from tests.servers.timescale import timescale

ROUNDS = 5
READINGS = 100
_BASELINE = """
import time
began = time.perf_counter()
import asyncua, numpy, psycopg, uvloop
took = time.perf_counter() - began
resident = next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]
print(took, int(resident) * 1024 / 1e6)
"""

MEANING = {
    "ready_s": "supervisor to ready: 2 ingest workers, metrics, gRPC, REST",
    "command_s": "command to the first 200 of /readyz",
    "worker_resident_mb": "resident memory of the worker that reads ten tags",
    "worker_own_mb": "of that, what it shares with nobody",
    "baseline_import_s": "a fresh interpreter: the imports of one worker alone",
    "baseline_resident_mb": "its resident memory, without an engine",
    "ready_vs_baseline": "ready_s / baseline_import_s, median of rounds",
}


def run(progress: Progress, *, dsn: str | None = None) -> Report:
    """Measure the claim on the server of `dsn`, or on the one that is found."""
    with ExitStack() as stack:
        try:
            server = Server("timescale", dsn or stack.enter_context(timescale()))
        except ServerMissing as exc:
            raise ConfigurationError(str(exc)) from exc
        databases = stack.enter_context(migrated_master_and_tenant(server))
        _add_second_tenant(databases, stack.enter_context(temporary_database(server.dsn, "tenant")))
        plant = stack.enter_context(simulator())
        to_its_end(_seed(databases, plant.endpoint))
        rounds = []
        for done in range(ROUNDS):
            rounds.append(_round(databases))
            progress(done + 1, ROUNDS)
    return Report(
        "start",
        {name: statistics.median(each[name] for each in rounds) for name in MEANING},
        [Target("ready_s", "<=", 2.0, timed=True), Target("worker_resident_mb", "<=", 90.0)],
        MEANING,
    )


def _add_second_tenant(databases: MasterAndTenant, dsn: str) -> None:
    to_its_end(migrate_database(dsn, Which.TENANT))
    with psycopg.connect(databases.master_dsn) as master, psycopg.connect(dsn) as tenant:
        master.execute(
            "insert into tenants (slug, name, database_name) values ('second', 'Second', %s)",
            [tenant.info.dbname],
        )


def _round(databases: MasterAndTenant) -> dict[str, float]:
    """Start the engine once, let it read, stop it."""
    import_s, resident_mb = map(float, subprocess.check_output([sys.executable, "-c", _BASELINE]).split())
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        with running_engine(databases.master_dsn, Path(folder)) as engine:
            until("the engine is ready", lambda: _ready(engine), timeout_s=60, poll_s=0.01)
            command_s = time.perf_counter() - began_s
            until("readings are stored", lambda: _ingested(engine, databases.slug) >= READINGS, timeout_s=60)
            memory = [worker.memory_full_info() for worker in engine.children("ingest")]
            engine.stop()
            ready_s = _said_ready_s(engine)
    most = max(memory, key=lambda each: each.uss)
    return {
        "ready_s": ready_s,
        "command_s": command_s,
        "worker_resident_mb": most.rss / 1e6,
        "worker_own_mb": most.uss / 1e6,
        "baseline_import_s": import_s,
        "baseline_resident_mb": resident_mb,
        "ready_vs_baseline": ready_s / import_s,
    }


def _said_ready_s(engine: Engine) -> float:
    """Return what the supervisor's log line `ready` says."""
    events = [orjson.loads(line) for line in engine.log.read_bytes().splitlines() if line.startswith(b"{")]
    return float(next(event["seconds"] for event in events if event["event"] == "ready"))


def _ready(engine: Engine) -> bool:
    if engine.process.poll() is not None:
        raise AssertionError(engine.log.read_text())
    return engine.get("/readyz")[0] == 200


def _ingested(engine: Engine, slug: str) -> float:
    return engine.metric("scada_readings_ingested_total", tenant=slug)


async def _seed(databases: MasterAndTenant, endpoint: str) -> None:
    settings = Settings(database_url=databases.master_dsn)
    async with await connect(databases.master_dsn, application="bench") as master:
        tenants = {tenant.slug: tenant for tenant in await catalog.list_tenants(master, settings)}
    async with await connect(databases.tenant_dsn, application="bench") as database:
        await catalog.seed(database, tenants[databases.slug].id, endpoint)
