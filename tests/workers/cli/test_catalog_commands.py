"""migrate, tenant, connection, tags and seed, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import psycopg
import pytest

from engine.database import with_database
from tests.engine.catalog_entries import CERTIFICATE, KEY, PRIVATE_KEY

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
    assert "`scada-engine migrate up` makes what this version needs" in done.stderr


def test_a_master_of_an_older_engine_is_migrated_and_used_only_then(acme: str, cli: Cli) -> None:
    with psycopg.connect(acme, autocommit=True) as connection:
        connection.execute("alter table tenants drop column durability")
        connection.execute("delete from schema_migrations where version >= 5")
    assert "migrate up" in (told := cli("tenant", "list", DATABASE_URL=acme)).stderr
    assert told.returncode == 4
    for command in (["migrate", "status"], ["migrate", "up", "--dry-run"], ["migrate", "up"]):
        done = cli(*command, DATABASE_URL=acme)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "acme_" in done.stdout
    assert cli("tenant", "list", DATABASE_URL=acme).returncode == 0


def test_a_tenants_durability_is_disk_until_somebody_says_otherwise(acme: str, cli: Cli) -> None:
    def kept() -> dict[str, str]:
        listed = cli("tenant", "list", "--json", DATABASE_URL=acme).stdout.splitlines()
        return {entry["slug"]: entry["durability"] for entry in map(orjson.loads, listed)}

    (slug,) = kept()
    assert kept() == {slug: "disk"}
    done = cli("tenant", "set", slug, "--durability", "memory", DATABASE_URL=acme)
    assert (done.returncode, done.stdout) == (
        0, f"tenant {slug} now keeps its readings in memory only until its database has them\n"
    )  # fmt: skip
    assert kept() == {slug: "memory"}
    assert "memory" in cli("tenant", "list", DATABASE_URL=acme).stdout

    other = f"{slug}_2"
    added = cli("tenant", "add", other, "--durability", "memory", "--json", DATABASE_URL=acme)
    assert orjson.loads(added.stdout)["durability"] == "memory"
    assert kept() == {slug: "memory", other: "memory"}

    done = cli("tenant", "set", "nobody", "--durability", "disk", DATABASE_URL=acme)
    assert (done.returncode, done.stderr) == (3, "scada-engine: slug: there is no tenant 'nobody'\n")
    done = cli("tenant", "set", slug, "--durability", "ram", DATABASE_URL=acme)
    assert done.returncode == 2
    assert "'--durability': 'ram' is not one of 'disk', 'memory'" in done.stderr


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
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--security-mode", "Sign", "--security-policy", "None"],
         "security_policy"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--security-policy", "Basic256"], "security_policy"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--failover-url", "plc"], "failover_urls[0]"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--deadband", "1,5"], "--deadband"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--deadband", "101%"], "deadband_value"),
        (["X", "--endpoint", ENDPOINT, "--well", "W", "--user-private-key", "missing"], "--user-private-key"),
        (["", "--endpoint", ENDPOINT, "--well", "W"], "name"),
    ],
)  # fmt: skip
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


def tenant_of(master: str, cli: Cli) -> str:
    """Return the DSN of the only tenant."""
    slug = orjson.loads(cli("tenant", "list", "--json", DATABASE_URL=master).stdout)["slug"]
    return with_database(master, f"scada_{slug}")


def test_everything_that_can_be_said_of_a_connection_is_kept_and_no_secret_is_shown(
    acme: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "user.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(PRIVATE_KEY)
    done = cli(
        "connection", "add", "PLC", "--endpoint", ENDPOINT, "--well", "Well 7", "--json",
        "--failover-url", "opc.tcp://b:4840", "--failover-url", "opc.tcp://c:4840",
        "--security-mode", "Sign", "--security-policy", "Basic256", "--allow-deprecated-policies",
        "--username", "reader", "--password-file", "-", "--allow-plain-password",
        "--user-certificate", "user.pem", "--user-private-key", "key.pem",
        "--poll", "--poll-interval", "5", "--publishing-interval-ms", "250", "--sampling-interval-ms", "-1",
        "--queue-size", "7", "--discard-newest", "--deadband", "0.5%", "--data-change-trigger", "Status",
        "--timestamps-to-return", "Both",
        stdin="hunter2\n", DATABASE_URL=acme, SCADA_SECRETS_KEY=KEY,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    assert "PRIVATE KEY" not in done.stdout
    shown = orjson.loads(done.stdout)
    assert shown["failover_urls"] == ["opc.tcp://b:4840", "opc.tcp://c:4840"]
    assert (shown["security_mode"], shown["security_policy"], shown["allow_deprecated_policies"]) == (
        "Sign",
        "Basic256",
        True,
    )
    assert (shown["has_user_certificate"], shown["allow_plain_password"]) == (True, True)
    assert shown["poll_interval_seconds"] == 5
    assert shown["settings"] == {
        "read_mode": "poll",
        "publishing_interval_ms": 250.0,
        "sampling_interval_ms": -1.0,
        "queue_size": 7,
        "discard_oldest": False,
        "deadband_type": "Percent",
        "deadband_value": 0.5,
        "data_change_trigger": "Status",
        "timestamps_to_return": "Both",
    }
    with psycopg.connect(tenant_of(acme, cli)) as tenant:
        row = tenant.execute(
            "select password, user_certificate, user_private_key from scada_connections where name = 'PLC'"
        ).fetchone()
    assert row is not None
    assert row[1] == CERTIFICATE
    assert "hunter2" not in row[0]
    assert "PRIVATE" not in row[2]


def test_a_connection_of_which_nothing_is_said_takes_the_strongest_security(acme: str, cli: Cli) -> None:
    (shown,) = map(orjson.loads, cli("connection", "list", "--json", DATABASE_URL=acme).stdout.splitlines())
    assert (shown["security_mode"], shown["security_policy"], shown["settings"]) == ("Auto", "Auto", {})
    assert (shown["active"], shown["monitored"], shown["tags"]) == (None, 0, 0)


def test_a_connection_is_changed_where_something_is_said_and_only_there(acme: str, cli: Cli) -> None:
    secret = {"DATABASE_URL": acme, "SCADA_SECRETS_KEY": KEY}
    for arguments, stdin in (
        (
            ["--username", "reader", "--password-file", "-", "--queue-size", "7", "--deadband", "2%"],
            "hunter2\n",
        ),
        (["--rename", "PLC", "--failover-url", "opc.tcp://b:1", "--poll", "--unset", "deadband"], ""),
        (["--security-mode", "None", "--disable"], ""),
    ):
        name = "PLC" if "--disable" in arguments else "RTU"
        done = cli("connection", "set", name, *arguments, stdin=stdin, **secret)
        assert (done.returncode, done.stderr) == (0, "")
    (shown,) = map(orjson.loads, cli("connection", "list", "--json", DATABASE_URL=acme).stdout.splitlines())
    assert (shown["name"], shown["username"], shown["is_enabled"]) == ("PLC", "reader", False)
    assert (shown["security_mode"], shown["security_policy"]) == ("None", "Auto")
    assert (shown["failover_urls"], shown["endpoint_url"]) == (["opc.tcp://b:1"], ENDPOINT)
    assert shown["settings"] == {"read_mode": "poll", "queue_size": 7}
    for arguments, field in (
        (["PLC"], "NAME"),
        (["RTU", "--disable"], "NAME"),
        (["PLC", "--queue-size", "0"], "queue_size"),
    ):
        done = cli("connection", "set", *arguments, DATABASE_URL=acme)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert done.stderr.startswith(f"scada-engine: {field}: ")


def test_lists_show_what_is_in_use_and_how_each_tag_is_read(acme: str, cli: Cli) -> None:
    head = "tag_name,opc_node_id,sampling_interval_ms,deadband_type,deadband_value,read_mode\n"
    file = head + "A,ns=2;s=A,100,absolute,0.5,\nB,/Objects/2:Plant/2:B[3],,,,POLL\nC,i=1,,,,\n"
    done = cli("tags", "import", "-", "--connection", "RTU", stdin=file, DATABASE_URL=acme)
    assert (done.returncode, done.stderr) == (0, "")
    with psycopg.connect(tenant_of(acme, cli)) as tenant:
        tenant.execute(
            """
            update scada_connections set active_endpoint_url = 'opc.tcp://b:4840', monitored_tags = 1,
                active_security_mode = 'SignAndEncrypt', active_security_policy = 'Basic256Sha256'
            """
        )
        tenant.execute(
            """
            insert into tag_states (tag_id, monitored, reason, revised_sampling_interval_ms, revised_queue_size)
            values (1, true, null, 250, 10), (2, false, 'unknown_node', null, null)
            """
        )
    (row,) = cli("connection", "list", DATABASE_URL=acme).stdout.splitlines()[1:]
    assert row.split()[:8] == [
        "RTU", "Well", "7", "opc.tcp://b:4840", "SignAndEncrypt", "Basic256Sha256", "1/3", "yes",
    ]  # fmt: skip
    table = [line.split() for line in cli("tags", "list", DATABASE_URL=acme).stdout.splitlines()]
    assert [line[-3:] for line in table[:2]] == [["state", "sampling_ms", "queue"], ["read", "250", "10"]]
    assert table[2][-1] == "unknown_node"
    found = cli("tags", "list", "--missing", "--json", DATABASE_URL=acme).stdout.splitlines()
    missing = [orjson.loads(line) for line in found]
    assert [(tag["tag_name"], tag["reason"], tag["settings"]) for tag in missing] == [
        ("B", "unknown_node", {"read_mode": "poll"}),
        ("C", None, {}),
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
