"""Gaps beside a batch, and the newest readings, on each kind of database server."""

from __future__ import annotations

import numpy as np
import psycopg

from engine.gaps import Cause, GapChanges, Gaps
from engine.readings import Batch, Kind
from engine.store import Store
from tests.engine.commits import Stream
from tests.servers.databases import MasterAndTenant

BASE_US = 1_780_000_000_123_456
NEVER_US = -(2**63)
# 1601 and 9999, what most OPC UA servers can say at all.
EDGES_US = (-11_644_473_600_000_000, 253_402_300_799_999_999)


def batch_of(*readings: tuple[int, int, float | None, str | None]) -> Batch:
    kinds = [
        (Kind.NUMBER if value is not None else 0) | (Kind.TEXT if text else 0)
        for _, _, value, text in readings
    ]
    return Batch(
        ts_us=np.array([ts_us for _, ts_us, _, _ in readings], np.int64),
        tag_id=np.array([tag_id for tag_id, _, _, _ in readings], np.int32),
        status=np.full(len(readings), 0x8000_0480, np.uint32),
        value=np.array([value or 0.0 for _, _, value, _ in readings], np.float64),
        kind=np.array(kinds, np.uint8),
        texts={row: text for row, (_, _, _, text) in enumerate(readings) if text},
    )


def gaps_of(*gaps: tuple[int, int, int, Cause]) -> Gaps:
    tag_id, from_us, to_us, cause = zip(*gaps, strict=True)
    return Gaps(
        slot=np.zeros(len(gaps), np.uint32),
        tag_id=np.array(tag_id, np.int32),
        from_us=np.array(from_us, np.int64),
        to_us=np.array(to_us, np.int64),
        cause=np.array(cause, np.uint8),
    )


def recorded(databases: MasterAndTenant) -> list[tuple[int, int, int, str]]:
    with psycopg.connect(databases.tenant_dsn) as connection:
        return connection.execute(
            """
            select tag_id, (extract(epoch from "from") * 1000000)::bigint,
                (extract(epoch from "to") * 1000000)::bigint, cause
            from reading_gaps order by 1, 2
            """
        ).fetchall()


async def test_gaps_are_stored_with_their_batch_to_the_microsecond(
    stream: Stream, databases: MasterAndTenant
) -> None:
    gaps = gaps_of((7, BASE_US, BASE_US + 1, Cause.OUTAGE), (8, *EDGES_US, Cause.OVERFLOW))
    await stream.store_batch(batch_of((7, BASE_US + 1, 1.0, None)), gaps=GapChanges(recorded=gaps))
    assert recorded(databases) == [
        (7, BASE_US, BASE_US + 1, "outage"),
        (8, *EDGES_US, "overflow"),
    ]


async def test_gaps_are_stored_alone_and_a_second_time_they_are_the_same_ones(
    stream: Stream, databases: MasterAndTenant
) -> None:
    gaps = gaps_of(*((7, BASE_US, BASE_US + 5, cause) for cause in Cause))
    for _ in range(2):
        await stream.store_batch(batch_of(), gaps=GapChanges(recorded=gaps))
    assert sorted(cause for *_, cause in recorded(databases)) == sorted(cause.label for cause in Cause)


async def test_a_filled_gap_is_forgotten_and_no_other(stream: Stream, databases: MasterAndTenant) -> None:
    gaps = gaps_of(
        (7, BASE_US, BASE_US + 5, Cause.OUTAGE),
        (7, BASE_US, BASE_US + 6, Cause.OUTAGE),
        (8, BASE_US, BASE_US + 5, Cause.OUTAGE),
    )
    await stream.store_batch(batch_of(), gaps=GapChanges(recorded=gaps))
    await stream.store_batch(batch_of(), gaps=GapChanges(recovered=gaps.where(np.array([0, 2]))))
    assert recorded(databases) == [(7, BASE_US, BASE_US + 6, "outage")]


