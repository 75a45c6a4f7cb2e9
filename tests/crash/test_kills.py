"""SIGKILL of the ingest worker, again and again at random moments under load: 0 lost, 0 twice.

make crash ARGS="-k kills"       SCADA_TEST_SEED repeats the moments, SCADA_TEST_KILLS their number (200)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.loaded_engine import kill_at_random, loaded_engine
from tests.servers.databases import MasterAndTenant

KILLS = int(os.environ.get("SCADA_TEST_KILLS") or 200)
VARIABLES, INTERVAL_MS = 400, 20.0
# A worker is back and stores again in about half a second: half of them die before that.
LIFE_MOST_S = 1.2
EVERY = 10
# Small segments and no grace: that they are begun and removed all the time is part of the test.
SETTINGS = {"SCADA_JOURNAL__GRACE_S": "0", "SCADA_OPCUA__PUBLISHING_INTERVAL_MS": "100"}


@pytest.mark.timeout(480)
def test_two_hundred_kills_at_random_moments_lose_nothing_and_store_nothing_twice(
    databases: MasterAndTenant, tmp_path: Path, seed: int, say: Callable[[str], None]
) -> None:
    with loaded_engine(
        databases, tmp_path, variables=VARIABLES, interval_ms=INTERVAL_MS, environment=SETTINGS
    ) as loaded:
        started_s = time.monotonic()

        def tell(kills: int) -> None:
            if kills % EVERY == 0:
                stored = loaded.metric("scada_readings_ingested_total")
                say(f"{kills:4d} of {KILLS} kills, {stored:,.0f} readings stored")

        kill_at_random(loaded, KILLS, seed=seed, most_s=LIFE_MOST_S, say=tell)
        loaded.goes_on(timeout_s=60)
        under_load_s = time.monotonic() - started_s
        replayed = loaded.metric("scada_readings_replayed_total")
        repeated = loaded.metric("scada_readings_dropped_total", reason="repeated")
        resumed = loaded.metric("scada_resumed_sessions_total")
        taken_over = loaded.metric("scada_transferred_subscriptions_total")
        readings = loaded.finish(timeout_s=120)
        say(
            f"{KILLS} kills in {under_load_s:.0f} s, {readings:,} readings ({readings / under_load_s:,.0f} a second):"
            f" 0 lost, 0 twice; {replayed:,.0f} replayed, {repeated:,.0f} told again, {resumed:.0f} sessions resumed,"
            f" {taken_over:.0f} subscriptions taken over"
        )
