"""From a server that nobody knows to readings: browse it, edit the file, import it, run the engine."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.end_to_end.engine_process import running_engine, until
from tests.end_to_end.plant import Plant, build_plant
from tests.servers.databases import MasterAndTenant, Server
from tests.servers.opcua_server import OpcuaServer


@pytest.fixture(scope="session")
def any_server(embedded_dsn: str) -> Server:
    """One kind of database is enough here."""
    return Server("embedded", embedded_dsn)


@pytest.mark.parametrize("server", ["asyncua_server", "open62541_server", "node_opcua_server"])
def test_what_was_browsed_comes_in_with_names_of_numbers_and_fields(
    request: pytest.FixtureRequest, server: str, master_and_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    plant = build_plant(master_and_tenant, served.endpoint, served.variables[:1])
    file = tmp_path / "tags.csv"
    _command(master_and_tenant, "connection", "browse", "Server 1", "--csv", str(file), "--namespace-index")
    rows = [
        row for row in csv.DictReader(file.open(encoding="utf-8")) if row["opc_node_id"] != "ns=1;s=tag.0"
    ]
    by_id = {row["opc_node_id"]: row for row in rows}
    assert by_id["ns=1;s=analog"]["unit"] == "°C"
    # What a person would do in a spreadsheet: another name, a factor, an element of an array.
    by_id["ns=1;s=analog"] |= {"tag_name": "WELLHEAD_TEMPERATURE", "scaling_factor": "0.5"}
    rows.append(
        by_id["ns=1;s=array.counter"] | {"tag_name": "SECOND", "opc_node_id": "ns=1;s=array.counter[1]"}
    )
    with file.open("w", encoding="utf-8", newline="") as changed:
        writer = csv.DictWriter(changed, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    _command(master_and_tenant, "tags", "import", str(file), "--connection", "Server 1")

    wanted = {variable.node_id for variable in served.variables} | {
        "ns=1;s=analog", "ns=1;s=enum.State", "ns=1;s=enum.Mode", "ns=1;s=structure.Point", "ns=1;s=array.counter[1]",
    }  # fmt: skip
    with running_engine(master_and_tenant.master_dsn, tmp_path) as engine:
        engine.wait_ready()
        until("every tag has a reading", lambda: wanted <= plant.tags_with_readings(), timeout_s=30)
        assert engine.stop() == 0, engine.log.read_text()
    assert _first(plant, "ns=1;s=enum.State") == (1.0, "Running")
    assert _first(plant, "ns=1;s=enum.Mode") == (20.0, "Automatic")
    value, text = _first(plant, "ns=1;s=structure.Point")
    assert (value, orjson.loads(text or "")) == (None, {"x": 1.5, "y": -2.5, "name": "valve"})
    assert _first(plant, "ns=1;s=analog") == (50.0, None)
    element, text = _first(plant, "ns=1;s=array.counter[1]")
    assert (element is not None, text) == (True, None)


def _first(plant: Plant, node_id: str) -> tuple[float | None, str | None]:
    value, text, _ = plant.values(node_id)[0]
    return value, text


def _command(databases: MasterAndTenant, *arguments: str) -> None:
    """Run a command as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env=os.environ | {"DATABASE_URL": databases.master_dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
