"""Readings that cannot be stored: each is in the quarantine with its reason, and the rest is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import psycopg
import pytest

from engine._fastpath import Ring, decode_copy, decode_frame, decode_publish, encode_frame
from engine.errors import DatabaseNotMigrated, DatabaseRejected
from engine.frames import Entry
from engine.gaps import GapChanges
from engine.readings import Batch, Kind
from engine.store import Totals
from engine.store.rows import screened
from engine.unstorable import LEAST_US
from tests.engine.commits import BASE_US, Stream, batch_of, text_batch
from tests.engine.reference_codec import Item, Message, Variant, data_change, encode

Database = psycopg.AsyncConnection[Any]
Change = Callable[[str, str], Coroutine[None, None, None]]
DAY_US = 86_400_000_000


@pytest.fixture
async def change(database: Database) -> AsyncIterator[Change]:
    """A function that changes the schema; after the test, its second statement undoes that."""
    undo: list[str] = []

    async def apply(statement: str, undone_by: str) -> None:
        await database.execute(statement.encode())
        await database.commit()
        undo.append(undone_by)

    yield apply
    await database.rollback()
    for statement in reversed(undo):
        await database.execute(statement.encode())
    await database.commit()


async def stored_values(database: Database) -> list[float]:
    await database.rollback()
    rows = await (await database.execute("select value from readings order by value")).fetchall()
    return [value for (value,) in rows]


async def quarantined(database: Database) -> list[tuple[Any, ...]]:
    await database.rollback()
    cursor = await database.execute(
        "select place, tag_id, ts_us, status, value, text_bytes, reason, sqlstate from reading_quarantine"
        " order by sequence, place"
    )
    return await cursor.fetchall()


async def details(database: Database) -> list[str]:
    await database.rollback()
    rows = await (
        await database.execute("select detail from reading_quarantine order by sequence, place")
    ).fetchall()
    return [detail for (detail,) in rows]


async def test_times_that_are_absurd_are_quarantined_and_the_rest_is_stored(
    stream: Stream, database: Database
) -> None:
    times = [-(2**63), 0, LEAST_US - 1, LEAST_US, BASE_US + DAY_US, BASE_US + DAY_US + 1, 2**63 - 1]
    committed = await stream.store_batch(batch_of(len(times), ts_us=np.array(times, np.int64)))
    assert committed.totals == Totals(2, 5)
    assert await stored_values(database) == [3.0, 4.0]
    assert await quarantined(database) == [
        (place, 1, times[place], 0, float(place), None, "timestamp", None) for place in (0, 1, 2, 5, 6)
    ]
    said = await details(database)
    assert said[0] == "its time, -9223372036854775808 microseconds since 1970, is before 1990"
    assert said[2] == "its time, 1989-12-31T23:59:59.999999+00:00, is before 1990"
    assert said[3].startswith(
        "its time, 2026-05-29T20:26:40.000001+00:00, is later than when it came, by more"
    )


async def test_what_is_too_late_depends_on_when_the_frame_was_written_and_not_on_when_it_is_stored(
    stream: Stream,
) -> None:
    late = batch_of(1, ts_us=np.array([BASE_US + DAY_US + 1]))
    frames = [stream.frame(late, journaled_us=written) for written in (BASE_US, BASE_US + 1)]
    committed = await stream.commit(stream.commit_of(frames))
    assert committed.totals == Totals(1, 1)


def test_a_clock_that_was_never_set_does_not_say_what_is_too_late() -> None:
    owner = Stream(None)
    for ts_us, fits in ((BASE_US, True), (4_102_444_800_000_001, False)):
        frame = owner.frame(batch_of(1, ts_us=np.array([ts_us])), journaled_us=1_000)
        rows, refused = screened([frame], 86_400)
        assert (len(rows), len(refused)) == ((1, 0) if fits else (0, 1))


async def test_texts_that_the_database_cannot_hold_are_quarantined_byte_by_byte(
    stream: Stream, database: Database
) -> None:
    broken = b"caf\xe9\xc3".decode("utf-8", "surrogateescape")
    committed = await stream.store_batch(text_batch("fine", "a\0b", broken, "naïve"))
    assert committed.totals == Totals(2, 2)
    rows = await (await database.execute("select text_value from readings order by ts")).fetchall()
    assert rows == [("fine",), ("naïve",)]
    assert [row[5:7] for row in await quarantined(database)] == [(b"a\0b", "text"), (b"caf\xe9\xc3", "text")]
    assert await details(database) == [
        "its text has NUL at byte 1: b'a\\x00b'",
        "its text has the byte 0xe9, which is no UTF-8, at byte 3: b'caf\\xe9\\xc3'",
    ]


@pytest.mark.parametrize("sent", [b"caf\xe9", b"a\0b", b"\xed\xb3\xbf"])
async def test_what_a_server_sent_as_text_reaches_the_quarantine_through_ring_and_journal_byte_by_byte(
    stream: Stream, database: Database, sent: bytes
) -> None:
    ring = Ring(10)
    message = encode(Message([data_change([Item(0, Variant(12, sent)), Item(0, Variant(15, sent))])]))
    decode_publish(message, ring, np.zeros(1, np.uint32), BASE_US)
    raw = ring.drain(10)
    tags = np.ones(len(raw), np.int32)
    batch = Batch(raw.ts_us, tags, raw.status, raw.value, raw.kind, raw.texts)
    record = encode_frame(Entry(batch, GapChanges()), bytes(16), 1 << 40, BASE_US)
    replayed, _, _ = decode_frame(record, 0)
    committed = await stream.store_batch(replayed)
    # A ByteString is base64.
    assert committed.totals == Totals(1, 1)
    assert [row[5:7] for row in await quarantined(database)] == [(sent, "text")]


async def test_a_reading_with_two_faults_is_quarantined_once(stream: Stream, database: Database) -> None:
    await stream.store_batch(
        batch_of(1, ts_us=np.array([0]), kind=np.array([Kind.NUMBER | Kind.TEXT], np.uint8), texts={0: "\0"})
    )
    assert await quarantined(database) == [(0, 1, 0, 0, 0.0, b"\0", "timestamp", None)]


async def test_screened_readings_hold_nothing_up_however_many_they_are(
    stream: Stream, database: Database
) -> None:
    committed = await stream.store_batch(batch_of(2_000, ts_us=np.zeros(2_000, np.int64)), batch_of(1))
    assert committed.totals == Totals(1, 2_000)
    assert len(await quarantined(database)) == 2_000


async def test_rows_that_the_database_refuses_are_found_and_quarantined_with_its_words(
    stream: Stream, database: Database, change: Change
) -> None:
    await change(
        "alter table readings add constraint not_7 check (value not in (7, 150, 999))",
        "alter table readings drop constraint not_7",
    )
    # In the order of the index, 7 comes last.
    tags = np.where(np.arange(10) == 7, 9, 1).astype(np.int32)
    committed = await stream.store_batch(batch_of(10, tag_id=tags), batch_of(1_000))
    assert committed.totals == Totals(1_006, 4)
    assert await quarantined(database) == [
        (7, 9, BASE_US + 7, 0, 7.0, None, "rejected", "23514"),
        *[(at, 1, BASE_US + at, 0, float(at), None, "rejected", "23514") for at in (7, 150, 999)],
    ]
    said = await details(database)
    assert all(each.startswith("new row for relation") and "not_7" in each for each in said)
    assert len(await stored_values(database)) == 1_006


async def test_a_single_row_that_is_refused_leaves_an_empty_commit(
    stream: Stream, database: Database, change: Change
) -> None:
    await change(
        "alter table readings add constraint none_at_all check (value < 0)",
        "alter table readings drop constraint none_at_all",
    )
    committed = await stream.store_batch(batch_of(1))
    assert committed.totals == Totals(0, 1)
    assert committed.lanes[0].mark == stream.sequence(1)


async def test_five_rows_of_a_small_batch_may_be_refused_and_the_sixth_holds_the_stream(
    stream: Stream, database: Database, change: Change
) -> None:
    await change(
        "alter table readings add constraint few check (value >= 6)",
        "alter table readings drop constraint few",
    )
    values = np.arange(20, dtype=np.float64)
    with pytest.raises(
        DatabaseRejected, match=r"systemic: more than 5 of 20 readings are refused.*few"
    ) as raised:
        await stream.store_batch(batch_of(20, value=values))
    assert raised.value.sqlstate == "23514"
    assert (await stored_values(database), await quarantined(database)) == ([], [])
    committed = await stream.store_batch(batch_of(20, value=values + 1))
    assert committed.totals == Totals(15, 5)


@pytest.mark.parametrize(("percent", "holds"), [(1, False), (2, True)])
async def test_more_than_one_percent_of_rows_refused_holds_the_stream(
    stream: Stream, database: Database, change: Change, percent: int, holds: bool
) -> None:
    await change(
        f"alter table readings add constraint share check (value::bigint % 100 >= {percent})",
        "alter table readings drop constraint share",
    )
    if holds:
        with pytest.raises(DatabaseRejected, match="systemic: more than 20 of 2000"):
            await stream.store_batch(batch_of(2_000))
        assert await stored_values(database) == []
    else:
        committed = await stream.store_batch(batch_of(2_000))
        assert committed.totals == Totals(1_980, 20)


async def test_screened_rows_do_not_count_as_refused_by_the_database(
    stream: Stream, database: Database, change: Change
) -> None:
    await change(
        "alter table readings add constraint not_3 check (value <> 3)",
        "alter table readings drop constraint not_3",
    )
    times = BASE_US + np.arange(20)
    times[10:] = 0
    committed = await stream.store_batch(batch_of(20, ts_us=times))
    assert committed.totals == Totals(9, 11)


@pytest.mark.parametrize(
    ("raises", "is_about_rows"),
    [("raise check_violation", True), ("raise 'no' using errcode = 'P0001'", False)],
)
async def test_a_trigger_that_raises_is_about_a_row_only_if_its_sqlstate_says_so(
    stream: Stream, database: Database, change: Change, raises: str, is_about_rows: bool
) -> None:
    await change(
        f"""
        create function refuse() returns trigger language plpgsql as
        $$ begin if new.value = 3 then {raises}; end if; return new; end $$
        """,
        "drop function refuse",
    )
    await change(
        "create trigger refuse before insert on readings for each row execute function refuse()",
        "drop trigger refuse on readings",
    )
    if is_about_rows:
        committed = await stream.store_batch(batch_of(10))
        assert committed.totals == Totals(9, 1)
    else:
        with pytest.raises(DatabaseRejected) as raised:
            await stream.store_batch(batch_of(10))
        assert raised.value.sqlstate == "P0001"
        assert await stored_values(database) == []


async def test_a_column_that_is_gone_holds_the_stream_until_it_is_back(
    stream: Stream, database: Database
) -> None:
    commit = stream.commit_of([stream.frame(batch_of(3))])
    await database.execute("alter table readings rename column status to gone")
    await database.commit()
    try:
        with pytest.raises(DatabaseNotMigrated) as raised:
            await stream.commit(commit)
        assert raised.value.sqlstate == "42703"
    finally:
        await database.execute("alter table readings rename column gone to status")
        await database.commit()
    await stream.commit(commit)
    assert await stored_values(database) == [0.0, 1.0, 2.0]


async def test_a_quarantined_row_stays_as_it_was_when_its_frame_comes_again(
    stream: Stream, database: Database
) -> None:
    commit = stream.commit_of([stream.frame(text_batch("\0", "a"))])
    await stream.commit(commit)
    await database.execute("update ingest_marks set mark = '{0}', readings = 0, quarantined = 0")
    await database.execute("truncate readings")
    await database.execute("update reading_quarantine set detail = 'seen'")
    await database.commit()
    committed = await stream.store.commit(commit)
    assert committed.totals == Totals(1, 1)
    assert await details(database) == ["seen"]


def test_rows_are_sorted_by_tag_and_time_and_keep_their_place_in_their_frame() -> None:
    owner = Stream(None)
    frames = [
        owner.frame(
            Batch(
                ts_us=np.array([BASE_US + 3, BASE_US + 1, 0]),
                tag_id=np.array([2, 2, 1], np.int32),
                status=np.array([0, 0x80000000, 1], np.uint32),
                value=np.array([1.0, 2.0, 3.0]),
                kind=np.array([Kind.NUMBER, Kind.NUMBER | Kind.TEXT, Kind.NULL], np.uint8),
                texts={1: "x"},
            )
        ),
        owner.frame(batch_of(0)),
        owner.frame(text_batch("\0", "y")),
    ]
    rows, refused = screened(frames, 0.0)
    # BASE_US + 1 is later than the frame was written, by a microsecond.
    assert [(each.sequence, each.place, each.reason.value) for each in refused] == [
        (frames[0].sequence, 0, "timestamp"),
        (frames[0].sequence, 1, "timestamp"),
        (frames[0].sequence, 2, "timestamp"),
        (frames[2].sequence, 1, "timestamp"),
        (frames[2].sequence, 0, "text"),
    ]
    assert len(rows) == 0
    rows, refused = screened(frames, 1.0)
    stored = decode_copy(b"".join(rows.encoded(0, 3)))
    assert list(stored.ts_us) == [BASE_US + 1, BASE_US + 1, BASE_US + 3]
    assert list(stored.tag_id) == [1, 2, 2]
    assert stored.texts == {0: "y", 1: "x"}
    assert (refused[0].value, refused[0].status, refused[0].text_bytes) == (None, 1, None)
