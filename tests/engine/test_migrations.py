"""engine.migrations on real servers: the ledger, the lock, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.errors import DatabaseNotMigrated, DatabaseTooNew, DatabaseUnavailable, MigrationError
from engine.migrations import Progress, State, Target, Which, load, migrate_all, migrate_database, status
from engine.version import VERSION
from tests.servers.databases import Server

MASTER_FILES = (
    "master/0001_tenants.sql",
    "master/0003_price_quotes.sql",
    "master/0004_eia_api_configuration.sql",
    "master/0005_durability.sql",
)
TENANT_FILES = (
    "tenant/0001_wells.sql",
    "tenant/0002_scada_connections.sql",
    "tenant/0003_readings.sql",
    "tenant/0004_opcua_settings.sql",
    "tenant/0005_reading_gaps.sql",
    "tenant/0006_journal.sql",
    "tenant/0007_stored_readings.sql",
    "tenant/0008_rollups.sql",
    "tenant/0010_earlier_readings.sql",
    "tenant/0011_pending_rollups.sql",
)


@pytest.fixture
def database(any_server: Server, new_database: Callable[[str], str]) -> str:
    return new_database(any_server.dsn)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may change."""
    with resources.as_file(resources.files("migrations")) as source:
        shutil.copytree(source, tmp_path / "migrations")
    return tmp_path / "migrations"


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize(("which", "files"), [(Which.MASTER, MASTER_FILES), (Which.TENANT, TENANT_FILES)])
async def test_an_empty_database_gets_every_migration_in_order(
    database: str, which: Which, files: Sequence[str]
) -> None:
    outcome = await migrate_database(database, which)
    assert outcome.applied == tuple(files)
    assert outcome.error is None
    ledger = rows(
        database, "select version, name, checksum, engine_version from schema_migrations order by version"
    )
    assert ledger == [(m.version, m.name, hashlib.sha256(m.sql).hexdigest(), VERSION) for m in load(which)]


async def test_a_second_run_changes_nothing(database: str) -> None:
    await migrate_database(database, Which.TENANT)
    before = rows(database, "select * from schema_migrations order by version")
    assert (await migrate_database(database, Which.TENANT)).applied == ()
    assert rows(database, "select * from schema_migrations order by version") == before


async def test_a_dry_run_names_what_is_pending_and_changes_nothing(database: str) -> None:
    tables = "select relname from pg_class where relnamespace = 'public'::regnamespace"
    assert (await migrate_database(database, Which.TENANT, dry_run=True)).applied == TENANT_FILES
    assert rows(database, tables) == []
    assert rows(database, "select extname from pg_extension where extname = 'timescaledb'") == []


async def test_of_many_runners_at_once_each_migration_is_applied_by_one(database: str) -> None:
    outcomes = await asyncio.gather(*(migrate_database(database, Which.TENANT) for _ in range(4)))
    assert sorted(file for outcome in outcomes for file in outcome.applied) == sorted(TENANT_FILES)
    assert rows(database, "select count(*) from schema_migrations") == [(len(TENANT_FILES),)]


async def test_an_applied_file_that_was_changed_is_refused_by_name(database: str, folder: Path) -> None:
    await migrate_database(database, Which.TENANT, folder=folder)
    with (folder / "tenant/0002_scada_connections.sql").open("a") as file:
        file.write("-- changed\n")
    (folder / "tenant/9999_next.sql").write_text("create table next ()")
    with pytest.raises(MigrationError, match=r"tenant/0002_scada_connections\.sql was changed"):
        await migrate_database(database, Which.TENANT, folder=folder)
    assert rows(database, "select to_regclass('next')") == [(None,)]