async def test_what_is_no_interval_is_left_out_and_holds_nothing_up(
    stream: Stream, databases: MasterAndTenant
) -> None:
    gaps = gaps_of(
        (7, BASE_US, BASE_US, Cause.OUTAGE),
        (7, BASE_US, BASE_US - 1, Cause.OUTAGE),
        (7, NEVER_US, BASE_US, Cause.OUTAGE),
        (8, BASE_US, BASE_US + 1, Cause.OUTAGE),
    )
    await stream.store_batch(batch_of((7, BASE_US, 1.0, None)), gaps=GapChanges(recorded=gaps))
    assert recorded(databases) == [(8, BASE_US, BASE_US + 1, "outage")]


async def test_of_changes_to_one_gap_in_a_commit_the_last_one_counts(
    stream: Stream, databases: MasterAndTenant
) -> None:
    there = gaps_of((7, BASE_US, BASE_US + 5, Cause.OUTAGE))
    passing = gaps_of((8, BASE_US, BASE_US + 5, Cause.OVERFLOW))
    other = gaps_of((8, BASE_US, BASE_US + 5, Cause.OUTAGE))
    await stream.store_batch(batch_of(), gaps=GapChanges(recorded=there))
    changes = [
        GapChanges(recorded=passing, recovered=there),
        GapChanges(recorded=other),
        GapChanges(recorded=there, recovered=passing),
    ]
    frames = [stream.frame(batch_of(), each) for each in changes]
    await stream.commit(stream.commit_of(frames))
    assert recorded(databases) == [
        (7, BASE_US, BASE_US + 5, "outage"),
        (8, BASE_US, BASE_US + 5, "outage"),
    ]


async def test_a_gap_that_one_frame_records_and_fills_is_not_there(
    stream: Stream, databases: MasterAndTenant
) -> None:
    gap = gaps_of((7, BASE_US, BASE_US + 5, Cause.OUTAGE))
    await stream.store_batch(batch_of(), gaps=GapChanges(recorded=gap, recovered=gap))
    assert recorded(databases) == []


async def test_the_newest_reading_of_each_tag_is_found(
    store: Store, stream: Stream, databases: MasterAndTenant
) -> None:
    await stream.store_batch(
        batch_of((7, BASE_US + 9, 9.0, None), (7, BASE_US + 5, 5.0, None), (10, BASE_US, None, None))
    )
    # Whatever somebody else has put there.
    with psycopg.connect(databases.tenant_dsn) as connection:
        connection.execute(
            """
            insert into readings (ts, tag_id, status, value, text_value) values
                ('1601-01-01 00:00:00Z', 8, -2147482496, null, 'on'),
                ('9999-12-31 23:59:59.999999Z', 9, -2147482496, 0.5, 'half')
            """
        )
    newest = await store.newest(np.array([10, 9, 8, 99, 7], np.int32))
    assert list(newest.ts_us) == [BASE_US, EDGES_US[1], EDGES_US[0], NEVER_US, BASE_US + 9]
    assert list(newest.kind) == [0, Kind.NUMBER | Kind.TEXT, Kind.TEXT, 0, Kind.NUMBER]
    assert list(newest.value) == [0.0, 0.5, 0.0, 0.0, 9.0]
    assert list(newest.status) == [0x8000_0480, 0x8000_0480, 0x8000_0480, 0, 0x8000_0480]


async def test_a_server_that_said_not_yet_last_does_not_hide_the_value_before(
    store: Store, stream: Stream
) -> None:
    await stream.store_batch(
        batch_of((7, BASE_US, 1.5, None), (7, BASE_US + 5, None, None), (7, BASE_US + 6, None, None))
    )
    newest = await store.newest(np.array([7], np.int32))
    assert (int(newest.ts_us[0]), newest.value[0], newest.kind[0]) == (BASE_US, 1.5, Kind.NUMBER)


async def test_more_tags_than_one_query_asks_for_are_found(store: Store, stream: Stream) -> None:
    await stream.store_batch(batch_of((1, BASE_US, 1.0, None), (12_000, BASE_US + 1, 2.0, None)))
    newest = await store.newest(np.arange(1, 12_001, dtype=np.int32))
    assert list(np.flatnonzero(newest.ts_us != NEVER_US)) == [0, 11_999]
    assert newest.value[11_999] == 2.0
