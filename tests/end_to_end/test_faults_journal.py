"""What happens to the journal's disk and files; the whole engine, and its database against the server's counters.

Rows 5 to 13, and 15, of the catalogue in docs/faults.md. That what was not synced is gone after a power cut is for the
model of a file system (tests/engine/journal): here the kernel keeps what a killed worker wrote.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.end_to_end.engine_process import Engine, running_engine, until
from tests.end_to_end.loaded_engine import QUICK, TENANT, LoadedEngine, loaded_engine
from tests.end_to_end.oracle import check_whole, hold, tally, wait_stored
from tests.end_to_end.plant import build_plant
from tests.end_to_end.tenant_database import set_connections_allowed
from tests.servers.databases import MasterAndTenant, migrated_master_and_tenant

BALLAST_BYTES = 64 * 1024


def _fill(folder: Path) -> Path:
    """Write a file until its file system is full; return it."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(BALLAST_BYTES))
    return ballast


def test_a_full_disk_stops_publishing_until_there_is_room_again(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path, journal_disk="size=8m") as loaded:
        ballast = _fill(loaded.engine.journal)
        until("the journal takes nothing", lambda: loaded.metric("scada_accepting") == 0)
        assert loaded.engine.get("/readyz")[0] == 200
        ballast.unlink()
        until("the journal takes readings again", lambda: loaded.metric("scada_accepting") == 1)
        loaded.goes_on()
        loaded.finish()


def test_a_disk_that_fails_once_costs_nothing(plain_databases: MasterAndTenant, tmp_path: Path) -> None:
    with loaded_engine(plain_databases, tmp_path, killed_at=["failing_sync:20"]) as loaded:
        until("a sync fails", lambda: loaded.metric("scada_journal_failures_total") > 0)
        loaded.goes_on()
        loaded.finish()


def test_a_slow_disk_delays_acknowledgements_and_loses_nothing(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path, killed_at=["slow_sync:0.5"]) as loaded:
        loaded.goes_on(200)
        loaded.kill_worker()
        loaded.goes_on(200)
        slow = loaded.engine.samples("scada_journal_sync_seconds_sum")
        assert slow[0].value > 0.5
        loaded.finish()


def test_a_tenant_whose_quota_is_full_pauses_alone(plain_databases: MasterAndTenant, tmp_path: Path) -> None:
    small = {"SCADA_JOURNAL__QUOTA_MB": "1", "SCADA_RING_ROWS": "1024", "MAX_BUFFER_SIZE": "500"}
    with ExitStack() as stack:
        other = stack.enter_context(migrated_master_and_tenant(plain_databases.server, "other"))
        name = psycopg.conninfo.conninfo_to_dict(other.tenant_dsn)["dbname"]
        with psycopg.connect(plain_databases.master_dsn) as master:
            master.execute(
                "insert into tenants (slug, name, database_name) values ('other', 'Other', %s)", [name]
            )
        loaded = stack.enter_context(
            loaded_engine(plain_databases, tmp_path, variables=400, interval_ms=50.0, environment=small)
        )
        both = MasterAndTenant(other.server, plain_databases.master_dsn, other.tenant_dsn, "other")
        neighbour = build_plant(both, loaded.server.endpoint, loaded.counters[:5])
        until("the other tenant's readings are stored", lambda: neighbour.count() > 0)
        set_connections_allowed(plain_databases, allowed=False)
        until("the quota is full", lambda: loaded.metric("scada_accepting") == 0, timeout_s=40)
        assert loaded.engine.metric("scada_accepting", tenant="other") == 1
        received, stored = loaded.metric("scada_readings_received_total"), neighbour.count()
        until("the other tenant goes on", lambda: neighbour.count() > stored + 50)
        assert loaded.metric("scada_readings_received_total") - received < 20_000
        set_connections_allowed(plain_databases, allowed=True)
        until("the journal takes readings again", lambda: loaded.metric("scada_accepting") == 1)
        last = hold(loaded.server)
        wait_stored(neighbour, loaded.counters[:5], last)
        loaded.finish()
        check_whole(neighbour, loaded.counters[:5], last)


# What happens to a journal between an engine's end and the next one's start.
Damage = Callable[[Path], None]


def _segments(journal: Path) -> list[Path]:
    return sorted(journal.glob("*.seg"))


def _tear(journal: Path) -> None:
    """Leave half a record at the end, as a power cut does."""
    newest = _segments(journal)[-1]
    with newest.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"SREC" + os.urandom(100))


def _tear_and_scribble(journal: Path) -> None:
    _tear(journal)
    for file in journal.glob("checkpoint*"):
        file.write_bytes(os.urandom(64))


def _flip(journal: Path) -> None:
    """Change one byte in the midst of what the database does not have."""
    newest = _segments(journal)[-1]
    with newest.open("r+b") as file:
        place = newest.stat().st_size * 3 // 4
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x40]))


def _remove(journal: Path) -> None:
    segments = _segments(journal)
    assert len(segments) >= 3, segments
    segments[-2].unlink()


def test_a_torn_tail_and_a_corrupt_checkpoint_cost_nothing(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        _restarted_after(_tear_and_scribble, loaded)


@pytest.mark.parametrize("damage", [_flip, _remove])
def test_what_is_gone_from_the_journal_is_a_gap_and_the_rest_is_stored(
    damage: Damage, plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path, variables=400, interval_ms=20.0) as loaded:
        _restarted_after(damage, loaded, gaps=True)
        causes = loaded.plant.rows("select distinct cause from reading_gaps")
        assert causes == [("journal",)]
        assert sum(held.lost for held in tally(loaded.plant, loaded.counters).values()) > 0
        told = loaded.plant.rows("select reason, detail from reading_quarantine")
        assert [reason for reason, _ in told] == ["journal"]


def _restarted_after(damage: Damage, loaded: LoadedEngine, *, gaps: bool = False) -> None:
    """Kill the engine with a journal that the database lacks, damage it, start again, and compare."""
    loaded.database.refuse()
    loaded.receives(100_000 if damage is _remove else 30_000 if damage is _flip else 500)
    loaded.engine.kill()
    loaded.database.accept()
    damage(loaded.folder / "journal" / TENANT)
    with running_engine(loaded.databases.master_dsn, loaded.folder, workers=1, **QUICK) as again:
        again.wait_ready()
        loaded.goes_on()
        assert again.metric("scada_process_restarts_total", process="ingest", index="0") == 0
        replace(loaded, engine=again).finish(gaps=gaps)


def test_of_two_engines_on_one_stream_the_earlier_one_stops(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    copied = tmp_path / "copy"
    with loaded_engine(plain_databases, tmp_path) as loaded:
        shutil.copytree(tmp_path / "journal", copied / "journal")
        with running_engine(plain_databases.master_dsn, copied, workers=1, **QUICK) as second:
            second.wait_ready()
            until("the earlier one stops", lambda: "taken over" in loaded.engine.log.read_text())
            until("the later one stores", lambda: _ingested(second) > 100)
            at_its_end = _ingested(loaded.engine)
            until("the later one goes on", lambda: _ingested(second) > 500)
            assert _ingested(loaded.engine) == at_its_end
            held = tally(loaded.plant, loaded.counters)
            assert [node_id for node_id, found in held.items() if found.twice] == []
            assert second.stop() == 0
        assert loaded.engine.stop() == 0


def _ingested(engine: Engine) -> float:
    return engine.metric("scada_readings_ingested_total", tenant=TENANT)
