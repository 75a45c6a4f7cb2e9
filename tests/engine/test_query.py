"""The read side on real servers, against a list of rows kept by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest

from engine import catalog
from engine.database import connect
from engine.database_pool import DatabasePool
from engine.errors import DatabaseNotMigrated, DatabaseUnavailable, InvalidInput, NotFound
from engine.query import Cursor, Readings
from engine.query.readings import _BEGIN, _page
from engine.readings import Batch, Kind
from engine.settings import Settings
from tests.engine.commits import put_readings
from tests.servers.databases import MasterAndTenant, Server

BASE_US = 1_780_000_000_000_000
DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
Database = psycopg.AsyncConnection[Any]
Put = Callable[[Batch], None]
Row = tuple[int, int, int, float | None, str | None]


@pytest.fixture
def readings(databases: MasterAndTenant, pool: DatabasePool) -> Readings:
    return Readings(pool.database(databases.tenant_dsn, "test query"), Settings())


@pytest.fixture
def put(databases: MasterAndTenant) -> Put:
    """A function that puts a batch into the readings of `acme`."""
    return partial(put_readings, databases.tenant_dsn)


@pytest.fixture
async def wells(database: Database, tenant_id: UUID) -> dict[str, UUID]:
    """The seed's two wells: tags 1 to 5 belong to Permian, 6 to 10 to Delaware."""
    await catalog.seed(database, tenant_id, "opc.tcp://127.0.0.1:4840")
    await database.commit()
    return {well.name.split()[0]: well.id for well in await catalog.list_wells(database)}


def batch_of(rows: list[Row]) -> Batch:
    return Batch(
        ts_us=np.array([row[0] for row in rows], np.int64),
        tag_id=np.array([row[1] for row in rows], np.int32),
        status=np.array([row[2] for row in rows], np.uint32),
        value=np.array([row[3] or 0.0 for row in rows], np.float64),
        kind=np.array(
            [Kind.NUMBER * (row[3] is not None) | Kind.TEXT * (row[4] is not None) for row in rows], np.uint8
        ),
        texts={place: row[4] for place, row in enumerate(rows) if row[4] is not None},
    )


def rows_of(batch: Batch) -> list[Row]:
    return [
        (
            int(batch.ts_us[row]),
            int(batch.tag_id[row]),
            int(batch.status[row]),
            float(batch.value[row]) if batch.kind[row] & Kind.NUMBER else None,
            batch.texts.get(row),
        )
        for row in range(len(batch))
    ]


def in_order(rows: list[Row]) -> list[Row]:
    """As the engine orders them; a null is last."""
    return sorted(
        rows,
        key=lambda row: (
            *row[:2],
            (row[2] + 2**31) % 2**32,
            (row[3] is None, row[3] or 0),
            (row[4] is None, row[4] or ""),
        ),
    )


def random_rows(seed: int, count: int, *, times: int, step_us: int) -> list[Row]:
    """Rows with many equal times and tags, and many that are equal in all columns."""
    random = np.random.default_rng(seed)
    return [
        (
            BASE_US + int(random.integers(times)) * step_us,
            int(random.integers(1, 11)),
            int(random.choice([0, 0x40000000, 0x80340000])),
            [None, 1.0, 2.5][random.integers(3)],
            [None, None, "open", "closed"][random.integers(4)],
        )
        for _ in range(count)
    ]


async def all_pages(readings: Readings, limit: int, **selection: Any) -> list[Row]:
    rows: list[Row] = []
    after: Cursor | None = None
    while True:
        batch = await readings.range(limit=limit, after=after, **selection)
        rows += rows_of(batch)
        if len(batch) < limit:
            return rows
        after = Cursor.from_token(Cursor.after(batch, after).token())


async def streamed(readings: Readings, rows_per_batch: int, **selection: Any) -> list[Row]:
    rows: list[Row] = []
    async for batch in readings.stream(rows_per_batch=rows_per_batch, **selection):
        assert 1 <= len(batch) <= rows_per_batch
        rows += rows_of(batch)
    return rows


# Ranges, pages and streams


@pytest.mark.parametrize("limit", [1, 7, 500, 100_000])
async def test_pages_give_every_row_once_and_in_order_even_among_duplicates(
    readings: Readings, put: Put, wells: dict[str, UUID], limit: int
) -> None:
    rows = random_rows(limit, {1: 60, 7: 400}.get(limit, 2_000), times=20, step_us=HOUR_US * 7)
    put(batch_of(rows))
    window: dict[str, Any] = {"from_us": BASE_US, "to_us": BASE_US + 20 * HOUR_US * 7}
    assert await all_pages(readings, limit, **window) == in_order(rows)
    five = [row for row in rows if row[1] <= 5]
    assert await all_pages(readings, limit, well_id=wells["Permian"], **window) == in_order(five)
    two = [row for row in rows if row[1] in {3, 9}]
    assert await all_pages(readings, limit, tag_ids=[9, 3], **window) == in_order(two)


