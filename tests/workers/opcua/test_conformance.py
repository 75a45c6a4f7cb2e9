"""The conformance matrix: what the engine makes of each maker's server, with and without security.

A cell is one server in one mode; EXPECTED says where servers differ. How tests/README.md explains.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import pytest

from engine.metrics import Counter
from tests.servers.fixed_values import BAD_SENSOR_FAILURE, NULL_NODE
from tests.servers.opcua_server import Maker, OpcuaServer, ServedVariable
from tests.workers.opcua.cell import MODES, Cell, Row, expected, security, steps_are_whole
from tests.workers.opcua.tenant import Tenant
from workers.opcua.security.pki import Pki

COUNTERS = ("ns=1;s=tag.0", "ns=1;s=tag.1", "ns=1;s=tag.9")
MOVED = "nsu=urn:scada-engine:moving;s=moved"
# A dot in a browse name is written &. in a path.
PATH = "/Objects/1:Tags/1:tag&.5"
MISSING = (
    "ns=1;s=no such node",
    "ns=7;s=no such namespace",
    "i=99999",
    "nsu=urn:nobody;s=tag.0",
    "/Objects/1:Tags/1:nothing",
)
ARRAY, MATRIX = "ns=1;s=array.counter", "ns=1;s=matrix.counter"


@dataclass(frozen=True, slots=True)
class Expected:
    """What one maker's server does that others do not."""

    keeps_value_beside_bad: bool = True


EXPECTED: dict[Maker, Expected] = {
    "asyncua": Expected(keeps_value_beside_bad=False),
    "open62541": Expected(),
    "node-opcua": Expected(),
}


@pytest.mark.parametrize("mode", MODES)
async def test_every_type_arrives_and_bad_nodes_harm_no_other(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    fixed = [variable.node_id for variable in secured_server.fixed]
    moving = (*COUNTERS, MOVED, PATH)
    wanted = tuple(dict.fromkeys((*moving, *fixed, NULL_NODE, "ns=1;s=status.Bad")))
    cell = Cell.connect(tenant, secured_server, *wanted, *MISSING, pki=trusting, **security(mode))
    await cell.until(lambda cell: cell.has(1, *wanted) and cell.has(10, *moving))
    for variable in secured_server.fixed:
        _check_fixed(variable, cell.rows[variable.node_id])
    _check_null_and_bad(cell)
    for node_id in moving:
        assert steps_are_whole(cell.values(node_id)), (node_id, cell.values(node_id))
    _check_timestamps(cell)
    report = tenant.sink.reports[-1]
    assert (report.connected, report.monitored, report.wanted) == (True, len(wanted), len(cell.node_ids))
    assert report.error is not None
    assert report.error.startswith(f"{len(MISSING)} of {len(cell.node_ids)} tags not monitored: ")
    for node_id in MISSING:
        assert f"{node_id}: " in report.error
    assert tenant.counted(Counter.MALFORMED_MESSAGES) == tenant.counted(Counter.MISSED_MESSAGES) == 0
    assert tenant.counted(Counter.REFUSED_ACKS) == 0


@pytest.mark.parametrize("mode", MODES)
async def test_elements_of_arrays_become_numbers(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    fixed = "ns=1;s=type.Int32.array[2]"
    # asyncua's server ignores index ranges and sends the whole array.
    moving = (f"{ARRAY}[0]", f"{ARRAY}[1]", f"{MATRIX}[1,2]", ARRAY, MATRIX)
    cell = Cell.connect(tenant, secured_server, fixed, *moving, pki=trusting, **security(mode))
    await cell.until(lambda cell: cell.has(5, *moving) and cell.has(1, fixed))
    assert steps_are_whole(cell.values(moving[0]))
    steps = [value or 0.0 for value in cell.values(moving[0])]
    # The last step may be in the next message for some of them.
    assert all(value == step + 0.5 for step, value in zip(steps, cell.values(moving[1]), strict=False))
    corner = cell.values(f"{MATRIX}[1,2]")
    assert all(value == -step - 2 for step, value in zip(steps, corner, strict=False))
    assert cell.values(fixed) == [1.0]
    for row in cell.rows[ARRAY]:
        step, half, minus = json.loads(row.text or "")
        assert (row.value, half, minus) == (None, step + 0.5, -step)
    for row in cell.rows[MATRIX]:
        assert [len(line) for line in json.loads(row.text or "")] == [3, 3]


@pytest.mark.parametrize("mode", MODES)
async def test_enumerations_have_their_names_and_structures_their_fields(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    state, named, point = "ns=1;s=enum.State", "ns=1;s=enum.Mode", "ns=1;s=structure.Point"
    types = {state: "ENUM", named: "ENUM", point: "STRUCT"}
    cell = Cell.connect(tenant, secured_server, *types, types=types, pki=trusting, **security(mode))
    await cell.until(lambda cell: cell.has(1))
    await cell.write("enum.State", 1, 2, 77)
    seen = {row.value: row.text for row in cell.rows[state]}
    # A number that the type does not know stays a number.
    assert (seen[1.0], seen[2.0], seen[77.0]) == ("Running", "Fault", None)
    assert [(row.value, row.text) for row in cell.rows[named]] == [(20.0, "Automatic")]
    (row,) = cell.rows[point]
    assert (row.value, json.loads(row.text or "")) == (None, {"x": 1.5, "y": -2.5, "name": "valve"})


def _check_fixed(variable: ServedVariable, rows: list[Row]) -> None:
    row = rows[0]
    number, text = expected(variable)
    assert row.status == variable.status, variable
    if number is not None and math.isnan(number):
        assert row.value is not None
        assert math.isnan(row.value), variable
    else:
        assert row.value == number, variable
    assert row.text == text, variable


def _check_null_and_bad(cell: Cell) -> None:
    null, bad = cell.rows[NULL_NODE][0], cell.rows["ns=1;s=status.Bad"][0]
    assert (null.value, null.text, null.status) == (None, None, 0)
    keeps = EXPECTED[cell.server.maker].keeps_value_beside_bad
    assert (bad.value, bad.status) == (42.5 if keeps else None, BAD_SENSOR_FAILURE)


def _check_timestamps(cell: Cell) -> None:
    """Source times are recent, and those of a counter rise."""
    times = [row.ts_us for row in cell.rows[COUNTERS[0]]]
    assert times == sorted(set(times))
    assert abs(time.time() * 1e6 - times[-1]) < 10e6
