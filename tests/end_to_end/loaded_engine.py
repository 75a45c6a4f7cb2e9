"""An engine with one tenant, under the load of a server's counters, with a proxy before the server and the database.

`finish` holds the counters, waits until all is stored, stops the engine and compares: nothing lost, nothing twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil

from tests.end_to_end.engine_process import Engine, running_engine, until
from tests.end_to_end.killed_at import marker
from tests.end_to_end.oracle import check_whole, hold, wait_stored
from tests.end_to_end.plant import Plant, build_plant
from tests.servers.cutting_proxy import ThreadedProxy, proxy_in_thread
from tests.servers.databases import MasterAndTenant
from tests.servers.opcua_server import OpcuaServer, ServedVariable
from tests.servers.open62541 import open62541_server
from tests.servers.server_options import ServerOptions

TENANT = "acme"
# Everything that waits in the engine waits shorter than a test's patience.
QUICK = {
    "SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "50",
    "SCADA_OPCUA__SAMPLING_INTERVAL_MS": "50",
    "SCADA_OPCUA__QUEUE_SIZE": "1000",
    "SCADA_OPCUA__KEEP_ALIVE_COUNT": "5",
    "SCADA_OPCUA__LIFETIME_COUNT": "1200",
    "SCADA_OPCUA__REQUEST_TIMEOUT_S": "2",
    "SCADA_OPCUA__BACKOFF_FIRST_S": "0.1",
    "SCADA_OPCUA__BACKOFF_MOST_S": "0.5",
    "SCADA_DATABASE_RETRY_MOST_S": "0.5",
    "SCADA_RESTART_BACKOFF_MOST_S": "0.1",
    "SCADA_JOURNAL__SEGMENT_MB": "1",
}


@dataclass(frozen=True)
class LoadedEngine:
    """What a test breaks, and what it looks at."""

    databases: MasterAndTenant
    server: OpcuaServer
    plant: Plant
    engine: Engine
    opcua: ThreadedProxy
    database: ThreadedProxy
    folder: Path
    counters: Sequence[ServedVariable] = field(repr=False)

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample of the tenant's."""
        return self.engine.metric(name, tenant=TENANT, **labels)

    def goes_on(self, rows: int = 50, timeout_s: float = 20.0) -> None:
        """Wait until more readings are stored."""
        stored = self.plant.count()
        until("more readings are stored", lambda: self.plant.count() > stored + rows, timeout_s=timeout_s)

    def receives(self, readings: int = 100) -> None:
        """Wait until more readings have come, stored or not."""
        before = self.metric("scada_readings_received_total")
        until(
            "more readings are received",
            lambda: self.metric("scada_readings_received_total") > before + readings,
        )

    @property
    def worker(self) -> psutil.Process:
        """The ingest worker that runs now."""
        return until("an ingest worker runs", lambda: self.engine.children("ingest"), poll_s=0.01)[0]

    def kill_worker(self) -> None:
        """SIGKILL the ingest worker, and wait until another one runs."""
        killed = self.worker
        killed.kill()
        until("another worker runs", lambda: self.worker.pid != killed.pid, poll_s=0.01)

    def was_killed_at(self, point: str) -> bool:
        """Whether a worker has died at a point of `killed_at`."""
        return marker(self.folder, point).exists()

    def finish(self, *, gaps: bool = False, timeout_s: float = 30.0) -> int:
        """Hold the counters, wait for the last step, stop, compare; return the readings. Fails on any difference."""
        last = hold(self.server)
        wait_stored(self.plant, self.counters, last, timeout_s=timeout_s)
        assert self.engine.stop() == 0, self.engine.log.read_text()
        return check_whole(self.plant, self.counters, last, gaps=gaps)


@contextmanager
def loaded_engine(
    databases: MasterAndTenant,
    folder: Path,
    *,
    variables: int = 10,
    interval_ms: float = 50.0,
    options: ServerOptions | None = None,
    killed_at: Sequence[str] = (),
    journal_disk: str = "",
    also: Sequence[str] = (),
    tamper: Callable[[bytes], bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[LoadedEngine]:
    """Run a server with so many counters, and an engine with one worker that stores them; both through proxies.

    `killed_at` are points of tests.end_to_end.killed_at. `also` are more nodes to read; `tamper` changes what the
    server says, from the beginning.
    """
    program = ["-m", "tests.end_to_end.killed_at", str(folder), *killed_at] if killed_at else None
    with ExitStack() as stack:
        server = stack.enter_context(
            open62541_server(variables=variables, interval_ms=interval_ms, options=options)
        )
        opcua = stack.enter_context(proxy_in_thread(server.port))
        opcua.tamper(tamper)
        there = urlsplit(databases.master_dsn)
        database = stack.enter_context(proxy_in_thread(there.port or 5432, there.hostname or "127.0.0.1"))
        counters = [variable for variable in server.moving if variable.node_id.startswith("ns=1;s=tag.")]
        more = [ServedVariable(node_id, "") for node_id in also]
        plant = build_plant(databases, f"opc.tcp://127.0.0.1:{opcua.port}", [*counters, *more])
        engine = stack.enter_context(
            running_engine(
                through(databases.master_dsn, database.port),
                folder,
                workers=1,
                program=program,
                journal_disk=journal_disk,
                **QUICK | dict(environment or {}),
            )
        )
        engine.wait_ready()
        loaded = LoadedEngine(databases, server, plant, engine, opcua, database, folder, counters)
        loaded.goes_on()
        yield loaded


def through(dsn: str, port: int) -> str:
    """Return a server's URL with the place of a proxy before it."""
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))


def kill_at_random(
    loaded: LoadedEngine, kills: int, *, seed: int, most_s: float, say: Callable[[int], None] | None = None
) -> None:
    """SIGKILL so many ingest workers, each at a random moment of its first seconds: 0 to `most_s`."""
    chance = random.Random(seed)
    for number in range(kills):
        time.sleep(chance.uniform(0, most_s))
        loaded.kill_worker()
        if say is not None:
            say(number + 1)