@pytest.mark.parametrize(
    ("rows_per_batch", "step_us"), [(1, HOUR_US), (64, 1), (64, DAY_US * 3), (10_000, HOUR_US)]
)
async def test_a_stream_gives_every_row_once_and_in_order_however_thick_or_thin(
    readings: Readings, put: Put, wells: dict[str, UUID], rows_per_batch: int, step_us: int
) -> None:
    rows = random_rows(step_us % 97, 80 if rows_per_batch == 1 else 3_000, times=50, step_us=step_us)
    put(batch_of(rows))
    window: dict[str, Any] = {"from_us": BASE_US - DAY_US * 100, "to_us": BASE_US + DAY_US * 200}
    assert await streamed(readings, rows_per_batch, **window) == in_order(rows)


async def test_a_page_of_very_many_tags_goes_slice_by_slice_and_is_the_same(
    readings: Readings, put: Put, wells: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(5, 2_000, times=300, step_us=HOUR_US // 3)
    put(batch_of(rows))
    monkeypatch.setattr("engine.query.readings._MOST_ENTRIES_AT_ONCE", 10)
    window: dict[str, Any] = {"from_us": BASE_US - DAY_US * 30, "to_us": BASE_US + DAY_US * 30}
    assert await all_pages(readings, 700, **window) == in_order(rows)


async def test_a_range_includes_its_start_and_not_its_end(
    readings: Readings, put: Put, wells: dict[str, UUID]
) -> None:
    rows: list[Row] = [(BASE_US + place, 1, 0, 1.0, None) for place in range(4)]
    put(batch_of(rows))
    found = await readings.range(from_us=BASE_US + 1, to_us=BASE_US + 3, limit=10)
    assert rows_of(found) == rows[1:3]


async def test_a_page_goes_on_where_the_last_one_ended_although_rows_came_in_before_it(
    readings: Readings, put: Put, wells: dict[str, UUID]
) -> None:
    rows: list[Row] = [(BASE_US + place * 10, 1, 0, float(place), None) for place in range(10)]
    put(batch_of(rows))
    window: dict[str, Any] = {"from_us": BASE_US, "to_us": BASE_US + 1_000, "tag_ids": [1]}
    first = await readings.range(limit=5, **window)
    put(batch_of([(BASE_US + 5, 1, 0, 99.0, None), (BASE_US + 95, 1, 0, 100.0, None)]))
    second = await readings.range(limit=100, after=Cursor.after(first), **window)
    assert rows_of(second) == [*rows[5:], (BASE_US + 95, 1, 0, 100.0, None)]


async def test_an_empty_selection_or_range_gives_an_empty_batch(
    readings: Readings, database: Database, tenant_id: UUID
) -> None:
    well = await catalog.add_well(database, tenant_id, "dry")
    await database.commit()
    window: dict[str, Any] = {"from_us": BASE_US, "to_us": BASE_US + 1}
    assert len(await readings.range(limit=5, **window)) == 0
    assert len(await readings.range(limit=5, well_id=well.id, **window)) == 0
    assert await streamed(readings, 5, **window) == []
    assert await readings.latest() == []


async def test_readings_of_the_first_and_the_last_storable_times_are_found(
    readings: Readings, put: Put, wells: dict[str, UUID], databases: MasterAndTenant
) -> None:
    years = {
        "1601": -11_644_473_600_000_000,
        "9999": 253_402_300_799_999_999,
        "12000": 316_516_032_000_000_000,
    }
    for ts_us in years.values():
        put(batch_of([(ts_us, 1, 0, 1.0, None)]))
    for ts_us in years.values():
        found = await readings.range(from_us=ts_us, to_us=ts_us + 1, limit=5)
        assert found.ts_us.tolist() == [ts_us]
    (latest,) = await readings.latest(tag_ids=[1])
    assert latest.ts_us == years["12000"]


async def test_history_of_deleted_tags_stays_readable(
    readings: Readings, put: Put, database: Database, wells: dict[str, UUID]
) -> None:
    rows: list[Row] = [(BASE_US, 1, 0, 1.0, None), (BASE_US, 2, 0, 2.0, None)]
    put(batch_of(rows))
    await catalog.delete_tag(database, 1)
    await database.commit()
    found = await readings.range(from_us=BASE_US, to_us=BASE_US + 1, limit=5, well_id=wells["Permian"])
    assert rows_of(found) == rows
    assert [latest.tag.tag_id for latest in await readings.latest()] == [1, 2]


# Latest values and names


async def test_latest_gives_the_newest_reading_of_each_tag_with_its_names(
    readings: Readings, put: Put, wells: dict[str, UUID]
) -> None:
    put(
        batch_of(
            [
                (BASE_US + 5 * DAY_US, 1, 0x80340000, None, None),
                (BASE_US, 1, 0, 1.0, None),
                (BASE_US, 7, 0, 2.5, "2.5!"),
                (BASE_US - 1, 7, 0, 9.9, None),
            ]
        )
    )
    one, seven = await readings.latest()
    assert (one.tag.tag_id, one.ts_us, one.status, one.value, one.text_value) == (
        1,
        BASE_US + 5 * DAY_US,
        0x80340000,
        None,
        None,
    )
    assert (seven.ts_us, seven.value, seven.text_value) == (BASE_US, 2.5, "2.5!")
    assert (seven.tag.tag_name, seven.tag.opc_node_id, seven.tag.unit, seven.tag.well_id) == (
        "TUBING_PRESSURE",
        "ns=2;s=Delaware.TUBING_PRESSURE",
        "PSI",
        wells["Delaware"],
    )
    assert await readings.latest(well_id=wells["Permian"]) == [one]
    assert await readings.latest(tag_ids=[7]) == [seven]
    assert await readings.latest(tag_ids=[8]) == []


# What is refused


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to_us": BASE_US}, "from"),
        ({"to_us": BASE_US - 1}, "from"),
        ({"to_us": BASE_US + 367 * DAY_US}, "to"),
        ({"from_us": -(2**63)}, "from"),
        ({"to_us": 2**63}, "to"),
        ({"to_us": 2**200}, "to"),
        ({"limit": 0}, "limit"),
        ({"limit": 100_001}, "limit"),
        ({"tag_ids": []}, "tag_ids"),
        ({"tag_ids": [0]}, "tag_ids"),
        ({"tag_ids": [2**31]}, "tag_ids"),
        ({"tag_ids": [1] * 10_001}, "tag_ids"),
        ({"tag_ids": [1, 99]}, "tag_ids"),
        ({"well_id": UUID(int=9)}, "well_id"),
        ({"after": Cursor(BASE_US - 1, 1, 1)}, "page_token"),
    ],
)
async def test_a_request_that_does_not_fit_names_its_field(
    readings: Readings, wells: dict[str, UUID], changes: dict[str, Any], field: str
) -> None:
    request: dict[str, Any] = {"from_us": BASE_US, "to_us": BASE_US + DAY_US, "limit": 10} | changes
    with pytest.raises(InvalidInput) as raised:
        await readings.range(**request)
    assert raised.value.field == field


