"""What breaks in the field, with real processes: the rest goes on, and what broke is named."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from pathlib import Path

import psutil
import psycopg

from engine.database import with_database
from engine.migrations import Which, migrate_database
from tests.end_to_end.engine_process import free_port, running_engine, until
from tests.end_to_end.plant import build_plant
from tests.end_to_end.tenant_database import set_connections_allowed
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant, run
from tests.servers.opcua_server import OpcuaServer, ServedVariable


def _counters(server: OpcuaServer) -> list[ServedVariable]:
    return [variable for variable in server.variables if variable.moves]


def test_the_supervisor_has_one_thread_and_no_grpc(databases: MasterAndTenant, tmp_path: Path) -> None:
    with running_engine(databases.master_dsn, tmp_path, workers=3) as engine:
        engine.wait_ready()
        supervisor = psutil.Process(engine.process.pid)
        assert supervisor.num_threads() == 1
        assert not [mapped.path for mapped in supervisor.memory_maps() if "grpc" in mapped.path]
        assert len(engine.children("ingest")) == 3
        assert engine.stop(signal.SIGINT) == 0


def test_a_killed_supervisor_leaves_no_process_behind(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    build_plant(databases, open62541_server.endpoint, _counters(open62541_server))
    with running_engine(databases.master_dsn, tmp_path) as engine:
        engine.wait_ready()
        children = [*engine.children("ingest"), *engine.children("aggregator"), *engine.children("front")]
        assert len(children) == 4
        engine.process.kill()
        until("all children have ended", lambda: not any(child.is_running() for child in children))


def test_a_second_signal_stops_at_once_although_the_database_is_away(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    plant = build_plant(databases, open62541_server.endpoint, _counters(open62541_server))
    with running_engine(databases.master_dsn, tmp_path, SCADA_STOP_DEADLINE_S="600") as engine:
        engine.wait_ready()
        until("readings are stored", lambda: plant.count() > 0)
        set_connections_allowed(databases, allowed=False)
        until("a write has failed", lambda: engine.metric("scada_db_write_failures_total", tenant="acme") > 0)
        until("a batch waits", lambda: engine.metric("scada_readings_in_flight", tenant="acme") > 0)
        engine.process.send_signal(signal.SIGTERM)
        until("it is draining", lambda: "stopping" in engine.log.read_text())
        assert engine.stop(signal.SIGTERM, timeout_s=10) == 1


def test_a_tenant_without_its_database_or_its_tables_is_skipped_and_named_while_others_run(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    plant = build_plant(databases, open62541_server.endpoint, _counters(open62541_server))
    missing = f"no_such_database_{secrets.token_hex(4)}"
    with psycopg.connect(databases.master_dsn, autocommit=True) as master:
        for slug, database in (("gone", missing), ("raw", "postgres")):
            master.execute(
                "insert into tenants (slug, name, database_name) values (%s, %s, %s)", [slug, slug, database]
            )
    with running_engine(
        databases.master_dsn, tmp_path, workers=1, SCADA_DATABASE_RETRY_MOST_S="0.5"
    ) as engine:
        engine.wait_ready()
        until("the good tenant's readings are stored", lambda: plant.count() > 20)
        for slug, reason in (("gone", missing), ("raw", "migrate up")):
            lines = [line for line in engine.log.read_text().splitlines() if f'"tenant":"{slug}"' in line]
            assert any(reason in line for line in lines), (slug, lines)
            assert engine.metric("scada_database_up", tenant=slug) == 0
        assert engine.metric("scada_database_up", tenant="acme") == 1
        # The missing database appears: its tenant starts without a restart.
        with psycopg.connect(databases.server.dsn, autocommit=True) as server:
            server.execute(f'create database "{missing}"')
        run(migrate_database(with_database(databases.server.dsn, missing), Which.TENANT))
        until("the tenant is up", lambda: engine.metric("scada_database_up", tenant="gone") == 1)
        assert engine.stop() == 0
    with psycopg.connect(databases.server.dsn, autocommit=True) as server:
        server.execute(f'drop database "{missing}" with (force)')


def test_a_node_that_does_not_exist_is_named_and_the_rest_is_read(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    good = _counters(open62541_server)[:3]
    missing = ServedVariable("ns=1;s=there.is.no.such.node", "Double")
    plant = build_plant(databases, open62541_server.endpoint, [*good, missing])
    with running_engine(databases.master_dsn, tmp_path, workers=1) as engine:
        engine.wait_ready()
        until(
            "the good tags have readings", lambda: plant.tags_with_readings() == {tag.node_id for tag in good}
        )
        error = until("the catalog names the node", plant.last_error)
        assert "there.is.no.such.node" in error
        assert "BadNodeIdUnknown" in error
        assert engine.metric("scada_wanted_items", tenant="acme") == 4
        assert engine.metric("scada_monitored_items", tenant="acme") == 3
        assert engine.stop() == 0


def test_a_connection_that_is_refused_is_named_and_tried_again(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    port = free_port()
    plant = build_plant(databases, f"opc.tcp://127.0.0.1:{port}", _counters(open62541_server))
    with running_engine(
        databases.master_dsn, tmp_path, workers=1, SCADA_OPCUA__BACKOFF_MOST_S="0.5"
    ) as engine:
        engine.wait_ready()
        error = until("the catalog names the reason", plant.last_error)
        assert "refused" in error
        assert engine.metric("scada_active_connections", tenant="acme") == 0
        assert engine.metric("scada_wanted_connections", tenant="acme") == 1
        assert engine.stop() == 0


async def test_a_malformed_message_restarts_its_connection_and_not_the_worker(
    open62541_server: OpcuaServer, databases: MasterAndTenant, tmp_path: Path
) -> None:
    port = int(open62541_server.endpoint.rpartition(":")[2].rstrip("/"))
    proxy = await CuttingProxy.start("127.0.0.1", port)
    plant = build_plant(databases, f"opc.tcp://127.0.0.1:{proxy.port}", _counters(open62541_server))
    try:
        with running_engine(
            databases.master_dsn, tmp_path, workers=1, SCADA_OPCUA__BACKOFF_MOST_S="0.2"
        ) as engine:
            await asyncio.to_thread(engine.wait_ready)
            await asyncio.to_thread(until, "readings are stored", lambda: plant.count() > 20)
            (worker,) = engine.children("ingest")
            proxy.tamper = _break_data_changes
            await asyncio.to_thread(
                until,
                "a malformed message is counted",
                lambda: engine.metric("scada_malformed_messages_total", tenant="acme") > 0,
            )
            proxy.tamper = None
            stored = plant.count()
            await asyncio.to_thread(until, "new readings are stored", lambda: plant.count() > stored + 20)
            assert [child.pid for child in engine.children("ingest")] == [worker.pid]
            assert await asyncio.to_thread(engine.stop) == 0
    finally:
        await proxy.stop()


def _break_data_changes(data: bytes) -> bytes:
    """Give every DataChangeNotification (i=811) the encoding byte 7, which Part 6 does not define."""
    return data.replace(b"\x01\x00\x2b\x03\x01", b"\x01\x00\x2b\x03\x07")


def test_a_taken_port_ends_the_start_with_one_line_that_names_it(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running_engine(databases.master_dsn, tmp_path, METRICS_PORT=str(port)) as engine:
            assert engine.process.wait(20) == 2
    said = [line for line in engine.log.read_text().splitlines() if not line.startswith("{")]
    assert len(said) == 1, said
    assert str(port) in said[0]
