"""What kills a worker, and a graceful stop: the whole engine, and its database against the server's counters.

Rows 1 to 5, 14 and 17 of the catalogue in docs/faults.md.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.engine_process import running_engine, until
from tests.end_to_end.killed_at import POINTS
from tests.end_to_end.loaded_engine import QUICK, kill_at_random, loaded_engine
from tests.servers.databases import MasterAndTenant

KILLS = 6
# The points that are reached soon and again and again; the others need something more first.
AT_ANY_TIME = ("drained", "written", "synced", "copying", "uncommitted", "committed")


@pytest.mark.parametrize("point", AT_ANY_TIME)
def test_a_worker_killed_at_any_point_of_a_frames_way_loses_nothing_and_stores_nothing_twice(
    point: str, plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path, killed_at=[f"{point}:5"]) as loaded:
        until(f"the worker is killed at {point}", lambda: loaded.was_killed_at(point))
        loaded.goes_on()
        assert loaded.metric("scada_readings_dropped_total", reason="stopped") == 0
        loaded.finish()


def test_workers_killed_while_they_save_a_session_trim_and_recover_lose_nothing(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    # How many segments the next worker has to read is chance; the first one that it reads is certain.
    points = ["trimmed", "recovering:1:trimmed", "remembering"]
    grace = {"SCADA_JOURNAL__GRACE_S": "0"}
    with loaded_engine(
        plain_databases, tmp_path, killed_at=points, variables=400, interval_ms=20.0, environment=grace
    ) as loaded:
        until(
            "a worker has died at each point",
            lambda: all(map(loaded.was_killed_at, ("trimmed", "recovering", "remembering"))),
            timeout_s=60,
        )
        loaded.goes_on()
        loaded.finish()
    assert set(AT_ANY_TIME) | {"trimmed", "recovering", "remembering"} == set(POINTS)


def test_workers_killed_at_random_moments_lose_nothing_and_store_nothing_twice(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path, variables=100) as loaded:
        kill_at_random(loaded, KILLS, seed=4, most_s=0.8)
        loaded.goes_on()
        restarts = loaded.engine.metric("scada_process_restarts_total", process="ingest", index="0")
        assert restarts == KILLS
        loaded.finish()


def test_a_stop_and_a_start_lose_nothing_because_the_server_keeps_the_subscriptions(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(plain_databases, tmp_path) as loaded:
        assert loaded.engine.stop(signal.SIGTERM) == 0, loaded.engine.log.read_text()
        stored = loaded.plant.count()
        with running_engine(plain_databases.master_dsn, tmp_path, workers=1, **QUICK) as again:
            again.wait_ready()
            until("more readings are stored", lambda: loaded.plant.count() > stored + 50)
            resumed = again.metric("scada_resumed_sessions_total", tenant="acme")
            taken_over = again.metric("scada_transferred_subscriptions_total", tenant="acme")
            assert resumed + taken_over > 0
            replace(loaded, engine=again).finish()
