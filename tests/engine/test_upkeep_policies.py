"""Retention and compression on real servers: what is too old goes, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import CheckViolation

from engine import catalog
from engine.database import connect
from engine.errors import InvalidInput
from engine.upkeep import (
    Policies,
    Refresher,
    Retention,
    change_policies,
    compress_chunk,
    list_tables,
    next_chunk,
    read_figures,
    read_policies,
    rollup_lag_s,
)
from engine.upkeep import retention as retention_module
from tests.engine.rollup_oracle import shown
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant

Database = psycopg.AsyncConnection[Any]
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
AT_ONCE = Policies(compress_after=timedelta(0))


@pytest.fixture
def own_databases(any_server: Server) -> Iterator[MasterAndTenant]:
    with migrated_master_and_tenant(any_server) as made:
        yield made


@pytest.fixture
async def acme(own_databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A tenant with a reading of tag 1 at noon of each of 20 days from the first of March 2026 on."""
    async with await connect(own_databases.tenant_dsn, application="test", autocommit=True) as connection:
        await catalog.seed(connection, UUID(int=1), "opc.tcp://127.0.0.1:4840")
        for day in range(20):
            await write(connection, MIDNIGHT + day * DAY + timedelta(hours=12))
        yield connection


async def write(database: Database, ts: datetime, tag_id: int = 1) -> None:
    async with database.transaction():
        await database.execute("insert into readings values (%s, %s, 0, 1)", [ts, tag_id])
        await database.execute("select note_changed_readings(%s, %s)", [ts, ts])


async def refresh_all(database: Database) -> None:
    working = Refresher(now_s=(MIDNIGHT + 100 * DAY).timestamp)
    while (await working.refresh_piece(database)).more:
        pass


async def drop(database: Database, now: datetime, retention: Retention | None = None) -> dict[str, int]:
    """Apply the policies in force; return how many rows went from each table."""
    dropped: dict[str, int] = {}
    working = retention or Retention(now=lambda: now)
    async for table, rows in working.steps(
        database, await read_policies(database), await list_tables(database)
    ):
        dropped[table] = dropped.get(table, 0) + rows
    return dropped


async def days_of(database: Database, table: str, time: str = "bucket") -> set[int]:
    rows = await (await database.execute(f"select distinct {time} from {table}".encode())).fetchall()
    return {(ts - MIDNIGHT).days for (ts,) in rows}


async def test_nothing_is_ever_dropped_unless_somebody_says_so(acme: Database) -> None:
    await refresh_all(acme)
    assert await read_policies(acme) == Policies()
    assert await drop(acme, MIDNIGHT + 1_000 * DAY) == {}
    assert len(await days_of(acme, "readings", "ts")) == 20


async def test_readings_go_by_whole_days_and_their_rollups_stay(acme: Database) -> None:
    await refresh_all(acme)
    before = await shown(acme, "1d")
    await change_policies(acme, {"keep_readings": 5 * DAY})
    await drop(acme, MIDNIGHT + 15 * DAY + timedelta(hours=23))
    assert await days_of(acme, "readings", "ts") == set(range(10, 20))
    for width in ("1m", "1h", "1d"):
        assert len(await shown(acme, width)) == 20
    assert await shown(acme, "1d") == before


async def test_readings_whose_rollups_are_not_stored_yet_are_kept(acme: Database) -> None:
    await refresh_all(acme)
    await write(acme, MIDNIGHT + 3 * DAY)
    await change_policies(acme, {"keep_readings": 5 * DAY})
    await drop(acme, MIDNIGHT + 15 * DAY)
    assert await days_of(acme, "readings", "ts") == set(range(3, 20))
    await refresh_all(acme)
    await drop(acme, MIDNIGHT + 15 * DAY)
    assert await days_of(acme, "readings", "ts") == set(range(10, 20))
    assert (await read_figures(acme, delay_s=60)).readings_from == MIDNIGHT + 10 * DAY


async def test_rollups_go_only_where_the_readings_are_gone(acme: Database) -> None:
    await refresh_all(acme)
    policies = {"keep_readings": 5 * DAY, "keep_1m": 6 * DAY, "keep_1h": 7 * DAY}
    await change_policies(acme, policies)
    await drop(acme, MIDNIGHT + 20 * DAY)
    minutes = await days_of(acme, "rollups_1m")
    # A hypertable drops whole chunks only, and these are of seven days.
    assert minutes >= set(range(14, 20))
    assert len(minutes) <= 6 + 6
    assert len(await shown(acme, "1d")) == 20
    await write(acme, MIDNIGHT + timedelta(hours=1))
    await refresh_all(acme)
    assert await days_of(acme, "rollups_1m") == minutes