async def test_a_stream_refuses_before_its_first_batch(readings: Readings, wells: dict[str, UUID]) -> None:
    with pytest.raises(InvalidInput, match=r"2026-05-28T20:26:40\.000000Z is not before `to`"):
        await anext(readings.stream(from_us=BASE_US, to_us=BASE_US))
    with pytest.raises(NotFound, match="there is no well"):
        await anext(readings.stream(from_us=BASE_US, to_us=BASE_US + 1, well_id=uuid4()))


async def test_a_tag_of_another_well_is_not_found(readings: Readings, wells: dict[str, UUID]) -> None:
    with pytest.raises(NotFound, match="tag_ids: there is no tag 6 of well"):
        await readings.latest(tag_ids=[1, 6], well_id=wells["Permian"])


async def test_a_database_that_is_not_migrated_or_not_there_says_so(
    any_server: Server, new_database: Any, pool: DatabasePool
) -> None:
    with pytest.raises(DatabaseNotMigrated):
        await Readings(pool.database(new_database(any_server.dsn), "test query"), Settings()).latest()
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        await Readings(pool.database("postgresql://127.0.0.1:1/x", "test query"), Settings()).latest()


# How it is done


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("after", [None, Cursor(BASE_US + DAY_US, 4, 3)])
async def test_a_range_by_tag_reads_the_index_in_its_order_and_nothing_else(
    database: Database, put: Put, wells: dict[str, UUID], after: Cursor | None, analyzed: bool
) -> None:
    """20 000 rows of 10 tags over 10 days; also when the planner knows nothing of the newest chunk yet."""
    places = np.arange(20_000)
    put(
        Batch(
            ts_us=(BASE_US + (places // 10) * 432_000_000).astype(np.int64),
            tag_id=(places % 10 + 1).astype(np.int32),
            status=np.zeros(len(places), np.uint32),
            value=places.astype(np.float64),
            kind=np.full(len(places), Kind.NUMBER, np.uint8),
        )
    )
    if analyzed:
        await database.execute("analyze readings")
    await database.commit()
    await database.execute(_BEGIN)
    query = _page([4], BASE_US + DAY_US, BASE_US + 3 * DAY_US, 100, after).as_string(database)
    select = query[query.index("(") + 1 : query.rindex(") to stdout")]
    lines = [row[0] for row in await (await database.execute(f"explain {select}")).fetchall()]
    plan = "\n".join(lines)
    assert "readings_tag_ts" in plan
    assert "Seq Scan" not in plan
    assert "Bitmap" not in plan
    # The one sort that merges the tags.
    assert (
        plan.count("Sort Key: readings.ts, readings.tag_id")
        == plan.count("Sort") - plan.count("Sort Key")
        == 1
    )
    conditions = [line for line in lines if "Index Cond" in line]
    assert all("tag_id = wanted.id" in line and "ts >=" in line and "ts <" in line for line in conditions)


async def test_queries_share_a_few_connections_and_leave_none_behind(
    pool: DatabasePool, wells: dict[str, UUID], databases: MasterAndTenant
) -> None:
    database = pool.database(databases.tenant_dsn, "test query")
    readings = Readings(database, Settings())
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(readings.latest())
    query = "select from pg_stat_activity where application_name = 'test query'"
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        assert 1 <= (await server.execute(query)).rowcount <= 4
        await database.close()
        async with asyncio.timeout(10):
            while (await server.execute(query)).rowcount:  # noqa: ASYNC110  (another process decides)
                await asyncio.sleep(0.01)


async def test_idle_connections_are_closed_after_a_while(
    wells: dict[str, UUID], databases: MasterAndTenant
) -> None:
    pool = DatabasePool(8, retry_most_s=0.0, idle_s=0.05)
    readings = Readings(pool.database(databases.tenant_dsn, "test idle"), Settings())
    await readings.latest()
    query = "select from pg_stat_activity where application_name = 'test idle'"
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        async with asyncio.timeout(10):
            while (await server.execute(query)).rowcount:  # noqa: ASYNC110  (another process decides)
                await asyncio.sleep(0.01)
    assert await readings.latest() == []
    await pool.close()


async def test_a_connection_that_the_server_ended_is_not_used_again(
    readings: Readings, wells: dict[str, UUID], databases: MasterAndTenant
) -> None:
    await readings.latest()
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        ended = await server.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'test query'"
        )
        assert ended.rowcount == 1
    assert await readings.latest() == []


async def test_a_query_that_takes_too_long_is_cancelled_and_the_next_one_works(
    readings: Readings, database: Database, wells: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    await readings.latest()
    await database.execute("lock table readings in access exclusive mode")
    monkeypatch.setattr("engine.query.readings._QUERY_TIMEOUT_S", 0.2)
    with pytest.raises(DatabaseUnavailable, match=r"no answer to a query in 0\.2 seconds"):
        await readings.latest(tag_ids=[1])
    await database.rollback()
    monkeypatch.setattr("engine.query.readings._QUERY_TIMEOUT_S", 10)
    assert await readings.latest() == []


async def test_more_queries_than_connections_wait_their_turn_but_not_for_ever(
    readings: Readings, database: Database, wells: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings._connections, "_wait_s", 0.05)
    await database.execute("lock table tag_mappings in access exclusive mode")
    waiting = [asyncio.create_task(readings.latest()) for _ in range(5)]
    with pytest.raises(DatabaseUnavailable, match="all 4 connections for queries were busy"):
        await asyncio.gather(*waiting)
    await database.rollback()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results.count([]) == 4


async def test_a_stream_that_nobody_reads_on_holds_no_connection(
    readings: Readings, put: Put, wells: dict[str, UUID]
) -> None:
    put(batch_of([(BASE_US + place, 1, 0, 1.0, None) for place in range(100)]))
    streams = [readings.stream(from_us=BASE_US, to_us=BASE_US + 100, rows_per_batch=1) for _ in range(10)]
    for stream in streams:
        await anext(stream)
    assert len(await readings.latest()) == 1
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("token", ["", "x", "AAAA", "?" * 22, "A" * 22, "Z" * 5_000, "é"])
def test_a_page_token_of_somebody_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="page_token") as raised:
        Cursor.from_token(token)
    assert len(str(raised.value)) < 200
