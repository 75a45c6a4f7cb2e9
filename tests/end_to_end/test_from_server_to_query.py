"""The whole path, on every database and with every maker's server: what is served can be queried, exactly once."""

from __future__ import annotations

import math
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import psycopg
import pytest

from engine.readings import Batch, Kind
from tests.end_to_end.engine_process import Engine, running_engine, until
from tests.end_to_end.plant import Plant, build_plant
from tests.servers.databases import MasterAndTenant
from tests.servers.opcua_server import OpcuaServer, ServedVariable
from workers.rpc.client import ReadingClient

_STEPS = 15


@pytest.fixture(params=["simulator", "open62541_server", "node_opcua_server"])
def server(request: pytest.FixtureRequest) -> OpcuaServer:
    """Each maker's server in turn."""
    found: OpcuaServer = request.getfixturevalue(request.param)
    return found


def test_what_a_server_sends_can_be_queried_and_is_counted(
    server: OpcuaServer, master_and_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    plant = build_plant(master_and_tenant, server.endpoint, server.variables)
    wanted = {variable.node_id for variable in server.variables}
    moving = next(variable.node_id for variable in server.variables if variable.moves)
    with running_engine(master_and_tenant.master_dsn, tmp_path) as engine:
        engine.wait_ready()
        until("every tag has a reading", lambda: plant.tags_with_readings() == wanted)
        until(f"{moving} has moved {_STEPS} times", lambda: len(plant.values(moving)) >= _STEPS)
        assert plant.last_error() is None
        assert engine.metric("scada_active_connections", tenant="acme") == 1
        assert engine.metric("scada_monitored_items", tenant="acme") == len(wanted)
        assert engine.metric("scada_accounting_difference", tenant="acme") == 0
        _check_query(engine, plant)
        assert engine.stop() == 0, engine.log.read_text()
        _check_log_is_quiet(engine)
    _check_fixed_values(plant, server.variables)
    _check_each_reading_is_there_once(plant)


def test_open62541_counters_arrive_without_a_gap_in_order_and_once(
    open62541_server: OpcuaServer, master_and_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    counters = [variable for variable in open62541_server.variables if variable.moves]
    plant = build_plant(master_and_tenant, open62541_server.endpoint, counters)
    with running_engine(master_and_tenant.master_dsn, tmp_path, SCADA_OPCUA__QUEUE_SIZE="100") as engine:
        engine.wait_ready()
        until("40 steps are stored", lambda: len(plant.values(counters[0].node_id)) >= 40)
        assert engine.stop() == 0
        received = plant.count()
    for counter in counters:
        steps = [value or 0.0 for value, _, _ in plant.values(counter.node_id)]
        assert len(steps) >= 40
        assert all(after == before + 1 for before, after in pairwise(steps)), (counter.node_id, steps)
    assert received == sum(len(plant.values(counter.node_id)) for counter in counters)


def _check_query(engine: Engine, plant: Plant) -> None:
    """A range over gRPC returns what the database holds, in the same numbers."""
    until_us = time.time_ns() // 1_000
    with ReadingClient(f"127.0.0.1:{engine.grpc_port}", "acme") as client:
        found = client.range(from_us=until_us - 600_000_000, to_us=until_us, well_id=plant.well_id)
        batches: list[Batch] = list(found)
        latest = client.latest(well_id=plant.well_id)
    stamps = np.concatenate([batch.ts_us for batch in batches])
    values = np.concatenate([batch.value for batch in batches])
    numbers = np.concatenate([batch.kind for batch in batches]) & Kind.NUMBER != 0
    with psycopg.connect(plant.databases.tenant_dsn) as connection:
        row = connection.execute(
            "select count(*), count(value), sum(value) filter (where value <> 'nan' and abs(value) < 1e15)"
            " from readings where ts >= to_timestamp(%s) and ts < to_timestamp(%s)",
            [stamps.min() / 1e6 - 1e-6, stamps.max() / 1e6 + 1e-6],
        ).fetchone()
    assert row is not None
    ordinary = numbers & np.isfinite(values) & (np.abs(values) < 1e15)
    assert (len(stamps), int(numbers.sum())) == row[:2]
    assert math.isclose(float(values[ordinary].sum()), row[2], rel_tol=1e-9)
    assert {reading.tag.opc_node_id for reading in latest} == plant.tags_with_readings()


def _check_log_is_quiet(engine: Engine) -> None:
    lines = engine.log.read_text().splitlines()
    assert not [line for line in lines if '"level":"error"' in line or '"level":"warning"' in line]


def _check_fixed_values(plant: Plant, variables: tuple[ServedVariable, ...]) -> None:
    for variable in variables:
        if variable.moves:
            continue
        value, text, status = plant.values(variable.node_id)[0]
        assert status % 2**32 == variable.status, variable
        expected = variable.value
        if isinstance(expected, datetime):
            expected = expected.timestamp()
        if isinstance(expected, (bool, int, float)):
            assert value is not None, variable
            assert value == float(expected) or (math.isnan(value) and math.isnan(float(expected))), variable
        else:
            assert value is None, variable
            assert text, variable


def _check_each_reading_is_there_once(plant: Plant) -> None:
    twice = plant.rows(
        "select tag_id, ts, count(*) from readings group by tag_id, ts, value, text_value, status having count(*) > 1"
    )
    assert twice == []
