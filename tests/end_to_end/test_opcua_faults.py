"""What networks and servers do to a connection, through the whole engine: the database against the server's counters.

The counters of open62541 step together, and every step is queued for every subscriber. So a database that holds each
step from the first to the last once has lost nothing and stored nothing twice.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from cryptography import x509

from tests.end_to_end.engine_process import running_engine, until
from tests.end_to_end.oracle import check_whole, hold, wait_stored
from tests.end_to_end.plant import Plant, build_plant
from tests.servers.cutting_proxy import ThreadedProxy, proxy_in_thread
from tests.servers.databases import MasterAndTenant
from tests.servers.identities import make_identity
from tests.servers.opcua_server import OpcuaServer, ServedVariable
from tests.servers.open62541 import open62541_server
from tests.servers.server_options import ServerOptions
from workers.opcua.security.pki import Pki

INTERVAL_MS = 50.0
QUICK = {
    "SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "50",
    "SCADA_OPCUA__SAMPLING_INTERVAL_MS": "50",
    "SCADA_OPCUA__QUEUE_SIZE": "400",
    "SCADA_OPCUA__KEEP_ALIVE_COUNT": "5",
    "SCADA_OPCUA__REQUEST_TIMEOUT_S": "1",
    "SCADA_OPCUA__BACKOFF_FIRST_S": "0.1",
    "SCADA_OPCUA__BACKOFF_MOST_S": "0.5",
}
# A day of a plant in seconds: a session lives one, a subscription one and a half.
SESSION_MS, LIFETIME_COUNT = 1_000.0, 30
LONG_S = 4.0


def test_cuts_and_a_half_open_line_lose_nothing_within_the_lifetimes(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with open62541_server(interval_ms=INTERVAL_MS) as server, proxy_in_thread(server.port) as proxy:
        plant = _plant(databases, proxy, server)
        with running_engine(databases.master_dsn, tmp_path, workers=1, **QUICK) as engine:
            engine.wait_ready()
            _goes_on(plant)
            proxy.cut()
            _goes_on(plant)
            # A second, and what a minute is to a server that grants minutes: within session and subscription.
            for seconds in (1.0, LONG_S):
                proxy.refuse()
                time.sleep(seconds)
                proxy.accept()
                _goes_on(plant)
            connections = proxy.connections
            proxy.pause()
            until("the line is given up", lambda: proxy.connections > connections)
            proxy.resume()
            _goes_on(plant)
            last = _hold(server, plant)
            assert engine.metric("scada_reconnects_total", tenant="acme") >= 4
            assert engine.stop() == 0, engine.log.read_text()
    check_whole(plant, server.moving, last)


def test_an_outage_past_every_lifetime_is_filled_from_the_servers_history(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    options = ServerOptions(history_page=20, session_ms=SESSION_MS, lifetime_count=LIFETIME_COUNT)
    with (
        open62541_server(interval_ms=INTERVAL_MS, options=options) as server,
        proxy_in_thread(server.port) as proxy,
    ):
        plant = _plant(databases, proxy, server)
        with running_engine(databases.master_dsn, tmp_path, workers=1, **QUICK) as engine:
            engine.wait_ready()
            _goes_on(plant)
            _be_away(proxy)
            _goes_on(plant)
            last = _hold(server, plant)
            until("history has filled the gaps", lambda: not plant.rows("select 1 from reading_gaps"))
            assert engine.metric("scada_readings_backfilled_total", tenant="acme") > 0
            assert engine.stop() == 0, engine.log.read_text()
    check_whole(plant, server.moving, last)


def test_an_outage_past_every_lifetime_is_a_gap_where_there_is_no_history(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    options = ServerOptions(session_ms=SESSION_MS, lifetime_count=LIFETIME_COUNT)
    with (
        open62541_server(interval_ms=INTERVAL_MS, options=options) as server,
        proxy_in_thread(server.port) as proxy,
    ):
        plant = _plant(databases, proxy, server)
        with running_engine(databases.master_dsn, tmp_path, workers=1, **QUICK) as engine:
            engine.wait_ready()
            _goes_on(plant)
            _be_away(proxy)
            _goes_on(plant)
            _hold(server, plant)
            assert engine.stop() == 0, engine.log.read_text()
    for counter in server.moving:
        (lost,) = _lost(plant, counter)
        assert _gaps(plant, counter) == [(lost, "outage")]


def test_a_server_that_was_restarted_after_a_while_is_picked_up_with_other_namespace_indexes(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    moved = ServedVariable("nsu=urn:scada-engine:moving;s=moved", "Double")
    with open62541_server(interval_ms=INTERVAL_MS) as server:
        wanted = [*server.moving, moved]
        plant = build_plant(databases, server.endpoint, wanted)
        with running_engine(databases.master_dsn, tmp_path, workers=1, **QUICK) as engine:
            engine.wait_ready()
            _goes_on(plant)
            server.process.kill()
            until("the catalog names the reason", plant.last_error)
            # Several times the longest back-off.
            time.sleep(2.0)
            again = ServerOptions(namespace_before=True)
            with open62541_server(port=server.port, interval_ms=INTERVAL_MS, options=again):
                for variable in wanted:
                    before = len(plant.values(variable.node_id))
                    _more(plant, variable, before + 10)
                until("nothing is wrong any more", lambda: plant.last_error() is None)
                assert engine.stop() == 0, engine.log.read_text()
    for variable in wanted:
        steps = _steps(plant, variable)
        (begin,) = [place for place, (before, after) in enumerate(pairwise(steps)) if after <= before]
        assert _rises_by_one(steps[: begin + 1]), "what the first server counted"
        assert _rises_by_one(steps[begin + 1 :]), "what the second one counted"
        assert [cause for _, _, cause in plant.gaps(variable.node_id)] == ["outage"]


def test_another_certificate_is_refused_and_named_until_somebody_trusts_it(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    pki = Pki(tmp_path / "pki", databases.slug)
    first = make_identity(tmp_path / "first", "server")
    second = make_identity(tmp_path / "second", "server", application_uri=first.application_uri)
    pki.trust(x509.load_der_x509_certificate(first.der))
    quick = QUICK | {"SCADA_OPCUA__PKI_FOLDER": str(tmp_path / "pki")}
    with open62541_server(interval_ms=INTERVAL_MS, options=ServerOptions(identity=first)) as server:
        plant = build_plant(
            databases, server.endpoint, server.moving, security_mode="SignAndEncrypt", security_policy="Auto"
        )
        with running_engine(databases.master_dsn, tmp_path, workers=1, **quick) as engine:
            engine.wait_ready()
            _goes_on(plant)
            server.process.kill()
            with open62541_server(
                port=server.port, interval_ms=INTERVAL_MS, options=ServerOptions(identity=second)
            ):
                thumbprint = second.thumbprint.upper()
                until("last_error names it", lambda: thumbprint in (plant.last_error() or ""))
                assert (pki.rejected / f"{thumbprint}.der").read_bytes() == second.der
                stored = plant.count()
                pki.trust(pki.rejected_one(thumbprint))
                until("values are stored again", lambda: plant.count() > stored + 20)
                until("nothing is wrong any more", lambda: plant.last_error() is None)
                assert engine.stop() == 0, engine.log.read_text()


def test_what_a_short_queue_loses_is_a_gap(databases: MasterAndTenant, tmp_path: Path) -> None:
    short = QUICK | {"SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "500", "SCADA_OPCUA__QUEUE_SIZE": "4"}
    with open62541_server(interval_ms=INTERVAL_MS) as server:
        plant = build_plant(databases, server.endpoint, server.moving[:2])
        with running_engine(databases.master_dsn, tmp_path, workers=1, **short) as engine:
            engine.wait_ready()
            _more(plant, server.moving[0], 20)
            assert engine.metric("scada_queue_overflows_total", tenant="acme") > 0
            assert engine.stop() == 0, engine.log.read_text()
    for counter in server.moving[:2]:
        lost = _lost(plant, counter)
        assert lost
        assert _gaps(plant, counter) == [(ends, "overflow") for ends in lost]


def _plant(databases: MasterAndTenant, proxy: ThreadedProxy, server: OpcuaServer) -> Plant:
    return build_plant(databases, f"opc.tcp://127.0.0.1:{proxy.port}", server.moving)


def _steps(plant: Plant, counter: ServedVariable) -> list[float]:
    return [value or 0.0 for value, _, _ in plant.values(counter.node_id)]


def _more(plant: Plant, counter: ServedVariable, count: int) -> None:
    until(f"{counter.node_id} has {count} readings", lambda: len(plant.values(counter.node_id)) >= count)


def _goes_on(plant: Plant) -> None:
    """Wait until more readings are stored."""
    stored = plant.count()
    until("more readings are stored", lambda: plant.count() > stored + 50)


def _be_away(proxy: ThreadedProxy) -> None:
    """Let nobody through for longer than the server keeps anything."""
    proxy.refuse()
    time.sleep(LONG_S)
    proxy.accept()


def _hold(server: OpcuaServer, plant: Plant) -> float:
    """Stop the counters, wait until their last step is stored, and return it."""
    last = hold(server)
    wait_stored(plant, server.moving, last)
    return last


def _lost(plant: Plant, counter: ServedVariable) -> list[tuple[float, float]]:
    """Return the steps on both sides of those that are missing."""
    return [(before, after) for before, after in pairwise(_steps(plant, counter)) if after != before + 1]


def _gaps(plant: Plant, counter: ServedVariable) -> list[tuple[tuple[float, float], str]]:
    """Return the values at both ends of each gap, and its cause."""
    return [
        ((before, after), cause)
        for before, after, cause in plant.rows(
            "select b.value, a.value, cause from reading_gaps g"
            " join tag_mappings using (tag_id)"
            ' join readings b on b.tag_id = g.tag_id and b.ts = g."from"'
            ' join readings a on a.tag_id = g.tag_id and a.ts = g."to"'
            ' where opc_node_id = %s order by g."from"',
            counter.node_id,
        )
    ]


def _rises_by_one(steps: list[float]) -> bool:
    return all(after == before + 1 for before, after in pairwise(steps))
