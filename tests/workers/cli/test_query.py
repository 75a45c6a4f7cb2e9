"""`scada-engine query` against a running engine: a demo that runs while this file's questions are asked."""

from __future__ import annotations

import csv
import signal
from collections.abc import Iterator

import orjson
import pytest

from .conftest import Cli
from .demo_process import READINGS, demo_folder, running_demo


@pytest.fixture(scope="module")
def asked() -> Iterator[dict[str, str]]:
    """The variables that lead commands to the demo."""
    with demo_folder() as folder, running_demo(folder) as demo:
        demo.until(READINGS)
        yield demo.environment()
        demo.process.send_signal(signal.SIGTERM)
        assert demo.wait() == 0


def test_a_table_has_a_heading_and_one_line_a_reading(asked: dict[str, str], cli: Cli) -> None:
    done = cli("query", "--well", "permian", "--from", "-5m", "--limit", "5", **asked)
    heading, *lines = done.stdout.splitlines()
    assert (done.returncode, heading.split()) == (0, ["time", "well", "tag", "value", "unit", "quality"])
    assert len(lines) == 5
    assert all("Permian Basin Well 1" in line for line in lines)
    assert done.stderr == "these are the first 5; --limit 0 shows all\n"


def test_the_latest_of_a_tag_is_one_json_object_a_well(asked: dict[str, str], cli: Cli) -> None:
    done = cli("query", "--tag", "GAS_FLOW_RATE", "--latest", "--json", **asked)
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [(each["tag"], each["unit"]) for each in found] == [("GAS_FLOW_RATE", "MCF/D")] * 2
    assert {each["opc_node_id"] for each in found} == {
        "ns=2;s=Permian.GAS_FLOW_RATE",
        "ns=2;s=Delaware.GAS_FLOW_RATE",
    }


def test_csv_is_ordered_by_time_and_holds_the_chosen_well_only(asked: dict[str, str], cli: Cli) -> None:
    done = cli("query", "--well", "Delaware Basin Well 1", "--limit", "0", "--csv", **asked)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert rows
    assert rows == sorted(rows, key=lambda row: row["time"])
    assert {row["well"] for row in rows} == {"Delaware Basin Well 1"}
    assert {row["quality"] for row in rows} <= {"Good", "Uncertain", "Bad"}


def test_a_tag_is_found_by_its_number_and_by_its_node(asked: dict[str, str], cli: Cli) -> None:
    (by_node,) = cli(
        "query", "--latest", "--json", "--tag", "ns=2;s=Permian.OIL_FLOW_RATE", **asked
    ).stdout.splitlines()
    number = str(orjson.loads(by_node)["tag_id"])
    (by_number,) = cli("query", "--latest", "--json", "--tag", number, **asked).stdout.splitlines()
    assert orjson.loads(by_number)["opc_node_id"] == "ns=2;s=Permian.OIL_FLOW_RATE"


def test_a_range_without_readings_says_so(asked: dict[str, str], cli: Cli) -> None:
    done = cli("query", "--from", "-2d", "--to", "-1d", **asked)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there are no readings in this range\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--well", "Nowhere"], "--well: no well 'Nowhere' has a reading"),
        (["--tag", "NOTHING"], "--tag: no tag 'NOTHING' has a reading"),
        (["--from", "-1m", "--to", "-2m"], "--to: "),
        (
            ["--from", "2000-01-01", "--to", "2020-01-01"],
            "--to: 2020-01-01T00:00:00Z is 7305.0 days after --from",
        ),
    ],
)
def test_a_query_that_does_not_fit_names_the_field(
    asked: dict[str, str], cli: Cli, arguments: list[str], complaint: str
) -> None:
    done = cli("query", *arguments, **asked)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"scada-engine: {complaint}")


def test_another_tenant_is_refused(asked: dict[str, str], cli: Cli) -> None:
    done = cli("query", "--latest", "--tenant", "other", **asked)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)


def test_connections_are_listed_as_connected(asked: dict[str, str], cli: Cli) -> None:
    found = [orjson.loads(line) for line in cli("connection", "list", "--json", **asked).stdout.splitlines()]
    assert [(each["tags"], each["last_error"]) for each in found] == [(5, None), (5, None)]
    assert all(each["last_connected_at"] for each in found)
