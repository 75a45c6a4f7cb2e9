"""What the refresh and the views of rollups read, by the server's own plans: what is pending, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from engine import catalog
from engine.database import connect
from engine.upkeep import list_tables
from engine.upkeep.refresh import _STORE_1D, _STORE_1H, _STORE_1M
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]
TAGS = 10
DAYS = 30
LATE = "timestamptz '2026-03-20 12:03Z'"
LATE_MINUTE = 29_566_803
# A compressed batch has up to so many rows, and is read as a whole.
BATCH_ROWS = 1_000


@pytest.fixture
async def acme(databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A tenant with a reading of each of ten tags every ten minutes of a month, all rolled up but a late one's minute.

    Everything but the late reading is compressed where the mode has it.
    """
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as database:
        await catalog.seed(database, UUID(int=1), "opc.tcp://127.0.0.1:4840")
        await database.execute(
            "insert into readings select timestamptz '2026-03-01Z' + n * interval '10 minutes', tag, 0, n"
            f" from generate_series(1, {TAGS}) tag, generate_series(0, {DAYS * 144 - 1}) n"
        )
        await database.execute("select note_changed_readings(min(ts), max(ts)) from readings")
        for width in ("1m", "1h", "1d"):
            await database.execute(f"insert into rollups_{width} select * from pending_{width}".encode())
        await database.execute("truncate rollup_changes")
        for table in await list_tables(database):
            if table.compresses:
                await database.execute(
                    f"select compress_chunk(c) from show_chunks('{table.name}') c".encode()
                )
        await database.execute("analyze")
        await database.execute(f"insert into readings values ({LATE}, 1, 0, 1e6)")
        await database.execute(f"select note_changed_readings({LATE}, {LATE})")
        yield database


async def rows_read(database: Database, statement: str) -> int:
    """Run a statement, undo it, and return how many rows it took from tables and indexes, filtered ones included."""
    async with database.transaction(force_rollback=True):
        found = await (
            await database.execute(f"explain (analyze, timing off, format json) {statement}".encode())
        ).fetchone()
    assert found is not None
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(found[0][0]["Plan"])
        if ("Relation Name" in node or "Index Name" in node) and node.get("Relation Name") != "tag_mappings"
    )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def most(database: Database, rows: int, batches: int) -> int:
    """Return how many rows may be read: `rows`, or so many whole batches where they are compressed."""
    compresses = (await list_tables(database))[0].compresses
    return batches * (BATCH_ROWS + 10) if compresses else rows


async def test_a_view_reads_the_range_that_is_asked_for_and_what_is_pending_in_it(acme: Database) -> None:
    asked = "tag_id = 1 and bucket >= timestamptz '2026-03-20Z' and bucket < timestamptz '2026-03-21Z'"
    for width in ("1m", "1h", "1d"):
        query = f"from readings_{width} where {asked}"
        assert await (await acme.execute(f"select max(max) {query}".encode())).fetchone() == (1e6,)
        # A day has 144 minutes with a reading; a tag's month 4 320.
        assert 1 <= await rows_read(acme, f"select * {query}") <= await most(acme, 500, 4)


async def test_a_refresh_reads_the_minutes_that_are_pending_and_their_hour_and_day(acme: Database) -> None:
    for statement, since, minutes, rows, batches in (
        (_STORE_1M, LATE_MINUTE, 1, 1 * TAGS, 2),
        (_STORE_1H, LATE_MINUTE // 60 * 60, 60, 10 * TAGS, 4),
        (_STORE_1D, LATE_MINUTE // 1_440 * 1_440, 1_440, 30 * TAGS, 4),
    ):
        query = statement % {"since": since, "until": since + minutes, "first_tag": 1, "last_tag": TAGS}
        read = await rows_read(acme, query)
        assert 1 <= read <= await most(acme, 3 * rows, batches * TAGS)
