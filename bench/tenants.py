"""Claim `tenants`: 300 tenants on one database server: migrated, added to, and ingesting over a few connections.

What users do, with the programs that they use: `scada-engine migrate up` of 300 empty databases in a process of its
own, `scada-engine tenant add` of one more, and `scada-engine run` with two workers. Each tenant reads three counters
that step once a second from open62541; each of those servers has the sessions of 75 tenants.

- connections is the most that the database server had at any time of the whole run, migrating included, of all our
  processes together: client backends in pg_stat_activity, looked at 20 times a second. TimescaleDB's own are not in it.
  A connection for each tenant would be 300.
- connects_per_s is what the server counted (pg_stat_database.sessions) while all tenants ingest; idle_connects_per_s
  while nothing is to be stored, and every worker looks whether something of its tenants changed.
- missing_readings and doubled_readings are what the databases say when all is stored: the counters step by one.
- migrate_vs_one_by_one compares with a few more databases that are migrated one after the other, in the same run.

Without --dsn and SCADA_TEST_DATABASE_URL the server is found as the tests find it. Takes some four minutes on two
processors; all databases are dropped at the end.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from bench.large_plant import cpu_s
from bench.report import Progress, Report, Target
from engine import catalog
from engine.database import connect, with_database
from engine.errors import ConfigurationError
from engine.settings import Settings
from tests.end_to_end.engine_process import REPOSITORY, Engine, running_engine, until
from tests.end_to_end.oracle import hold
from tests.servers.databases import run as to_its_end
from tests.servers.databases import temporary_database
from tests.servers.debian_root import ServerMissing
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server
from tests.servers.timescale import timescale

TENANTS = 300
ONE_BY_ONE = 12
TAGS = 3
STEP_MS = 1_000.0
# open62541 takes a hundred sessions unless it is told otherwise.
TENANTS_PER_SERVER = 75
WORKERS = 2
INGEST_S = 30.0
IDLE_S = 20.0
_SEEDED_AT_ONCE = 8
_LOOK_EACH_S = 0.05
_ALL_INGEST_S = 180.0
_INGESTED = re.compile(r"^scada_readings_ingested_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)

MEANING = {
    "tenants": "databases on one server, all of which ingested",
    "connections": "most at once, all our processes, whole run",
    "migrate_s": "`migrate up` of all, empty before",
    "migrate_per_s": "databases a second",
    "one_by_one_per_s": "databases a second with --parallel 1",
    "migrate_vs_one_by_one": "migrate_per_s / one_by_one_per_s",
    "status_s": "`migrate status` of all",
    "tenant_add_s": "`tenant add`: created, migrated, registered",
    "all_ingest_s": "`run` until every tenant has stored readings",
    "readings": "stored in the end",
    "missing_readings": "steps of the counters that no database has",
    "doubled_readings": "steps that are there twice",
    "connects_per_s": "connections opened while all ingest",
    "idle_connects_per_s": "connections opened while nothing comes",
    "cpu_ms_per_tenant": "worker's CPU a second while all ingest / tenants",
    "idle_cpu_ms_per_tenant": "the same while nothing comes",
    "worker_mb_per_tenant": "memory of the workers alone / tenants",
}
_TARGETS = (
    Target("connections", "<=", 40),
    Target("migrate_s", "<=", 120, timed=True),
    Target("tenant_add_s", "<=", 5, timed=True),
    Target("missing_readings", "<=", 0),
    Target("doubled_readings", "<=", 0),
)
_STORED = """
select t.opc_node_id, count(r.value), count(distinct r.value), min(r.value), max(r.value)
from tag_mappings t left join readings r using (tag_id) group by t.opc_node_id
"""


def run(progress: Progress, *, dsn: str | None = None) -> Report:
    """Measure the claim on the server of `dsn`, or on the one that is found."""
    with ExitStack() as stack:
        try:
            server = dsn or stack.enter_context(timescale())
            plants = [stack.enter_context(_plant()) for _ in range(-(-TENANTS // TENANTS_PER_SERVER))]
        except ServerMissing as exc:
            raise ConfigurationError(str(exc)) from exc
        steps = _Steps(progress)
        fleet = stack.enter_context(_fleet(server, TENANTS, steps))
        few = stack.enter_context(_fleet(server, ONE_BY_ONE, steps))
        watch = stack.enter_context(_Watch(server, [*fleet.databases, *few.databases]))
        figures = _migrated(fleet, few, watch, steps)
        to_its_end(_seed(fleet, [plant.endpoint for plant in plants], steps))
        figures |= _ingested(fleet, plants, watch, steps)
        figures["connections"] = float(watch.most)
    return Report("tenants", {name: figures[name] for name in MEANING}, _TARGETS, MEANING)


class _Steps:
    """Tells how far the whole claim is: each tenant goes through five steps, the few through one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._progress(self._done, 5 * TENANTS + ONE_BY_ONE)


