"""`connection browse` as a user runs it, on real servers: each form of output, and what is said about the rest."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.servers.opcua_server import OpcuaServer, free_port
from tests.workers.cli.conftest import Cli
from workers.cli.browse_tags import TagRows
from workers.opcua.browsing.browse import BrowsedNode
from workers.opcua.browsing.variables import VariableFacts

WELLS = "nsu=urn:scada-engine:simulator:wells;s="


def test_a_tree_shows_what_lies_where(cli: Cli, simulator: OpcuaServer) -> None:
    done = cli("connection", "browse", "--url", simulator.endpoint)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "/Objects  i=85"
    assert f"    ├── Permian  {WELLS}Permian" in lines
    assert f"    │   ├── CASING_PRESSURE  DOUBLE  PSI  {WELLS}Permian.CASING_PRESSURE" in lines
    assert f"        └── WATER_FLOW_RATE  UINT  BBL/D  {WELLS}Delaware.WATER_FLOW_RATE" in lines
    assert "not listed: 1 object with the server's own state (--start i=2253)" in done.stderr.splitlines()


def test_a_tree_of_variables_keeps_only_what_leads_to_them(cli: Cli, simulator: OpcuaServer) -> None:
    done = cli("connection", "browse", "--url", simulator.endpoint, "--variables-only", "--values")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 1 + 2 + 10
    assert not [line for line in lines if "Aliases" in line]
    assert len([line for line in lines if "  = " in line]) == 10


def test_json_has_one_object_a_node(cli: Cli, simulator: OpcuaServer) -> None:
    done = cli(
        "connection", "browse", "--url", simulator.endpoint, "--json", "--start", "/Objects/2:Wells/2:Permian"
    )
    nodes = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [node["depth"] for node in nodes] == [0, 1, 1, 1, 1, 1]
    casing = next(node for node in nodes if node["browse_name"] == "CASING_PRESSURE")
    assert casing["node_id"] == f"{WELLS}Permian.CASING_PRESSURE"
    assert casing["path"] == "/Objects/2:Wells/2:Permian/2:CASING_PRESSURE"
    assert (casing["data_type"], casing["unit"], casing["value_rank"]) == ("DOUBLE", "PSI", -1)


def test_a_table_is_for_eyes_and_for_programs_that_take_columns_apart(
    cli: Cli, simulator: OpcuaServer
) -> None:
    done = cli(
        "connection",
        "browse",
        "--url",
        simulator.endpoint,
        "--table",
        "--variables-only",
        "--namespace-index",
    )
    heading, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heading == ["path", "node_class", "data_type", "unit", "node_id"]
    assert len(rows) == 10
    assert rows[0][-1] == "ns=2;s=Permian.CASING_PRESSURE"


def test_what_is_left_out_is_said_with_the_option_that_brings_it(cli: Cli, simulator: OpcuaServer) -> None:
    done = cli("connection", "browse", "--url", simulator.endpoint, "--limit", "5", "--depth", "2")
    assert len(done.stdout.splitlines()) == 5
    said = done.stderr.splitlines()
    assert [line for line in said if line.endswith("beyond the most that were asked for (--limit)")]
    done = cli("connection", "browse", "--url", simulator.endpoint, "--depth", "1")
    assert "not listed: 3 nodes of the last level were not looked into (--depth)" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give the name of a connection, or --url"),
        (["RTU", "--url", "opc.tcp://127.0.0.1:1"], 2, "give the name of a connection, or --url"),
        (["--url", "opc.tcp://127.0.0.1:1", "--json", "--table"], 2, "exclude each other"),
        (["RTU"], 2, "no database is set"),
        (["--url", "http://127.0.0.1"], 5, "opc.tcp://host"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    cli: Cli, arguments: list[str], code: int, said: str
) -> None:
    done = cli("connection", "browse", *arguments)
    assert done.returncode == code
    assert said in done.stderr


def test_a_server_that_is_not_there_is_one_line(cli: Cli) -> None:
    done = cli("connection", "browse", "--url", f"opc.tcp://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    assert "connection refused" in done.stderr


def test_a_start_that_is_not_there_is_one_line(cli: Cli, simulator: OpcuaServer) -> None:
    done = cli("connection", "browse", "--url", simulator.endpoint, "--start", "nsu=urn:nowhere;i=1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "has no namespace 'urn:nowhere'" in done.stderr


@pytest.fixture
def acme(embedded_dsn: str, new_database: Callable[[str], str], cli: Cli, simulator: OpcuaServer) -> str:
    """The DSN of a master whose only tenant has a connection RTU to the simulator."""
    master = new_database(embedded_dsn)
    slug = "acme_" + master.rpartition("_")[2]
    for command in (
        ["migrate", "up"],
        ["tenant", "add", slug, "--name", "Acme Oil"],
        ["connection", "add", "RTU", "--endpoint", simulator.endpoint, "--well", "Well 7"],
    ):
        assert cli(*command, DATABASE_URL=master).returncode == 0
    return master


def test_what_was_browsed_is_edited_and_imported(cli: Cli, acme: str, tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    done = cli("connection", "browse", "RTU", "--csv", str(file), DATABASE_URL=acme)
    assert done.returncode == 0
    assert f"wrote 10 tags to {file}" in done.stderr
    rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
    assert [row["tag_name"] for row in rows][:2] == [
        "Wells.Permian.CASING_PRESSURE",
        "Wells.Permian.TUBING_PRESSURE",
    ]
    assert {row["unit"] for row in rows} == {"PSI", "BBL/D", "0.1 MCF/D"}

    edited = file.read_text("utf-8").replace("Wells.", "").replace("0.1 MCF/D,,", "MCF/D,0.1,")
    file.write_text("\n".join(edited.splitlines()[:6]) + "\n", "utf-8")
    done = cli("tags", "import", str(file), "--connection", "RTU", DATABASE_URL=acme)
    assert (done.returncode, done.stdout) == (0, "imported 5 tags\n")
    listed = [
        orjson.loads(line) for line in cli("tags", "list", "--json", DATABASE_URL=acme).stdout.splitlines()
    ]
    assert {tag["tag_name"] for tag in listed} == {
        "Permian." + name
        for name in (
            "CASING_PRESSURE",
            "TUBING_PRESSURE",
            "OIL_FLOW_RATE",
            "GAS_FLOW_RATE",
            "WATER_FLOW_RATE",
        )
    }
    gas = next(tag for tag in listed if tag["tag_name"] == "Permian.GAS_FLOW_RATE")
    assert (gas["data_type"], gas["unit"], gas["scaling_factor"]) == ("INT", "MCF/D", 0.1)
    assert gas["opc_node_id"] == f"{WELLS}Permian.GAS_FLOW_RATE"


def test_the_next_address_is_used_where_the_first_one_does_not_work(
    cli: Cli, acme: str, simulator: OpcuaServer
) -> None:
    gone = f"opc.tcp://127.0.0.1:{free_port()}"
    added = cli(
        "connection", "add", "Pair", "--endpoint", gone, "--failover-url", simulator.endpoint, "--well", "Well 7",
        DATABASE_URL=acme,
    )  # fmt: skip
    assert added.returncode == 0
    done = cli("connection", "browse", "Pair", "--depth", "1", DATABASE_URL=acme)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)
    assert "this address does not work, trying the next: " in done.stderr


@pytest.mark.parametrize("server", ["open62541_server", "node_opcua_server"])
def test_everything_on_a_server_can_be_imported(
    request: pytest.FixtureRequest, cli: Cli, acme: str, server: str
) -> None:
    served: OpcuaServer = request.getfixturevalue(server)
    browsed = cli("connection", "browse", "--url", served.endpoint, "--csv", "-")
    done = cli("tags", "import", "-", "--connection", "RTU", stdin=browsed.stdout, DATABASE_URL=acme)
    assert done.returncode == 0, done.stderr
    assert len(browsed.stdout.splitlines()) - 1 >= len(served.variables)
    assert "arrays have one row each: for one element write [i] behind the node id" in browsed.stderr


def node(name: str, *, parent: str | None = "i=85", **facts: object) -> BrowsedNode:
    """Return a variable below Objects."""
    known = {"data_type": "DOUBLE", "data_type_id": "Double", "value_rank": -1, "readable": True} | facts
    return BrowsedNode(
        node_id=f"ns=1;s={name}", node_id_by_uri=f"nsu=urn:x;s={name}", path=f"/Objects/1:{name}",
        browse_name=name, display_name=name, node_class="Variable", type_definition=None, parent=parent, depth=1,
        is_property=False, variable=VariableFacts(**known),  # type: ignore[arg-type]
    )  # fmt: skip


def rows_of(*nodes: BrowsedNode, by_index: bool = False) -> TagRows:
    """Return the rows of these nodes, which lie below Objects."""
    rows = TagRows(by_index=by_index)
    rows.add(BrowsedNode(
        node_id="i=85", node_id_by_uri="i=85", path="/Objects", browse_name="Objects", display_name="Objects",
        node_class="Object", type_definition=None, parent=None, depth=0, is_property=False,
    ))  # fmt: skip
    for one in nodes:
        rows.add(one)
    return rows


def test_names_of_tags_are_unique() -> None:
    rows = rows_of(node("A"), node("B"), node("A"), node("A")).rows
    assert [row[0] for row in rows] == ["A", "B", "A_2", "A_3"]


def test_a_long_name_keeps_its_end() -> None:
    (row, again) = rows_of(node("x" * 300 + "end"), node("x" * 300 + "end")).rows
    assert (len(row[0]), len(again[0])) == (255, 255)
    assert row[0].startswith("…x")
    assert row[0].endswith("xend")
    assert again[0].endswith("xend_2")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_a_name_is_no_formula(name: str) -> None:
    ((tag_name, *_),) = rows_of(node(name)).rows
    assert tag_name == "_" + name[1:]


@pytest.mark.parametrize(
    ("unit", "written"),
    [("°C", "°C"), ("-", "-"), ("=cmd", ""), ("a\nb", "ab"), ("x" * 60, "x" * 50), (" ", "")],
)
def test_a_unit_is_what_a_tag_can_have(unit: str, written: str) -> None:
    (row,) = rows_of(node("A", unit=unit)).rows
    assert row[3] == written


def test_a_variable_that_cannot_be_a_tag_is_counted_with_the_reason() -> None:
    found = rows_of(node("A", readable=False), node("B" * 600), node("C ", data_type=None, value_rank=1))
    assert found.rows == []
    assert found.left_out == {
        "variables may not be read": 1,
        "variables whose opc_node_id `tags import` does not take": 1,
        "node ids begin or end with a space, which a CSV file does not keep": 1,
    }
