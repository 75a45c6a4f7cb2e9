"""`scada-engine gaps list` on a real server."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import psycopg
import pytest

from engine.database import with_database

from .conftest import Cli

ENDPOINT = "opc.tcp://127.0.0.1:4841"
TAGS = "tag_name,opc_node_id\nTUBING,ns=2;s=A.Tubing\nGAS,ns=2;s=A.Gas\n"
GAPS = """
insert into reading_gaps (tag_id, "from", "to", cause) values
    (1, '2026-03-01T12:00:00.000001Z', '2026-03-01T12:00:01.5Z', 'outage'),
    (2, '2026-03-01T12:00:00Z', '2026-03-01T13:00:00Z', 'overflow'),
    (1, '2026-03-02T00:00:00Z', '2026-03-02T00:00:01Z', 'restart')
"""

CHOICES: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    (("--from", "2026-03-01T12:30", "--to", "2026-03-01T12:31"), ["GAS"]),
    (("--from", "2026-03-01T13:00", "--to", "2026-03-01T14:00"), []),
    (("--from", "2026-03-01", "--to", "2026-03-03", "--tag", "1"), ["TUBING", "TUBING"]),
    (("--from", "2026-03-01", "--to", "2026-03-03", "--well", "Well 7", "--limit", "2"), ["GAS", "TUBING"]),
)


@pytest.fixture
def acme(embedded_dsn: str, new_database: Callable[[str], str], cli: Cli) -> str:
    """The DSN of a master whose only tenant has two tags and three gaps."""
    master = new_database(embedded_dsn)
    slug = "gaps_" + master.rpartition("_")[2]
    for command in (
        ["migrate", "up"],
        ["tenant", "add", slug],
        ["connection", "add", "RTU", "--endpoint", ENDPOINT, "--well", "Well 7"],
    ):
        assert cli(*command, DATABASE_URL=master).returncode == 0
    assert cli("tags", "import", "-", "--connection", "RTU", stdin=TAGS, DATABASE_URL=master).returncode == 0
    with psycopg.connect(master) as connection:
        found = connection.execute("select database_name from tenants where slug = %s", [slug]).fetchone()
    assert found is not None
    with psycopg.connect(with_database(master, found[0])) as connection:
        connection.execute(GAPS)
    return master


def test_gaps_are_listed_in_the_order_of_their_time_and_chosen_by_time_tag_and_well(
    acme: str, cli: Cli
) -> None:
    done = cli(
        "gaps", "list", "--from", "2026-03-01", "--to", "2026-03-02T12:00", "--json", DATABASE_URL=acme
    )
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [(gap["tag"], gap["cause"], gap["lasted_s"]) for gap in found] == [
        ("GAS", "overflow", 3600.0),
        ("TUBING", "outage", 1.5),
        ("TUBING", "restart", 1.0),
    ]
    assert found[1]["from"] == "2026-03-01T12:00:00.000001Z"
    assert found[0]["opc_node_id"] == "ns=2;s=A.Gas"
    assert found[0]["well"] == "Well 7"

    for arguments, tags in CHOICES:
        done = cli("gaps", "list", *arguments, "--json", DATABASE_URL=acme)
        assert [orjson.loads(line)["tag"] for line in done.stdout.splitlines()] == tags, arguments
        assert done.returncode == 0


def test_an_empty_range_and_what_is_wrong_are_named(acme: str, cli: Cli) -> None:
    done = cli("gaps", "list", "--from", "-2h", DATABASE_URL=acme)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there are no gaps in this range\n")
    done = cli("gaps", "list", "--well", "Nobody's", DATABASE_URL=acme)
    assert (done.returncode, done.stderr) == (3, 'scada-engine: --well: there is no well "Nobody\'s"\n')
    done = cli("gaps", "list", "--from", "now", "--to", "-1d", DATABASE_URL=acme)
    assert done.returncode == 3
    assert "from: " in done.stderr