@dataclass(frozen=True, slots=True)
class _Fleet:
    """A master and the databases of its tenants, `tenant-0` and so on, all empty at first."""

    master_dsn: str
    databases: dict[str, str]
    """The DSN of each, by the name of the database."""


@contextmanager
def _plant() -> Iterator[OpcuaServer]:
    with open62541_server(variables=TAGS, interval_ms=STEP_MS) as server:
        yield server


@contextmanager
def _fleet(server_dsn: str, tenants: int, steps: _Steps) -> Iterator[_Fleet]:
    """Yield a migrated master with so many tenants, whose databases are empty."""
    prefix = f"bench_{secrets.token_hex(4)}"
    names = [f"{prefix}_{place}" for place in range(tenants)]
    with ExitStack() as stack:
        server = stack.enter_context(psycopg.connect(server_dsn, autocommit=True))
        master = stack.enter_context(temporary_database(server_dsn, "master"))
        _command(master, "migrate", "up")
        for name in names:
            server.execute(SQL("create database {}").format(Identifier(name)))
            stack.callback(
                server.execute, SQL("drop database if exists {} with (force)").format(Identifier(name))
            )
            steps.advance()
        with psycopg.connect(master) as connection:
            connection.cursor().executemany(
                "insert into tenants (slug, name, database_name) values (%s, %s, %s)",
                [(f"tenant-{place}", f"Tenant {place}", name) for place, name in enumerate(names)],
            )
        yield _Fleet(master, {name: with_database(server_dsn, name) for name in names})


def _command(master_dsn: str, *arguments: str) -> float:
    """Run `scada-engine` as a person would; return the seconds that it took."""
    began_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"DATABASE_URL": master_dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip()[-1_000:]
        raise ConfigurationError(f"scada-engine {' '.join(arguments)} ended with {done.returncode}: {said}")
    return time.perf_counter() - began_s


def _migrated(fleet: _Fleet, few: _Fleet, watch: _Watch, steps: _Steps) -> dict[str, float]:
    one_by_one_s = _command(few.master_dsn, "migrate", "up", "--parallel", "1")
    migrate_s = _command(fleet.master_dsn, "migrate", "up")
    steps.advance(TENANTS)
    status_s = _command(fleet.master_dsn, "migrate", "status", "--json")
    slug = f"added-{secrets.token_hex(4)}"
    name = f"scada_{slug.replace('-', '_')}"
    try:
        tenant_add_s = _command(few.master_dsn, "tenant", "add", slug)
    finally:
        watch.drop(name)
    return {
        "migrate_s": migrate_s,
        "migrate_per_s": TENANTS / migrate_s,
        "one_by_one_per_s": ONE_BY_ONE / one_by_one_s,
        "migrate_vs_one_by_one": TENANTS / migrate_s / (ONE_BY_ONE / one_by_one_s),
        "status_s": status_s,
        "tenant_add_s": tenant_add_s,
    }


async def _seed(fleet: _Fleet, endpoints: Sequence[str], steps: _Steps) -> None:
    """Give every tenant a well, a connection and its tags."""
    settings = Settings(database_url=fleet.master_dsn)
    async with await connect(fleet.master_dsn, application="bench") as master:
        tenants = await catalog.list_tenants(master, settings)
    limit = asyncio.Semaphore(_SEEDED_AT_ONCE)
    tags = [catalog.NewTag(f"tag {number}", f"ns=1;s=tag.{number}") for number in range(TAGS)]

    async def one(tenant: catalog.Tenant, endpoint: str) -> None:
        async with limit, await connect(tenant.dsn, application="bench", autocommit=True) as database:
            well = await catalog.add_well(database, tenant.id, "Well 1")
            new = catalog.NewConnection(well.id, "Server 1", endpoint)
            connection = await catalog.add_connection(database, tenant.id, new)
            await catalog.add_tags(database, tenant.id, connection.id, tags)
        steps.advance()

    async with asyncio.TaskGroup() as group:
        for place, tenant in enumerate(tenants):
            group.create_task(one(tenant, endpoints[place % len(endpoints)]))


