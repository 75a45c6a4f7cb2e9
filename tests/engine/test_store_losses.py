"""Holes of the journal: the mark moves over them, each tag has a gap, and the quarantine names what is gone."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from engine import catalog
from engine.frames import Loss, LossReason
from engine.store import Lane, MarkMoved, Totals
from tests.engine.commits import BASE_US, Stream, batch_of, into_new_lane
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]
HOUR_US = 3_600_000_000


@pytest.fixture
async def tags(database: Database, tenant_id: UUID) -> list[int]:
    """The seed's ten tags; the last one was deleted before any hole, the one before it after all of them."""
    await catalog.seed(database, tenant_id, "opc.tcp://127.0.0.1:4840")
    tags = [tag.tag_id for tag in await catalog.list_tags(database)]
    await database.execute("update tag_mappings set deleted_at = '2020-01-01' where tag_id = %s", [tags[-1]])
    await database.execute("update tag_mappings set deleted_at = '2100-01-01' where tag_id = %s", [tags[-2]])
    await database.commit()
    return tags


def gaps(databases: MasterAndTenant) -> list[tuple[int, int, int, str]]:
    with psycopg.connect(databases.tenant_dsn) as connection:
        return connection.execute(
            """
            select tag_id, (extract(epoch from "from") * 1000000)::bigint,
                (extract(epoch from "to") * 1000000)::bigint, cause
            from reading_gaps order by 1, 2
            """
        ).fetchall()


def told(databases: MasterAndTenant) -> list[tuple[Any, ...]]:
    with psycopg.connect(databases.tenant_dsn) as connection:
        return connection.execute(
            "select sequence, place, tag_id, reason, detail from reading_quarantine order by id"
        ).fetchall()


def of_tag(tag_id: int, *ts_us: int) -> Any:
    return batch_of(len(ts_us), ts_us=np.array(ts_us, np.int64), tag_id=np.full(len(ts_us), tag_id, np.int32))


async def test_a_hole_is_a_gap_of_each_tag_from_its_last_reading_before_the_end_of_the_hole(
    stream: Stream, databases: MasterAndTenant, tags: list[int]
) -> None:
    until_us = BASE_US + HOUR_US
    await stream.store_batch(
        of_tag(tags[0], BASE_US, BASE_US + 1),
        of_tag(tags[1], BASE_US + 2, until_us),
        of_tag(tags[2], until_us, until_us + 5),  # nothing before the end: no gap
        of_tag(tags[-2], BASE_US + 3),
        of_tag(tags[-1], BASE_US),
        of_tag(123_456, BASE_US),  # a tag that is not in the catalog
    )
    before = stream.sequence(stream.count)
    stream.count += 7
    behind = stream.frame(of_tag(tags[0], until_us + 9), journaled_us=until_us)
    loss = Loss(before, behind.sequence, until_us, LossReason.CORRUPT, kept_in="corrupt/x.bytes")
    committed = await stream.commit(stream.commit_of([behind], [loss]))
    assert committed.totals == Totals(10, 0)
    assert committed.lanes == (Lane(0, behind.sequence),)
    assert gaps(databases) == [
        (tags[0], BASE_US + 1, until_us, "journal"),
        (tags[1], BASE_US + 2, until_us, "journal"),
        (tags[-2], BASE_US + 3, until_us, "journal"),
    ]
    said = (
        f"frames after {before} and before {behind.sequence} are gone (corrupt);"
        " the bytes are in corrupt/x.bytes"
    )
    assert told(databases) == [(behind.sequence, -1, None, "journal", said)]


async def test_a_hole_with_nothing_behind_it_moves_the_mark_to_its_end(
    stream: Stream, databases: MasterAndTenant, tags: list[int]
) -> None:
    await stream.store_batch(of_tag(tags[0], BASE_US))
    until = stream.sequence(90)
    loss = Loss(stream.sequence(1), until, BASE_US + 5, LossReason.MISSING)
    commit = stream.commit_of([], [loss])
    first = await stream.store.commit(commit)
    assert first.lanes == (Lane(0, until - 1),)
    assert await stream.store.commit(commit) == first
    assert len(told(databases)) == len(gaps(databases)) == 1


async def test_a_hole_that_is_committed_in_parts_already_is_told_all_the_same(
    stream: Stream, databases: MasterAndTenant, tags: list[int]
) -> None:
    """Frames 1 to 3 are stored; 2 to 6 are found to be corrupt: 4 to 6 are lost."""
    await stream.store_batch(*(of_tag(tags[0], BASE_US + number) for number in range(3)))
    loss = Loss(stream.sequence(1), stream.sequence(7), BASE_US + HOUR_US, LossReason.CORRUPT)
    await stream.commit(stream.commit_of([], [loss]))
    assert gaps(databases) == [(tags[0], BASE_US + 2, BASE_US + HOUR_US, "journal")]


async def test_a_hole_in_what_is_stored_already_is_no_loss(
    stream: Stream, databases: MasterAndTenant, tags: list[int]
) -> None:
    await stream.store_batch(*(of_tag(tags[0], BASE_US + number) for number in range(3)))
    loss = Loss(stream.sequence(1), stream.sequence(3), BASE_US + HOUR_US, LossReason.CORRUPT)
    frame = stream.frame(of_tag(tags[0], BASE_US + 9))
    await stream.commit(stream.commit_of([frame], [loss]))
    assert gaps(databases) == told(databases) == []


async def test_a_hole_in_the_backlog_is_a_gap_although_a_live_lane_has_stored_later_readings(
    stream: Stream, databases: MasterAndTenant, tags: list[int]
) -> None:
    backlog = [stream.frame(of_tag(tags[0], BASE_US))]
    stream.count += 3
    live = stream.frame(of_tag(tags[0], BASE_US + 2 * HOUR_US))
    end = live.sequence - 1
    await stream.commit(into_new_lane(stream.commit_of([live]), end))
    loss = Loss(backlog[0].sequence, end + 1, BASE_US + HOUR_US, LossReason.CORRUPT)
    merged = await stream.commit(stream.commit_of(backlog, [loss]))
    assert merged.lanes == (Lane(0, live.sequence),)
    assert gaps(databases) == [(tags[0], BASE_US, BASE_US + HOUR_US, "journal")]


async def test_a_hole_does_not_hide_that_the_mark_went_back(
    stream: Stream, databases: MasterAndTenant
) -> None:
    await stream.store_batch(batch_of(1))
    loss = Loss(stream.sequence(1), stream.sequence(5), BASE_US, LossReason.MISSING)
    commit = stream.commit_of([], [loss])
    with psycopg.connect(databases.tenant_dsn) as connection:
        connection.execute("update ingest_marks set mark = '{0}'")
    with pytest.raises(MarkMoved):
        await stream.store.commit(commit)
    assert told(databases) == []


async def test_more_tags_than_one_statement_looks_at_have_their_gaps(
    stream: Stream, databases: MasterAndTenant, tags: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.gap_rows._LOST_TAGS", 3)
    await stream.store_batch(*(of_tag(tag_id, BASE_US) for tag_id in tags))
    loss = Loss(stream.sequence(stream.count), stream.sequence(99), BASE_US + 1, LossReason.FOREIGN)
    await stream.commit(stream.commit_of([], [loss]))
    assert [tag_id for tag_id, *_ in gaps(databases)] == tags[:-1]
