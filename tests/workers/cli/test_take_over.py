"""`tenant take-over` as an operator runs it on a database of the earlier system, killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.servers import earlier_system

from .conftest import Cli, bare_environment

READINGS = 100_000


def value_of(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def master(embedded_dsn: str, new_database: Callable[[str], str]) -> str:
    return new_database(embedded_dsn)


@pytest.fixture
def tenant(embedded_dsn: str, new_database: Callable[[str], str], master: str, cli: Cli) -> str:
    """A database of the earlier system, registered as the tenant acme, and migrated."""
    dsn = new_database(embedded_dsn)
    earlier_system.build(dsn, readings=READINGS)
    assert cli("migrate", "up", DATABASE_URL=master).returncode == 0
    with psycopg.connect(master) as connection, psycopg.connect(dsn) as other:
        connection.execute(
            "insert into tenants (slug, name, database_name) values ('acme', 'Acme', %s)", [other.info.dbname]
        )
    migrated = cli("migrate", "up", DATABASE_URL=master)
    assert "scada-engine tenant take-over acme" in migrated.stderr
    assert "connection 'PLC' is disabled until its password is set" in migrated.stderr
    return dsn


def test_a_conversion_that_was_killed_goes_on_and_every_reading_is_there_all_the_time(
    master: str, tenant: str, cli: Cli, tmp_path: Path
) -> None:
    assert value_of(tenant, "select count(*) from tag_mappings") == 10
    digest = "select md5(string_agg(r::text, '' order by r::text)) from scada_readings r"
    before = value_of(tenant, digest)
    with psycopg.connect(tenant) as holder:
        # It cannot go past the last page, and is killed there, in the middle of a piece.
        holder.execute(
            "select from seed_readings where ctid = (select max(ctid) from seed_readings) for update"
        )
        running = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "tenant", "take-over", "acme"],
            cwd=tmp_path,
            env=bare_environment(DATABASE_URL=master),
        )
        ends_s = time.monotonic() + 30
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        while value_of(tenant, waits) == 0:
            assert running.poll() is None
            assert time.monotonic() < ends_s
            time.sleep(0.02)
        running.kill()
        running.wait()
    moved = value_of(tenant, "select count(*) from readings")
    assert isinstance(moved, int)
    assert 0 < moved < READINGS
    assert value_of(tenant, digest) == before

    again = cli("tenant", "take-over", "--json", DATABASE_URL=master)
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    assert (said["tenant"], said["readings"], said["left"]) == ("acme", READINGS - moved, {})
    assert value_of(tenant, digest) == before
    assert value_of(tenant, "select count(*) from readings") == READINGS
    nothing = cli("tenant", "take-over", DATABASE_URL=master)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no database has tables of the earlier system" in nothing.stderr
    listed = cli("connection", "list", DATABASE_URL=master)
    assert "RTU" in listed.stdout