async def test_a_reading_that_is_older_than_what_is_kept_is_stored_then_dropped_and_counted(
    acme: Database,
) -> None:
    await refresh_all(acme)
    await change_policies(acme, {"keep_readings": 5 * DAY})
    await drop(acme, MIDNIGHT + 15 * DAY)
    rolled_up = await shown(acme, "1d")
    for second in range(3):
        await write(acme, MIDNIGHT + 2 * DAY + timedelta(seconds=second))
    assert 2 in await days_of(acme, "stored_readings", "ts")
    assert await shown(acme, "1d") == rolled_up
    await refresh_all(acme)
    assert await drop(acme, MIDNIGHT + 15 * DAY) == {"readings": 3}
    assert 2 not in await days_of(acme, "stored_readings", "ts")
    assert await shown(acme, "1d") == rolled_up


async def test_a_plain_table_is_searched_in_bounded_pieces_once_for_each_boundary(
    acme: Database, own_databases: MasterAndTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_databases.server.kind != "embedded":
        return
    monkeypatch.setattr(retention_module, "BLOCKS", 1)
    await acme.execute(
        "insert into readings select %s + g * interval '1 s', 1, 0, 1 from generate_series(1, 1000) g",
        [MIDNIGHT],
    )
    await refresh_all(acme)
    await change_policies(acme, {"keep_readings": 5 * DAY})
    working = Retention(now=lambda: MIDNIGHT + 15 * DAY)
    dropped = [
        rows async for _, rows in working.steps(acme, await read_policies(acme), await list_tables(acme))
    ]
    assert len(dropped) > 3
    assert sum(dropped) == 1_010
    await acme.execute("insert into readings values (%s, 1, 0, 1)", [MIDNIGHT])
    assert await drop(acme, MIDNIGHT, working) == {}
    assert await drop(acme, MIDNIGHT + 15 * DAY) == {"readings": 1}


async def test_policies_that_do_not_fit_are_refused_by_name(acme: Database) -> None:
    for changes, said in (
        ({"keep_readings": timedelta(hours=36)}, "keep_readings: 36h is not a number of whole days"),
        ({"keep_1m": timedelta(0)}, "keep_1m: 0s is not between 1d and 100000d"),
        ({"keep_1m": DAY}, r"keep_1m: keep_1m \(1d\) would be shorter than keep_readings \(never\)"),
        ({"keep_readings": 9 * DAY, "keep_1m": 8 * DAY}, r"keep_1m: keep_1m \(8d\) would be shorter than"),
    ):
        with pytest.raises(InvalidInput, match=said):
            await change_policies(acme, changes)
    assert await read_policies(acme) == Policies()
    wanted = {"keep_readings": 9 * DAY, "keep_1m": 9 * DAY, "compress_after": None}
    assert await change_policies(acme, wanted) == await read_policies(acme) == Policies(**wanted)
    for wrong in (
        "keep_1h = '8 days'",
        "keep_1d = '1 month'",
        "keep_1d = '36 hours'",
        "compress_after = '-1 s'",
    ):
        with pytest.raises(CheckViolation):
            await acme.execute(f"update storage_policies set {wrong}".encode())


async def test_chunks_are_compressed_where_the_mode_has_it_and_stay_right(acme: Database) -> None:
    await refresh_all(acme)
    before = await shown(acme, "1d")
    for table in await list_tables(acme):
        seen: set[str] = set()
        while (chunk := await next_chunk(acme, table, AT_ONCE, now=MIDNIGHT + 5_000 * DAY)) is not None:
            assert table.compresses
            assert chunk not in seen
            seen.add(chunk)
            await compress_chunk(acme, chunk)
        assert bool(seen) == table.compresses
    # Late readings go into compressed chunks of readings and of rollups.
    await write(acme, MIDNIGHT + timedelta(hours=12, seconds=1))
    await write(acme, MIDNIGHT + timedelta(hours=13))
    await refresh_all(acme)
    for width in ("1m", "1h", "1d"):
        counts = [int(float(row[0])) for row in (await shown(acme, width, "rollups")).values()]
        assert sum(counts) == 22
    assert len(await shown(acme, "1d")) == len(before)
    for table in await list_tables(acme):
        chunk = await next_chunk(acme, table, AT_ONCE, now=MIDNIGHT + 5_000 * DAY)
        assert (chunk is not None) == table.compresses


async def test_figures_say_how_much_there_is_and_how_far_rollups_are(acme: Database) -> None:
    figures = await read_figures(acme, delay_s=60)
    assert figures.pending_minutes == 20
    assert [table.name for table in figures.tables] == ["readings", "rollups_1m", "rollups_1h", "rollups_1d"]
    assert all(table.size_bytes > 0 for table in figures.tables)
    if figures.tables[0].is_hypertable:
        assert figures.tables[0].chunks == 20
    assert 0 <= await rollup_lag_s(acme, delay_s=60) < 600
    await acme.execute("update rollup_changes set noted_at = now() - interval '1 hour'")
    assert 3_600 <= await rollup_lag_s(acme, delay_s=60) < 4_200
    await refresh_all(acme)
    assert await rollup_lag_s(acme, delay_s=60) == 0
    assert (await read_figures(acme, delay_s=60)).pending_minutes == 0