def _ingested(fleet: _Fleet, plants: Sequence[OpcuaServer], watch: _Watch, steps: _Steps) -> dict[str, float]:
    """Run the engine on all tenants, then with nothing to store, then stop it and see what is there."""
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        # As configured by default; the shorter intervals are the tests'.
        with running_engine(
            fleet.master_dsn,
            Path(folder),
            workers=WORKERS,
            BUFFER_DURATION_MS="5000",
            SCADA_CATALOG_REFRESH_S="5",
            SCADA_OPCUA__PUBLISHING_INTERVAL_MS="1000",
            SCADA_OPCUA__SAMPLING_INTERVAL_MS="1000",
        ) as engine:
            _wait_all_ingest(engine, steps)
            all_ingest_s = time.perf_counter() - began_s
            busy = _observed(engine, watch, INGEST_S)
            lasts = [hold(plant) for plant in plants]
            _wait_committed(engine)
            idle = _observed(engine, watch, IDLE_S)
            own_mb = sum(worker.memory_full_info().uss for worker in engine.children("ingest")) / 1e6
            engine.stop()
    readings, missing, doubled = _stored(fleet, lasts, steps)
    return {
        "tenants": float(len(fleet.databases)),
        "all_ingest_s": all_ingest_s,
        "readings": float(readings),
        "missing_readings": float(missing),
        "doubled_readings": float(doubled),
        "connects_per_s": busy.connects_per_s,
        "idle_connects_per_s": idle.connects_per_s,
        "cpu_ms_per_tenant": busy.cpu_ms_per_s / TENANTS,
        "idle_cpu_ms_per_tenant": idle.cpu_ms_per_s / TENANTS,
        "worker_mb_per_tenant": own_mb / TENANTS,
    }


def _wait_all_ingest(engine: Engine, steps: _Steps) -> None:
    told = 0

    def all_ingest() -> bool:
        nonlocal told
        if engine.process.poll() is not None:
            raise AssertionError(engine.log.read_text()[-2_000:])
        ingesting = sum(float(count) > 0 for count in _INGESTED.findall(engine.get("/metrics")[1]))
        steps.advance(ingesting - told)
        told = ingesting
        return ingesting >= TENANTS

    try:
        until("every tenant has stored readings", all_ingest, timeout_s=_ALL_INGEST_S, poll_s=0.5)
    except AssertionError as exc:
        said = engine.log.read_text()[-2_000:]
        raise ConfigurationError(f"{exc}: {told} of {TENANTS} have; the engine's log ends: {said}") from exc


def _wait_committed(engine: Engine) -> None:
    """Wait until what was received is stored; it does not become more, the counters stand still."""
    last = -1.0

    def nothing_new() -> bool:
        nonlocal last
        before, last = last, sum(map(float, _INGESTED.findall(engine.get("/metrics")[1])))
        return last == before

    until("all readings are stored", nothing_new, timeout_s=60.0, poll_s=7.0)


@dataclass(frozen=True, slots=True)
class _Observed:
    connects_per_s: float
    cpu_ms_per_s: float


def _observed(engine: Engine, watch: _Watch, seconds: float) -> _Observed:
    """Look at the engine's workers for a while."""
    workers = engine.children("ingest")
    began_s, connects, cpu = time.perf_counter(), watch.connects(), sum(map(cpu_s, workers))
    time.sleep(seconds)
    took_s = time.perf_counter() - began_s
    return _Observed(
        (watch.connects() - connects) / took_s, 1_000 * (sum(map(cpu_s, workers)) - cpu) / took_s
    )


def _stored(fleet: _Fleet, lasts: Sequence[float], steps: _Steps) -> tuple[int, int, int]:
    """Return how many readings there are, how many steps of a counter are not there, and how many are there twice."""
    readings = missing = doubled = 0
    for place, dsn in enumerate(_in_order_of_slugs(fleet)):
        with psycopg.connect(dsn) as connection:
            for _, rows, values, first, _ in connection.execute(_STORED).fetchall():
                # From the first step that came to the one that the server stood still at.
                first_step = lasts[place % len(lasts)] if first is None else first
                missing += int(lasts[place % len(lasts)] - first_step) + 1 - values
                doubled += rows - values
                readings += rows
        steps.advance()
    return readings, missing, doubled


def _in_order_of_slugs(fleet: _Fleet) -> list[str]:
    """Return the DSNs in the order in which `_seed` gave the tenants their servers."""
    return [dsn for _, dsn in sorted(zip(_slugs(fleet), fleet.databases.values(), strict=True))]


def _slugs(fleet: _Fleet) -> list[str]:
    return [f"tenant-{place}" for place in range(len(fleet.databases))]


class _Watch:
    """Counts the connections to some databases and to the masters, from a thread, for as long as it is open."""

    def __init__(self, server_dsn: str, names: Sequence[str]) -> None:
        self.most = 0
        self._server_dsn = server_dsn
        self._names = list(names)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def connects(self) -> int:
        """Return how many connections were ever opened to the tenants' databases."""
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            found = connection.execute(
                "select coalesce(sum(sessions), 0) from pg_stat_database where datname = any(%s)",
                [self._names],
            ).fetchone()
        assert found is not None
        return int(found[0])

    def drop(self, name: str) -> None:
        """Drop a database."""
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            connection.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))

    def _look(self) -> None:
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            while not self._ending.wait(_LOOK_EACH_S):
                found = connection.execute(
                    """
                    select count(*) from pg_stat_activity
                    where backend_type = 'client backend' and application_name like 'scada-engine%%'
                    """
                ).fetchone()
                assert found is not None
                self.most = max(self.most, int(found[0]))