async def test_line_ends_of_another_system_are_not_a_change(database: str, folder: Path) -> None:
    await migrate_database(database, Which.TENANT)
    for file in (folder / "tenant").glob("*.sql"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert (await migrate_database(database, Which.TENANT, folder=folder)).applied == ()


async def test_a_database_of_a_newer_engine_is_refused(database: str, folder: Path) -> None:
    (folder / "tenant/9999_from_the_future.sql").write_text("create table future ()")
    await migrate_database(database, Which.TENANT, folder=folder)
    with pytest.raises(DatabaseTooNew, match="9999_from_the_future"):
        await migrate_database(database, Which.TENANT)


async def test_a_failing_migration_is_undone_and_the_ones_before_it_stay(database: str, folder: Path) -> None:
    (folder / "tenant/9999_broken.sql").write_text("create table half ();\n\nselec 1;\n")
    with pytest.raises(MigrationError, match=r"tenant/9999_broken.sql: .*\(line 3\)"):
        await migrate_database(database, Which.TENANT, folder=folder)
    assert rows(database, "select count(*) from schema_migrations") == [(len(TENANT_FILES),)]
    assert rows(database, "select to_regclass('half')") == [(None,)]
    (folder / "tenant/9999_broken.sql").write_text("create table half ();\n")
    again = await migrate_database(database, Which.TENANT, folder=folder)
    assert again.applied == ("tenant/9999_broken.sql",)


@pytest.mark.parametrize("name", ["1_short.sql", "0001-dash.sql", "0005_Upper.sql", "first.sql"])
def test_a_file_with_a_name_that_does_not_fit_is_refused(folder: Path, name: str) -> None:
    (folder / "tenant" / name).write_text("select 1")
    with pytest.raises(MigrationError, match=f"tenant/{name}: a migration is named NNNN_name.sql"):
        load(Which.TENANT, folder)


def test_two_files_with_one_number_are_refused(folder: Path) -> None:
    (folder / "tenant/0002_other.sql").write_text("select 1")
    with pytest.raises(MigrationError, match="number 0002 is also"):
        load(Which.TENANT, folder)


async def test_the_status_shows_applied_pending_changed_and_unknown(database: str, folder: Path) -> None:
    (folder / "tenant/9999_future.sql").write_text("create table future ()")
    await migrate_database(database, Which.TENANT, folder=folder)
    (folder / "tenant/9999_future.sql").unlink()
    (folder / "tenant/0001_wells.sql").write_text("select 1")
    (folder / "tenant/9998_next.sql").write_text("select 1")
    lines = await status(database, Which.TENANT, folder=folder)
    assert [(line.version, line.state) for line in lines] == [
        (1, State.CHANGED),
        *((int(file[7:11]), State.APPLIED) for file in TENANT_FILES[1:]),
        (9998, State.PENDING),
        (9999, State.UNKNOWN),
    ]
    assert lines[1].engine_version == VERSION
    assert lines[1].applied_at is not None
    assert lines[-2].applied_at is None


async def test_the_status_of_an_empty_database_is_all_pending_and_makes_no_ledger(database: str) -> None:
    assert {line.state for line in await status(database, Which.MASTER)} == {State.PENDING}
    assert rows(database, "select to_regclass('schema_migrations')") == [(None,)]


async def test_a_failing_tenant_is_reported_and_the_others_are_migrated(
    any_server: Server, new_database: Callable[[str], str], database: str
) -> None:
    good = [Target(f"good{i}", new_database(any_server.dsn), Which.TENANT) for i in range(3)]
    odd = new_database(any_server.dsn)
    with psycopg.connect(odd) as connection:
        connection.execute("create table wells ()")
    missing = Target("missing", any_server.dsn.rpartition("/")[0] + "/nowhere", Which.TENANT)
    seen: list[Progress] = []

    async def tenants() -> list[Target]:
        return [good[0], missing, good[1], Target("odd", odd, Which.TENANT), good[2]]

    outcomes = await migrate_all(database, tenants, parallel=2, progress=seen.append)
    assert [outcome.label for outcome in outcomes] == ["master", "good0", "missing", "good1", "odd", "good2"]
    assert {o.label: o.applied for o in outcomes if o.error is None} == {
        "master": MASTER_FILES,
        "good0": TENANT_FILES,
        "good1": TENANT_FILES,
        "good2": TENANT_FILES,
    }
    assert isinstance(outcomes[2].error, DatabaseUnavailable)
    assert isinstance(outcomes[4].error, MigrationError)
    assert "tenant/0001_wells.sql" in str(outcomes[4].error)
    of_good = [(p.done, p.total, p.current) for p in seen if p.label == "good0"]
    assert of_good == [
        *((done, len(TENANT_FILES), file) for done, file in enumerate(TENANT_FILES)),
        (len(TENANT_FILES), len(TENANT_FILES), None),
    ]


async def test_after_a_failing_master_no_tenant_is_touched(any_server: Server) -> None:
    async def tenants() -> list[Target]:
        raise AssertionError("asked for tenants")

    outcomes = await migrate_all(any_server.dsn.rpartition("/")[0] + "/nowhere", tenants)
    assert [(outcome.label, type(outcome.error)) for outcome in outcomes] == [("master", DatabaseUnavailable)]


async def test_a_dry_run_on_an_empty_master_needs_no_table_of_tenants(database: str) -> None:
    async def tenants() -> list[Target]:
        raise DatabaseNotMigrated("no table tenants")

    outcomes = await migrate_all(database, tenants, dry_run=True)
    assert [(outcome.label, outcome.applied) for outcome in outcomes] == [("master", MASTER_FILES)]


async def test_a_user_who_may_not_create_the_extension_gets_a_plain_table_and_a_warning(
    timescale_dsn: str, new_database: Callable[[str], str]
) -> None:
    database = new_database(timescale_dsn)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create role modest nosuperuser")
        connection.execute("grant all on schema public to modest")
    try:
        outcome = await migrate_database(f"{database}?options=-crole%3Dmodest", Which.TENANT)
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("drop owned by modest")
            connection.execute("drop role modest")
    assert outcome.applied == TENANT_FILES
    assert [warning for warning in outcome.warnings if "modest may not create the extension" in warning]


async def test_a_database_whose_timescaledb_is_not_on_the_server_says_how_to_update(
    timescale_dsn: str, new_database: Callable[[str], str]
) -> None:
    database = new_database(timescale_dsn)
    with psycopg.connect(database) as connection:
        connection.execute("create extension if not exists timescaledb")
    with psycopg.connect(database, options="-c timescaledb.disable_load=on") as connection:
        # What an upgrade of the server's package leaves behind in its databases.
        connection.execute("update pg_extension set extversion = '2.0.0' where extname = 'timescaledb'")
    with pytest.raises(MigrationError, match="alter extension timescaledb update"):
        await migrate_database(database, Which.TENANT)
