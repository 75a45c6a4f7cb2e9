"""What databases do to an engine: away, cut off, full, read-only, locked, behind; in the end everything is there once.

Rows 18 to 30 of the catalogue in docs/faults.md.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.end_to_end.engine_process import until
from tests.end_to_end.loaded_engine import LoadedEngine, kill_at_random, loaded_engine
from tests.end_to_end.tenant_database import (
    ENGINE,
    change,
    keep,
    lose,
    on_server,
    ordinary_user,
    throw_out,
)
from tests.servers.crashing_postgres import crashing_postgres
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant
from tests.servers.pgbouncer import pgbouncer
from tests.servers.small_tablespace import small_tablespace

# Of what waits for the database, so much is in the committer's memory: an outage soon has more.
SMALL_MEMORY = {"SCADA_RING_ROWS": "1024", "MAX_BUFFER_SIZE": "500"}


def _failed(loaded: LoadedEngine, times: int = 1) -> None:
    """Wait until writes have failed so many more times."""
    before = loaded.metric("scada_db_write_failures_total")
    until("writes fail", lambda: loaded.metric("scada_db_write_failures_total") >= before + times)


def test_an_outage_that_is_larger_than_the_memory_is_stored_in_full(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(
        databases, tmp_path, variables=200, interval_ms=20.0, environment=SMALL_MEMORY
    ) as loaded:
        loaded.database.refuse()
        loaded.receives(20_000)
        assert loaded.metric("scada_database_up") == 0
        assert loaded.metric("scada_backlog_readings") > 0
        loaded.database.accept()
        until("the backlog is stored", lambda: loaded.metric("scada_backlog_readings") < 4_000)
        assert loaded.metric("scada_database_up") == 1
        loaded.finish()


def test_a_worker_killed_in_an_outage_leaves_what_it_had_to_the_next_one(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path, variables=100, environment=SMALL_MEMORY) as loaded:
        loaded.database.refuse()
        loaded.receives(3_000)
        kill_at_random(loaded, 2, seed=1, most_s=0.5)
        loaded.database.accept()
        loaded.goes_on()
        until("the backlog is replayed", lambda: loaded.metric("scada_readings_replayed_total") > 0)
        loaded.finish()


def test_connections_that_break_in_copy_and_in_commit_store_nothing_twice(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path) as loaded:
        for words, answered in ((b"PGCOPY\n", False), (b"; commit", False), (b"; commit", True)):
            loaded.database.cut_at(words, answered=answered)
            until(f"the connection is cut at {words!r}", lambda: loaded.database.has_cut)
            loaded.goes_on()
        loaded.finish()


def test_a_database_that_stops_answering_is_given_up_and_comes_back(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        loaded.database.pause()
        loaded.receives(300)
        loaded.database.cut()
        loaded.database.resume()
        loaded.goes_on()
        loaded.finish()


# Every commit moves a mark. A sequence counts also what is rolled back, so that it ends by itself.
_FAILING = """
drop sequence if exists failed cascade;
create sequence failed;
create or replace function fail() returns trigger language plpgsql as $$ begin
    if nextval('failed') <= {times} then raise exception 'as a test wants it' using errcode = '{state}'; end if;
    return new;
