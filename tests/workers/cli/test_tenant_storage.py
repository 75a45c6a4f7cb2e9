"""`tenant storage` as an operator runs it."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest

from engine.errors import InvalidInput
from tests.servers.databases import MasterAndTenant
from workers.cli.tenant_storage import parse_length

from .conftest import Cli


def test_a_tenants_storage_is_shown_and_changed_and_less_is_kept_only_by_who_says_so(
    master_and_tenant: MasterAndTenant, cli: Cli
) -> None:
    master = master_and_tenant.master_dsn
    with psycopg.connect(master_and_tenant.tenant_dsn) as tenant:
        tenant.execute("insert into readings (ts, tag_id, status, value) values ('2026-03-01', 1, 0, 1)")
        tenant.execute("select note_changed_readings('2026-03-01', '2026-03-01')")
        tenant.execute("update rollup_changes set noted_at = now() - interval '1 hour'")
        is_hypertable = tenant.execute(
            "select extname from pg_extension where extname = 'timescaledb'"
        ).rowcount

    shown = cli("tenant", "storage", "acme", "--json", DATABASE_URL=master)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["tenant"] == "acme"
    assert (found["mode"] == "plain") == (not is_hypertable)
    assert (found["pending_minutes"], found["readings_from"]) == (1, None)
    assert 3_600 <= found["rollup_lag_s"] < 4_200
    assert set(found["policies"].values()) == {"never", "6h"}
    assert [(table["name"], table["chunks"]) for table in found["tables"]] == [
        ("readings", is_hypertable),
        ("rollups_1m", 0),
        ("rollups_1h", 0),
        ("rollups_1d", 0),
    ]

    keep = ("tenant", "storage", "acme", "--keep-readings", "400d", "--keep-1m", "never")
    refused = cli(*keep, DATABASE_URL=master)
    assert refused.returncode == 3
    assert "--yes: nobody can be asked here" in refused.stderr
    assert "readings before 20" in refused.stderr
    changed = cli(*keep, "--yes", "--compress-after", "90m", DATABASE_URL=master)
    assert changed.returncode == 0, changed.stderr
    (readings,) = [line.split() for line in changed.stdout.splitlines() if line.startswith("readings  ")]
    assert "400d" in readings
    assert ("nothing is compressed" in changed.stderr) == (found["mode"] != "columnstore")
    longer = cli("tenant", "storage", "acme", "--keep-readings", "never", "--json", DATABASE_URL=master)
    assert json.loads(longer.stdout)["policies"]["compress_after"] == "90m"

    for flag, value, said in (
        ("--keep-1h", "400", "--keep-1h: '400' is not a length of time"),
        ("--keep-1h", "36h", "--keep-1h: 36h is not a number of whole days"),
        ("--keep-1h", "7d", "--keep-1h: keep_1h (7d) would be shorter than keep_1m (never)"),
        ("--compress-after", "999999d", "--compress-after: 999999d is not between 0s and 100000d"),
    ):
        wrong = cli("tenant", "storage", "acme", flag, value, DATABASE_URL=master)
        assert wrong.returncode == 3
        assert said in wrong.stderr
    assert cli("tenant", "storage", "nobody", DATABASE_URL=master).returncode == 3


def test_lengths_of_time_are_read_exactly_or_refused() -> None:
    for text, length in (("90m", timedelta(minutes=90)), ("2w", timedelta(days=14)), ("never", None)):
        assert parse_length("--keep-1m", text) == length
    for text in ("", "-1d", "1.5d", "1 d", "1y", "1d1h", "9999999d", "٣d"):
        with pytest.raises(InvalidInput, match="--keep-1m: "):
            parse_length("--keep-1m", text)
