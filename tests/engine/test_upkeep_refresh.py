"""Rollups on real servers: the views are right at any moment, and what is stored is right when nothing is pending."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import CheckViolation

from engine import catalog
from engine.database import connect
from engine.errors import DatabaseError, DatabaseUnavailable
from engine.upkeep import Refresher
from engine.upkeep import refresh as refresh_module
from engine.upkeep.refresh import HOLE_MINUTES, SPANS, chosen_piece
from tests.engine.rollup_oracle import WIDTH_S, expected, shown
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MINUTE = int(NOON.timestamp()) // 60
TAGS = (1, 2, 3)
VALUES = (0.0, 1.5, -2.25, 1e308, -1e308, math.inf, -math.inf, math.nan, None)
STATUSES = (0, 0x2E0000, 0x40000000, -(1 << 31), -1)


@pytest.fixture
async def acme(databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A connection in autocommit mode to a tenant with ten tags and no readings."""
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as connection:
        await catalog.seed(connection, UUID(int=1), "opc.tcp://127.0.0.1:4840")
        yield connection


@pytest.fixture
async def other(databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A second connection."""
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as connection:
        yield connection


async def write(
    database: Database, *times: datetime, tag_id: int = 1, value: float | None = 1.0, status: int = 0
) -> None:
    """Store readings and note their minutes, in one transaction."""
    async with database.transaction():
        for ts in times:
            await database.execute(
                "insert into readings (ts, tag_id, status, value) values (%s, %s, %s, %s)",
                [ts, tag_id, status, value],
            )
            await database.execute("select note_changed_readings(%s, %s)", [ts, ts])


async def assert_right(database: Database) -> None:
    for width in WIDTH_S:
        assert await shown(database, width) == await expected(database, width), width


async def pending(database: Database) -> int:
    """Return how many minutes are noted."""
    found = await (
        await database.execute(
            "select coalesce(sum(upper(r) - lower(r)), 0)::int from rollup_changes, unnest(minutes) r"
        )
    ).fetchone()
    assert found is not None
    return int(found[0])


def refresher(now: datetime = NOON + timedelta(days=30)) -> Refresher:
    return Refresher(delay_s=60.0, now_s=now.timestamp)


async def refresh_all(database: Database, now: datetime = NOON + timedelta(days=30)) -> None:
    working = refresher(now)
    while (await working.refresh_piece(database)).more:
        pass


class Dying:
    """A connection that is cut instead of its n-th statement."""

    def __init__(self, database: Database, statements: int) -> None:
        self._database = database
        self._left = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def execute(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            await self._database.close()
            raise DatabaseUnavailable("cut")
        return await self._database.execute(*arguments)


async def test_readings_are_in_the_views_as_soon_as_they_are_stored(acme: Database) -> None:
    await write(acme, NOON, NOON + timedelta(seconds=59.999999), value=2.0)
    await write(acme, NOON + timedelta(minutes=1), value=5.0)
    day = await shown(acme, "1d")
    assert list(day.values()) == [("3.0", "3.0", "3.0", "9.0", "2.0", "5.0", "2.0", "5.0")]
    await assert_right(acme)
    assert await shown(acme, "1m", "rollups") == {}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_views_are_right_and_so_is_what_is_stored_in_the_end(
    acme: Database, other: Database, databases: MasterAndTenant, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # Tags 1 and 2 in one statement, 3 in the next one.
    monkeypatch.setattr(refresh_module, "TAGS_AT_ONCE", 2)
    chance = random.Random(seed)

    def moment() -> datetime:
        minute = chance.choice((0, 0, 1, 2, 30, 61, 600, 1500)) - chance.choice((0, 0, 60, 1440, 4000))
        return NOON + timedelta(minutes=minute, seconds=chance.choice((0, 0, 10, 59.5)))

    async def store(database: Database) -> None:
        for _ in range(chance.randint(1, 6)):
            await write(
                database,
                moment(),
                tag_id=chance.choice(TAGS),
                value=chance.choice(VALUES),
                status=chance.choice(STATUSES),
            )

    async def delete() -> None:
        async with acme.transaction():
            since = moment()
            until = since + timedelta(minutes=chance.choice((1, 90)))
            await acme.execute("delete from readings where ts between %s and %s", [since, until])
            await acme.execute("select note_changed_readings(%s, %s)", [since, until])

    async def refresh() -> None:
        await refresher(NOON + timedelta(minutes=chance.choice((1, 3, 90, 5000)))).refresh_piece(acme)

    async def refresh_meanwhile() -> None:
        """A commit that is under way while a refresh runs is not lost on the next one."""
        async with other.transaction():
            await store(other)
            await refresh()

    async def two_at_once() -> None:
        done = await asyncio.gather(
            *(refresher().refresh_piece(database) for database in (acme, other)),
            store_elsewhere(),
            return_exceptions=True,
        )
        assert not [
            error
            for error in done
            if isinstance(error, BaseException)
            and not (isinstance(error, DatabaseError) and (error.is_conflict or error.is_timeout))
        ]

    async def store_elsewhere() -> None:
        async with await connect(databases.tenant_dsn, application="test", autocommit=True) as third:
            await store(third)

    async def crash() -> None:
        async with await connect(databases.tenant_dsn, application="test", autocommit=True) as third:
            dying = cast("Database", Dying(third, chance.randint(1, 12)))
            try:
                await refresher().refresh_piece(dying)
            except DatabaseUnavailable:
                assert third.closed

    steps = (
        lambda: store(acme),
        lambda: store(acme),
        delete,
        refresh,
        refresh,
        refresh_meanwhile,
        two_at_once,
        crash,
    )
    for _ in range(20):
        await chance.choice(steps)()
        await assert_right(acme)
    await refresh_all(acme)
    assert await pending(acme) == 0
    for width in WIDTH_S:
        assert await shown(acme, width, "rollups") == await expected(acme, width)


async def test_a_minute_that_is_not_over_stays_pending(acme: Database) -> None:
    await write(acme, NOON, NOON + timedelta(minutes=1), NOON + timedelta(minutes=2))
    await refresh_all(acme, NOON + timedelta(minutes=2, seconds=10))
    assert await pending(acme) == 2
    assert {minute - NOON_MINUTE for _, minute in await shown(acme, "1m", "rollups")} == {0}
    assert await shown(acme, "1h", "rollups") == {}
    await assert_right(acme)
    await refresh_all(acme, NOON + timedelta(days=2))
    assert len(await shown(acme, "1d", "rollups")) == 1
    await assert_right(acme)


async def test_a_backfill_of_months_is_done_in_pieces_the_newest_first(acme: Database) -> None:
    days = [NOON - timedelta(days=day) for day in range(60)]
    await write(acme, *days)
    await acme.execute("truncate rollup_changes")
    await acme.execute("select note_changed_readings(%s, %s)", [days[-1], days[0]])
    working = refresher()
    done = await working.refresh_piece(acme)
    assert (done.minutes, done.more) == (60, True)
    assert await shown(acme, "1m", "rollups") != {}
    assert await shown(acme, "1d", "rollups") == {}
    pieces = 1
    while (await working.refresh_piece(acme)).more:
        pieces += 1
    assert pieces >= 59
    assert len(await shown(acme, "1d", "rollups")) == 60
    await assert_right(acme)


async def test_rollups_of_readings_that_retention_has_dropped_stay_as_they_are(acme: Database) -> None:
    await write(acme, NOON, NOON + timedelta(days=1))
    await refresh_all(acme)
    before = {width: await shown(acme, width) for width in WIDTH_S}
    boundary = NOON.replace(hour=0) + timedelta(days=1)
    async with acme.transaction():
        await acme.execute("update rollup_state set readings_from = %s", [boundary])
        await acme.execute("delete from readings where ts < %s", [boundary])
    await write(acme, NOON + timedelta(seconds=1))
    assert {width: await shown(acme, width) for width in WIDTH_S} == before
    await refresh_all(acme)
    assert await pending(acme) == 0
    assert {width: await shown(acme, width) for width in WIDTH_S} == before


async def test_infinite_times_are_in_no_rollup_and_those_before_1970_are(
    acme: Database, databases: MasterAndTenant
) -> None:
    if databases.server.kind == "embedded":  # a hypertable takes none
        await acme.execute(
            "insert into readings (ts, tag_id, status) values ('-infinity', 1, 0), ('infinity', 1, 0)"
        )
    await acme.execute("select note_changed_readings('infinity', 'infinity')")
    await acme.execute("select note_changed_readings('-infinity', '-infinity')")
    assert await pending(acme) == 0
    await acme.execute(
        "insert into readings (ts, tag_id, status)"
        " values ('1000-01-01 00:00Z', 1, 0), ('1969-12-31 23:59:59Z', 1, 0)"
    )
    await acme.execute("select note_changed_readings('1000-01-01 00:00Z', '1000-01-01 00:00Z')")
    await acme.execute("select note_changed_readings('1969-12-31 23:59:59Z', '1969-12-31 23:59:59Z')")
    for _ in range(2):
        counts = await (await acme.execute("select count from readings_1d order by bucket")).fetchall()
        assert counts == [(1,), (1,)]
        await refresh_all(acme)
    with pytest.raises(CheckViolation):
        await acme.execute("insert into rollup_changes (minutes) values ('{[0,)}')")


async def test_old_writers_note_each_minute_once_a_transaction_also_when_a_savepoint_is_undone(
    acme: Database,
) -> None:
    found = await (
        await acme.execute("select well_id, opc_node_id from tag_mappings where tag_id = 1")
    ).fetchone()
    assert found is not None

    async def insert(ts: datetime) -> None:
        await acme.execute(
            "insert into scada_readings (timestamp, well_id, tag_node_id, value, quality)"
            " values (%s, %s, %s, 1, 'Good')",
            [ts, *found],
        )

    async with acme.transaction():
        try:
            async with acme.transaction():
                await insert(NOON)
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
        for second in range(50):
            await insert(NOON + timedelta(seconds=second))
        await insert(NOON + timedelta(minutes=5))
    changes = await (await acme.execute("select count(*) from rollup_changes")).fetchone()
    assert changes == (2,)
    await assert_right(acme)
    await insert(NOON)
    await assert_right(acme)


def test_a_piece_is_the_newest_that_is_due_and_fills_small_holes() -> None:
    assert chosen_piece([], 100, 60) == ([], False)
    assert chosen_piece([(100, 120)], 100, 60) == ([], False)
    assert chosen_piece([(90, 120)], 100, 60) == ([(90, 100)], False)
    assert chosen_piece([(0, 120)], 100, 60) == ([(40, 100)], True)
    hole = HOLE_MINUTES
    assert chosen_piece([(50, 51), (50 - hole - 1, 50 - hole)], 100, 60) == ([(50 - hole - 1, 51)], False)
    assert chosen_piece([(50, 51), (49 - hole - 1, 49 - hole)], 100, 60) == (
        [(50, 51), (49 - hole - 1, 49 - hole)], False,
    )  # fmt: skip
    scattered = [(place * 100, place * 100 + 1) for place in reversed(range(SPANS + 5))]
    piece, more = chosen_piece(scattered, 1 << 20, 1_440)
    assert (piece, more) == (scattered[:SPANS], True)
    assert chosen_piece(scattered, 1 << 20, 3) == (scattered[:3], True)