end $$;
create or replace trigger fail before update on ingest_marks for each row execute function fail();
"""
# Serialization, statement timeout, lock timeout, disk full, out of memory, and one that nobody foresaw.
_STATES = ("40001", "57014", "55P03", "53100", "53200", "XX000")


def test_failures_of_every_kind_are_tried_again_until_they_are_over(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        for state in _STATES:
            change(plain_databases, _FAILING.format(state=state, times=2))
            _failed(loaded, 2)
            loaded.goes_on()
        loaded.finish()


def test_a_database_on_a_full_disk_is_tried_again_until_there_is_room(
    timescale_dsn: str, tmp_path: Path
) -> None:
    with (
        small_tablespace(timescale_dsn, megabytes=96) as disk,
        migrated_master_and_tenant(Server("timescale", timescale_dsn), tablespace=disk.name) as databases,
        loaded_engine(databases, tmp_path, variables=100, interval_ms=20.0) as loaded,
    ):
        disk.fill()
        _failed(loaded, 2)
        assert loaded.metric("scada_database_up") == 0
        assert loaded.metric("scada_stream_held") == 0
        loaded.receives()
        disk.free()
        loaded.goes_on()
        loaded.finish()


def test_a_read_only_database_is_left_for_the_primary(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        on_server(plain_databases, "alter database {database} set default_transaction_read_only = on")
        throw_out(plain_databases)
        _failed(loaded)
        loaded.receives()
        # Connections that were made meanwhile are read-only for as long as they live.
        on_server(plain_databases, "alter database {database} reset default_transaction_read_only")
        loaded.goes_on()
        loaded.finish()


def test_commits_that_a_failover_lost_are_stored_again(databases: MasterAndTenant, tmp_path: Path) -> None:
    with loaded_engine(databases, tmp_path) as loaded:
        keep(databases)
        loaded.goes_on(200)
        loaded.database.refuse()
        loaded.receives()
        assert lose(databases) > 100
        loaded.database.accept()
        loaded.goes_on(200)
        until("they are replayed", lambda: loaded.metric("scada_readings_replayed_total") > 100)
        loaded.finish()


def test_commits_that_a_failover_lost_while_the_engine_was_down_are_stored_again(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path) as loaded:
        keep(databases)
        loaded.goes_on(200)
        loaded.database.refuse()
        loaded.kill_worker()
        assert lose(databases) > 100
        loaded.database.accept()
        loaded.goes_on(200)
        loaded.finish()


def test_a_server_with_too_few_connections_is_used_with_fewer(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    user = f"engine_{secrets.token_hex(4)}"
    with (
        ordinary_user(plain_databases, user, "secret") as databases,
        loaded_engine(databases, tmp_path) as loaded,
    ):
        # One of them for gRPC and one for REST.
        on_server(plain_databases, "alter role {user} connection limit 3", user=user)
        throw_out(plain_databases)
        loaded.goes_on(200)
        loaded.finish()


def test_a_rotated_password_is_read_again(plain_databases: MasterAndTenant, tmp_path: Path) -> None:
    user = f"engine_{secrets.token_hex(4)}"
    file = tmp_path / "database-url"
    with ordinary_user(plain_databases, user, "first") as databases:
        file.write_text(databases.master_dsn, "utf-8")
        with loaded_engine(databases, tmp_path, environment={"DATABASE_URL_FILE": str(file)}) as loaded:
            on_server(plain_databases, "alter role {user} password 'second'", user=user)
            throw_out(plain_databases)
            _failed(loaded)
            file.write_text(databases.master_dsn.replace("first", "second"), "utf-8")
            loaded.goes_on()
            loaded.finish()


def test_a_pooler_in_transaction_mode_may_stand_between(databases: MasterAndTenant, tmp_path: Path) -> None:
    with pgbouncer(databases.master_dsn) as pooled:
        between = MasterAndTenant(databases.server, pooled, databases.tenant_dsn, databases.slug)
        with loaded_engine(between, tmp_path, variables=50) as loaded:
            loaded.goes_on(1_000)
            throw_out(databases)
            kill_at_random(loaded, 1, seed=2, most_s=0.2)
            loaded.goes_on(500)
            loaded.finish()


def test_a_table_that_is_changed_underneath_holds_its_tenant_until_it_is_mended(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        change(plain_databases, "alter table readings rename column status to another")
        until("the stream is held", lambda: loaded.metric("scada_stream_held") == 1)
        loaded.receives()
        change(plain_databases, "alter table readings rename column another to status")
        until("the stream goes on", lambda: loaded.metric("scada_stream_held") == 0)
        loaded.goes_on()
        loaded.finish()


def test_a_server_that_is_killed_under_load_has_everything_once_it_is_back(tmp_path: Path) -> None:
    with (
        crashing_postgres() as server,
        migrated_master_and_tenant(Server("embedded", server.dsn)) as databases,
        loaded_engine(databases, tmp_path, variables=50) as loaded,
    ):
        server.kill()
        loaded.receives()
        server.start()
        loaded.goes_on()
        until("a process of the server's is killed", lambda: server.kill_backend_of(ENGINE))
        server.wait_ready()
        loaded.goes_on()
        loaded.finish()
