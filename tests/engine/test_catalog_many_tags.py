"""A connection with very many tags: imported in parts, all or none, and what that holds up."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from engine import catalog
from engine.catalog import InvalidRows, ItemSettings, NewTag, new_tags, rules
from engine.database import connect
from engine.errors import InvalidInput, NotFound
from tests.engine.catalog_entries import a_connection
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]

PART = 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_tags, "_TAGS_PER_STATEMENT", PART)
    monkeypatch.setattr(rules, "_TAGS_PER_STEP", PART)


def plain_tags(count: int) -> list[NewTag]:
    return [NewTag(f"tag {number}", f"ns=1;s=tag.{number}") for number in range(count)]


async def test_tags_are_imported_in_parts_with_all_that_is_said_of_some(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    tags = plain_tags(3 * PART + 7)
    polled = ItemSettings(read_mode="poll", queue_size=7)
    tags[PART + 1] = NewTag(
        "other", "i=7", "INT", unit="m", scaling_factor=Decimal("0.1"), offset=-3, settings=polled
    )
    checked: list[int] = []
    written: list[int] = []
    await catalog.import_tags(
        database, tenant_id, connection.id, tags, checked=checked.append, written=written.append
    )
    assert checked == [0, PART, 2 * PART, 3 * PART]
    assert written == [PART, 2 * PART, 3 * PART, 3 * PART + 7]
    found = await catalog.list_tags(database, connection_id=connection.id, limit=1_000)
    assert [tag.opc_node_id for tag in found] == [tag.opc_node_id for tag in tags]
    assert {tag.well_id for tag in found} == {connection.well_id}
    other = found[PART + 1]
    assert (other.data_type, other.unit, other.scaling_factor, other.offset) == ("INT", "m", 0.1, -3.0)
    assert other.settings == polled
    plain = found[PART]
    assert (plain.unit, plain.scaling_factor, plain.offset) == (None, 1.0, 0.0)
    assert plain.settings == ItemSettings()


async def test_nodes_that_are_taken_are_named_from_all_parts_and_nothing_is_imported(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    tags = plain_tags(3 * PART)
    await catalog.add_tags(database, tenant_id, connection.id, [tags[5], tags[2 * PART]])
    with pytest.raises(InvalidRows) as caught:
        await catalog.import_tags(database, tenant_id, connection.id, tags)
    assert [problem.field for problem in caught.value.problems] == [
        "tags[5].opc_node_id",
        f"tags[{2 * PART}].opc_node_id",
    ]
    assert len(await catalog.list_tags(database, limit=1_000)) == 2


async def test_more_tags_than_an_import_may_have_are_refused_by_their_number(
    database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await a_connection(database, tenant_id)
    monkeypatch.setattr(new_tags, "MOST_TAGS_PER_IMPORT", PART)
    with pytest.raises(InvalidInput, match="there are 101; at most 100 fit"):
        await catalog.import_tags(database, tenant_id, connection.id, plain_tags(PART + 1))


async def test_how_a_connection_is_doing_can_be_recorded_while_its_tags_are_imported(
    database: Database, tenant_id: UUID, databases: MasterAndTenant
) -> None:
    connection = await a_connection(database, tenant_id)
    await database.commit()
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def insert() -> None:
        async with database.transaction():
            # What an import does first, up to its last part.
            await new_tags._fixed_columns(
                database, tenant_id, connection.id, plain_tags(1), UUID(int=0), keeps=False
            )
            at_work.set()
            await go_on.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(insert())
        await at_work.wait()
        async with await connect(databases.tenant_dsn, application="test", autocommit=True) as engine:
            await engine.execute("set lock_timeout = '5s'")
            await catalog.record_connection(engine, connection.id, connected=False, error="away")
        go_on.set()


async def test_an_import_into_a_connection_that_is_deleted_meanwhile_adds_nothing(
    database: Database, tenant_id: UUID, databases: MasterAndTenant
) -> None:
    connection = await a_connection(database, tenant_id)
    await database.commit()
    deleted = False

    def delete_after_the_first_part(tags: int) -> None:
        nonlocal deleted
        if not deleted:
            deleted = True
            with psycopg.connect(databases.tenant_dsn) as other:
                other.execute("update scada_connections set deleted_at = now()")

    with pytest.raises(NotFound, match="there is no connection"):
        await catalog.import_tags(
            database, tenant_id, connection.id, plain_tags(2 * PART), written=delete_after_the_first_part
        )
    assert deleted
    assert await catalog.list_tags(database) == []
