"""What the earlier system left in a database: moved aside by the migrations, then taken over piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from engine import catalog, seed_tables
from engine.database import connect
from engine.errors import MigrationError
from engine.migrations import Which, migrate_database
from tests.servers import earlier_system
from tests.servers.databases import Server

TENANT = uuid4()
ALL = 'select "timestamp", well_id, tag_node_id, value, quality from scada_readings order by value, 1'
READINGS = 20_000


@pytest.fixture
def database(any_server: Server, new_database: Callable[[str], str]) -> str:
    return new_database(any_server.dsn)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database, application="test", autocommit=True) as opened:
        yield opened


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as plain:
        return plain.execute(query.encode()).fetchall()


async def convert(connection: AsyncConnection[Any], *, steps: int | None = None) -> list[seed_tables.Moved]:
    """Move all readings, or stop after so many steps."""
    made: list[seed_tables.Moved] = []
    async with aclosing(seed_tables.move_readings(connection, TENANT)) as moving:
        async for moved in moving:
            made.append(moved)
            if len(made) == steps:
                break
    return made


async def test_the_earlier_systems_tables_are_moved_aside_and_its_readings_stay_readable(
    database: str,
) -> None:
    earlier_system.build(database, readings=READINGS)
    before = rows(database, ALL)
    assert len(before) == READINGS
    would = await migrate_database(database, Which.TENANT, dry_run=True)
    assert would.applied[0] == "scada_readings moved aside to seed_readings"
    assert rows(database, ALL) == before
    outcome = await migrate_database(database, Which.TENANT, label="acme")
    assert outcome.applied == would.applied
    assert any("scada-engine tenant take-over acme" in warning for warning in outcome.warnings)
    assert rows(database, ALL) == before
    assert rows(database, "select count(*) from seed_readings") == [(READINGS,)]
    assert (await migrate_database(database, Which.TENANT)).applied == ()


async def test_readings_are_converted_in_pieces_and_each_is_in_one_place_whenever_it_is_stopped(
    database: str, connection: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_tables, "_PIECE_PAGES", 16)
    earlier_system.build(database, readings=READINGS)
    before = rows(database, ALL)
    await migrate_database(database, Which.TENANT)
    taken = await seed_tables.take_over_catalog(connection, TENANT)
    assert (taken.wells, taken.connections, taken.tags) == (2, 2, 10)
    assert taken.without_password == ("PLC",)
    for _ in range(3):
        (*_, last) = await convert(connection, steps=2)
        assert last.done_bytes < last.total_bytes
        assert 0 < rows(database, "select count(*) from seed_readings")[0][0] < READINGS
        assert rows(database, ALL) == before
    (*_, last) = await convert(connection)
    assert last.done_bytes == last.total_bytes
    assert rows(database, ALL) == before
    assert rows(database, "select count(*) from readings") == [(READINGS,)]
    assert rows(database, "select to_regclass('seed_readings')") == [(None,)]
    assert await seed_tables.left_over(connection) == {}
    assert await convert(connection) == []
    # The rollups count all of them.
    assert rows(database, "select sum(count), sum(good_count) from readings_1d") == [
        (READINGS, READINGS * 8 // 10)
    ]
    # And who writes into the view still can.
    with psycopg.connect(database) as plain:
        plain.execute(
            "insert into scada_readings values (now(), %s, 'ns=2;s=tag.1', 1, 'Good')",
            [earlier_system.WELLS[0]],
        )
    assert len(rows(database, ALL)) == READINGS + 1


async def test_the_earlier_systems_catalog_goes_on_as_ours_with_the_same_ids(
    database: str, connection: AsyncConnection[Any]
) -> None:
    earlier_system.build(database, readings=100)
    await migrate_database(database, Which.TENANT)
    await seed_tables.take_over_catalog(connection, TENANT)
    again = await seed_tables.take_over_catalog(connection, TENANT)
    assert (again.wells, again.connections, again.tags) == (0, 0, 0)
    assert {(well.id, well.name) for well in await catalog.list_wells(connection)} == {
        (earlier_system.WELLS[0], "Permian"),
        (earlier_system.WELLS[1], "Delaware"),
    }
    # The one whose password nobody can open is not tried with a wrong one.
    (rtu,) = await catalog.load_connections(connection, TENANT)
    assert (rtu.id, rtu.endpoint_url, len(rtu.tags)) == (
        earlier_system.CONNECTIONS[0],
        "opc.tcp://rtu.invalid:4840",
        5,
    )
    (plc,) = [entry for entry in await catalog.list_connections(connection) if entry.name == "PLC"]
    assert not plc.is_enabled
    assert "password" in (plc.last_error or "")
    # Tables of others that refer to theirs go on doing so.
    assert rows(database, "select confrelid::regclass::text from pg_constraint where contype = 'f'"
                          " and conrelid = 'production_entries'::regclass") == [("seed_wells",)]  # fmt: skip


async def test_readings_of_nodes_that_no_tag_has_get_one_on_a_disabled_connection(
    database: str, connection: AsyncConnection[Any]
) -> None:
    earlier_system.build(database, readings=1_400, catalog=False)
    before = rows(database, ALL)
    await migrate_database(database, Which.TENANT)
    await seed_tables.take_over_catalog(connection, TENANT)
    await convert(connection)
    assert rows(database, ALL) == before
    assert rows(database, "select count(*), count(distinct tag_id) from readings") == [(1_400, 14)]
    made = await catalog.list_connections(connection)
    assert {(entry.well_id, entry.name, entry.is_enabled, entry.tags) for entry in made} == {
        (well, seed_tables.NEW_CONNECTION, False, 7) for well in earlier_system.WELLS
    }


async def test_readings_that_do_not_fit_stay_and_are_counted_with_the_reason(
    database: str, connection: AsyncConnection[Any]
) -> None:
    earlier_system.build(database, readings=1_000)
    with psycopg.connect(database) as plain:
        plain.execute("update scada_readings set quality = 'good?' where value < 3")
        plain.execute("update scada_readings set tag_node_id = repeat('x', 501) where value in (3, 4)")
    before = rows(database, ALL)
    await migrate_database(database, Which.TENANT)
    await seed_tables.take_over_catalog(connection, TENANT)
    for _ in range(2):
        await convert(connection)
        assert await seed_tables.left_over(connection) == {"quality": 3, "tag_node_id": 2}
        assert rows(database, "select count(*) from seed_readings") == [(5,)]
        assert rows(database, ALL) == before
    with psycopg.connect(database) as plain:
        plain.execute("update seed_readings set quality = 'Good', tag_node_id = 'ns=2;s=tag.0'")
    await convert(connection)
    assert rows(database, "select to_regclass('seed_readings')") == [(None,)]
    assert rows(database, "select count(*) from readings") == [(1_000,)]


async def test_a_piece_that_was_undone_by_a_deadlock_is_moved_again(
    database: str, connection: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier_system.build(database, readings=100)
    await migrate_database(database, Which.TENANT)
    move, undone = seed_tables._move_piece, 0

    async def undone_at_first(*arguments: Any) -> int:
        nonlocal undone
        if undone < 2:
            undone += 1
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return await move(*arguments)

    monkeypatch.setattr(seed_tables, "_move_piece", undone_at_first)
    await convert(connection)
    assert (undone, rows(database, "select count(*) from readings")) == (2, [(100,)])


async def test_a_table_of_that_name_and_another_shape_is_refused_and_left_alone(database: str) -> None:
    with psycopg.connect(database) as plain:
        plain.execute("create table scada_readings (timestamp timestamptz, volts real)")
    with pytest.raises(MigrationError, match=r"scada_readings is in the way.*volts real"):
        await migrate_database(database, Which.TENANT)
    assert rows(database, "select count(*) from scada_readings") == [(0,)]
    assert rows(database, "select to_regclass('wells')") == [(None,)]
