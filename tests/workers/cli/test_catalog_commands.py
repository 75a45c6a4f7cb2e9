"""migrate, tenant, connection, tags and seed, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import psycopg
import pytest

from engine.database import with_database

from .conftest import Cli

ENDPOINT = "opc.tcp://127.0.0.1:4841"
GOOD = """tag_name,opc_node_id,data_type,unit,scaling_factor,offset,well
TUBING,ns=2;s=A.Tubing,float,PSI,,,
GAS,ns=2;s=A.Gas,INT,MCF/D,0.1,-2.5,
"""


@pytest.fixture
def master(embedded_dsn: str, new_database: Callable[[str], str]) -> str:
    """The DSN of an empty database that is going to be a master."""
    return new_database(embedded_dsn)


@pytest.fixture
def acme(master: str, cli: Cli) -> str:
    """The DSN of a migrated master with the tenant acme, which has a well and a connection named RTU."""
    # The tenant's database is named by its slug, and other tests use the same server.
    slug = "acme_" + master.rpartition("_")[2]
    for command in (
        ["migrate", "up"],
        ["tenant", "add", slug, "--name", "Acme Oil"],
        ["connection", "add", "RTU", "--endpoint", ENDPOINT, "--well", "Well 7"],
    ):
        done = cli(*command, DATABASE_URL=master)
        assert (done.returncode, done.stderr) == (0, "")
    return master


def test_migrate_up_says_what_it_does_before_and_after(master: str, cli: Cli) -> None:
    planned = cli("migrate", "up", "--dry-run", DATABASE_URL=master)
    assert planned.stdout.startswith("master: would apply master/0001_tenants.sql")
    done = cli("migrate", "up", DATABASE_URL=master)
    assert done.stdout.startswith("master: applied master/0001_tenants.sql")
    assert cli("migrate", "up", DATABASE_URL=master).stdout.startswith("master: nothing to do")
    found = cli("migrate", "status", "--json", DATABASE_URL=master).stdout.splitlines()
    assert {orjson.loads(line)["state"] for line in found} == {"applied"}


def test_a_tenant_that_fails_is_named_and_the_others_are_migrated(acme: str, cli: Cli) -> None:
    with psycopg.connect(acme, autocommit=True) as connection:
        connection.execute(
            "insert into tenants (slug, name, database_name) values ('gone', 'Gone', 'not_there')"
        )
    done = cli("migrate", "up", DATABASE_URL=acme)
    assert done.returncode == 4
    assert "gone: failed: " in done.stderr
    assert done.stderr.endswith("scada-engine: 1 of 3 databases failed: gone\n")
    assert len(done.stdout.splitlines()) == 2

    shown = cli("migrate", "status", DATABASE_URL=acme)
    assert shown.returncode == 4
    assert shown.stderr.endswith("scada-engine: not in order: gone\n")


def test_an_unmigrated_master_is_a_database_error(master: str, cli: Cli) -> None:
    done = cli("tenant", "list", DATABASE_URL=master)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)


def test_a_database_that_does_not_exist_is_named(embedded_dsn: str, cli: Cli) -> None:
    done = cli("migrate", "up", DATABASE_URL=with_database(embedded_dsn, "not_there"))
    assert done.returncode == 4
    assert '"not_there"' in done.stderr


def test_a_slug_that_does_not_fit_is_refused(acme: str, cli: Cli) -> None:
    done = cli("tenant", "add", "Acme Oil", DATABASE_URL=acme)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("scada-engine: slug: 'Acme Oil' does not fit")


def test_a_disabled_tenant_is_listed_and_no_longer_the_only_one(acme: str, cli: Cli) -> None:
    (entry,) = map(orjson.loads, cli("tenant", "list", "--json", DATABASE_URL=acme).stdout.splitlines())
    assert (entry["name"], entry["status"]) == ("Acme Oil", "active")
    assert cli("tenant", "disable", entry["slug"], DATABASE_URL=acme).returncode == 0
    assert "disabled" in cli("tenant", "list", DATABASE_URL=acme).stdout
    done = cli("tags", "list", DATABASE_URL=acme)
    assert done.returncode == 3
    assert "there is no active tenant yet" in done.stderr


def test_with_several_tenants_one_must_be_named(acme: str, cli: Cli) -> None:
    with psycopg.connect(acme, autocommit=True) as connection:
        connection.execute("insert into tenants (slug, name, database_name) values ('b', 'B', 'b')")
    done = cli("connection", "list", DATABASE_URL=acme)
    assert done.returncode == 3
    assert "--tenant: there are 2 active tenants" in done.stderr
    assert cli("connection", "list", "--tenant", "nobody", DATABASE_URL=acme).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["X", "--endpoint", "http://plc", "--well", "W"], "endpoint_url"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--security-mode", "Sign"], "security_policy"),
        (["", "--endpoint", ENDPOINT, "--well", "W"], "name"),
    ],
)
def test_a_connection_that_does_not_fit_names_the_field_and_adds_no_well(
    acme: str, cli: Cli, arguments: list[str], field: str
) -> None:
    done = cli("connection", "add", *arguments, DATABASE_URL=acme)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith(f"scada-engine: {field}: ")
    slug = orjson.loads(cli("tenant", "list", "--json", DATABASE_URL=acme).stdout)["slug"]
    with psycopg.connect(with_database(acme, f"scada_{slug}")) as tenant:
        assert tenant.execute("select name from wells").fetchall() == [("Well 7",)]


def test_tags_are_imported_with_their_scaling(acme: str, cli: Cli) -> None:
    planned = cli("tags", "import", "-", "--connection", "RTU", "--dry-run", stdin=GOOD, DATABASE_URL=acme)
    assert (planned.returncode, planned.stdout) == (0, "2 tags fit\n")
    done = cli("tags", "import", "-", "--connection", "RTU", stdin=GOOD, DATABASE_URL=acme)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported 2 tags\n", "")
    found = [
        orjson.loads(line) for line in cli("tags", "list", "--json", DATABASE_URL=acme).stdout.splitlines()
    ]
    assert [(tag["tag_name"], tag["data_type"], tag["unit"], tag["scaling_factor"], tag["offset"], tag["well"])
            for tag in found] == [("TUBING", "FLOAT", "PSI", 1.0, 0.0, "Well 7"),
                                  ("GAS", "INT", "MCF/D", 0.1, -2.5, "Well 7")]  # fmt: skip


def test_every_bad_line_is_told_and_nothing_is_imported(acme: str, cli: Cli) -> None:
    bad = (
        GOOD + 'X,Well7,DOUBLE,,,,\nY,ns=2;s=Y,NUMBER,,"1,5",,\nZ,ns=2;s=A.Gas,,,,,\n,ns=2;s=W,,,,,Nowhere\n'
    )
    done = cli("tags", "import", "-", "--connection", "RTU", stdin=bad, DATABASE_URL=acme)
    assert (done.returncode, done.stdout) == (3, "")
    *told, last = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        ["<stdin>:4", "opc_node_id"],
        ["<stdin>:5", "scaling_factor"],
        ["<stdin>:6", "opc_node_id"],
        ["<stdin>:7", "tag_name"],
        ["<stdin>:7", "well"],
    ]
    assert "is already in line 3" in told[2]
    assert last == "scada-engine: <stdin>: 4 lines do not fit, nothing was imported"
    assert cli("tags", "list", "--json", DATABASE_URL=acme).stdout == ""


def test_tags_that_are_there_already_are_told_by_line(acme: str, cli: Cli) -> None:
    cli("tags", "import", "-", "--connection", "RTU", stdin=GOOD, DATABASE_URL=acme)
    done = cli("tags", "import", "-", "--connection", "RTU", "--json", stdin=GOOD, DATABASE_URL=acme)
    assert done.returncode == 3
    shown = orjson.loads(done.stdout)
    assert shown["imported"] == 0
    assert [(each["line"], each["column"]) for each in shown["problems"]] == [
        (2, "opc_node_id"),
        (3, "opc_node_id"),
    ]


def test_an_unknown_connection_is_refused(acme: str, cli: Cli) -> None:
    done = cli("tags", "import", "-", "--connection", "PLC", stdin=GOOD, DATABASE_URL=acme)
    assert done.returncode == 3
    assert done.stderr.startswith("scada-engine: --connection: there is no connection 'PLC'")


def test_the_seed_can_be_done_again_at_another_endpoint(acme: str, cli: Cli) -> None:
    for endpoint in (ENDPOINT, "opc.tcp://127.0.0.1:4842"):
        assert cli("seed", "--endpoint", endpoint, DATABASE_URL=acme).returncode == 0
    found = [
        orjson.loads(line)
        for line in cli("connection", "list", "--json", DATABASE_URL=acme).stdout.splitlines()
    ]
    seeded = [(each["tags"], each["endpoint_url"]) for each in found if each["name"] != "RTU"]
    assert seeded == [(5, "opc.tcp://127.0.0.1:4842")] * 2
