"""The test servers themselves: they end with whoever started them, and say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.servers.databases import temporary_database
from tests.servers.debian_root import ServerMissing, debian_root
from tests.servers.timescale import timescale

REPOSITORY = Path(__file__).parents[2]


def test_the_server_is_a_timescaledb(timescale_dsn: str) -> None:
    with temporary_database(timescale_dsn) as dsn, psycopg.connect(dsn) as connection:
        connection.execute("create extension if not exists timescaledb")
        assert connection.execute("show timescaledb.license").fetchone() in {("apache",), ("timescale",)}


@pytest.mark.parametrize("server", ["timescale", "embedded_postgres"])
def test_a_server_ends_when_the_run_is_killed(server: str, timescale_dsn: str) -> None:
    """The fixture is only there so that the server can be had at all."""
    program = (
        f"import sys; from tests.servers.{server} import {server}\n"
        f"with {server}() as dsn: print(dsn, flush=True); sys.stdin.read()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SCADA_TEST_DATABASE_URL"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        dsn = process.stdout.readline().strip()
        psycopg.connect(dsn).close()
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            break
        assert time.monotonic() < deadline, "the server still takes connections"
        time.sleep(0.05)


def test_a_database_is_dropped_even_while_someone_is_connected(embedded_dsn: str) -> None:
    with temporary_database(embedded_dsn) as dsn:
        connection = psycopg.connect(dsn)
        name = connection.info.dbname
    connection.close()
    with psycopg.connect(embedded_dsn) as other:
        assert other.execute("select from pg_database where datname = %s", [name]).fetchone() is None


def test_a_root_folder_of_other_packages_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCADA_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "debian-13/etc").mkdir(parents=True)
    (tmp_path / "debian-13/etc/scada-test-packages").write_text("trixie\nother\n")
    with pytest.raises(ServerMissing, match=r"needs (root|mmdebstrap)"):
        debian_root()


def test_without_any_way_to_a_server_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCADA_TEST_DATABASE_URL", raising=False)
    monkeypatch.setenv("SCADA_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.servers.timescale._installed_programs", lambda: None)
    with (
        pytest.raises(ServerMissing, match="set SCADA_TEST_DATABASE_URL, or install TimescaleDB"),
        timescale(),
    ):
        pass


def test_a_named_server_without_timescaledb_is_refused(
    embedded_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCADA_TEST_DATABASE_URL", embedded_dsn)
    with pytest.raises(ServerMissing, match="has no TimescaleDB"), timescale():
        pass
