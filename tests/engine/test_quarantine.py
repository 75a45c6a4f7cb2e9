"""The quarantine on real servers: each row is in one place, whatever happens, and one that is wrong harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs

from engine import catalog
from engine.database import connect
from engine.errors import DatabaseError, InvalidInput
from engine.quarantine import (
    Caller,
    Dropped,
    Reason,
    Retried,
    RetryRules,
    Selection,
    count_quarantined,
    drop,
    list_quarantined,
    retry,
)
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]
STREAM = UUID(int=7)
NOW_US = 1_780_000_000_000_000
RULES = RetryRules(latest_us=NOW_US + 86_400_000_000)
CALLER = Caller("acme", "a test")
EVERYTHING = Selection()

# A server that refuses values above a thousand, as a constraint of the operator's would.
REFUSE = """
create function refuse_large() returns trigger language plpgsql as $$
begin
    if new.value > 1000 then
        raise exception 'value % is too large', new.value using errcode = 'check_violation';
    end if;
    return new;
end
$$;
create trigger refuse_large before insert on readings for each row execute function refuse_large();
"""
ACCEPT = "drop trigger if exists refuse_large on readings; drop function if exists refuse_large()"


@pytest.fixture
async def acme(databases: MasterAndTenant) -> AsyncIterator[Database]:
    """A connection in autocommit mode to a tenant with two wells, ten tags and an empty quarantine."""
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as connection:
        await connection.execute("truncate reading_quarantine restart identity")
        await catalog.seed(connection, UUID(int=1), "opc.tcp://127.0.0.1:4840")
        yield connection
        await connection.execute(ACCEPT)


async def quarantine(database: Database, *rows: dict[str, Any]) -> list[int]:
    """Put rows into the quarantine; return their ids. What a row does not say is a good reading of tag 1."""
    found = await (
        await database.execute("select coalesce(max(sequence), 0) from reading_quarantine")
    ).fetchone()
    assert found is not None
    ids = []
    for place, given in enumerate(rows):
        row = {
            "tag_id": 1,
            "ts_us": NOW_US,
            "status": 0,
            "value": 1.0,
            "text_bytes": None,
            "reason": "rejected",
        }
        row |= {"detail": "it was refused", "sqlstate": None, "quarantined_at": datetime.now(UTC)} | given
        cursor = await database.execute(
            """
            insert into reading_quarantine (stream, sequence, place, tag_id, ts_us, status, value, text_bytes, reason,
                sqlstate, detail, quarantined_at)
            values (%(stream)s, %(sequence)s, %(place)s, %(tag_id)s, %(ts_us)s, %(status)s, %(value)s, %(text_bytes)s,
                %(reason)s, %(sqlstate)s, %(detail)s, %(quarantined_at)s)
            returning id
            """,
            row | {"stream": STREAM, "sequence": found[0] + 1, "place": place},
        )
        ids += [made[0] for made in await cursor.fetchall()]
    return ids


async def many(database: Database, rows: int) -> None:
    """Put that many good readings there; the value of each is its number, from 1 on."""
    await database.execute(
        """
        insert into reading_quarantine (stream, sequence, place, tag_id, ts_us, status, value, reason, detail)
        select %s, 1, i, 1 + i %% 10, %s + i, 0, i, 'rejected', '' from generate_series(1, %s) i
        """,
        [STREAM, NOW_US, rows],
    )


async def stored(database: Database) -> list[Any]:
    cursor = await database.execute(
        """
        select extract(epoch from ts)::numeric * 1000000, tag_id, status, value, text_value
        from readings order by 1, 2
        """
    )
    return [(int(row[0]), *row[1:]) for row in await cursor.fetchall()]


async def counted(database: Database, table: str) -> int:
    found = await (await database.execute(f"select count(*) from {table}")).fetchone()
    assert found is not None
    return int(found[0])


async def retried(
    database: Database, selection: Selection = EVERYTHING, **rules: Any
) -> tuple[int, dict[str, int]]:
    chosen = RetryRules(latest_us=RULES.latest_us, **rules)
    done = await retry(database, selection, chosen)
    assert done.place is None
    return done.stored, {str(reason): rows for reason, rows in done.kept.items()}


# Listing


async def test_rows_are_listed_the_newest_first_with_everything_that_is_known_of_them(acme: Database) -> None:
    odd = {"tag_id": 3, "ts_us": -(2**63), "status": -2147483648, "value": None, "text_bytes": b"caf\xe9\0"}
    await quarantine(acme, odd | {"reason": "text", "sqlstate": "22021", "detail": "why"})
    await quarantine(
        acme, {"tag_id": None, "ts_us": None, "status": None, "value": None, "reason": "journal"}
    )
    note, row = await list_quarantined(acme, EVERYTHING, limit=10)
    assert (note.id, note.tag_id, note.tag_name, note.well_name, note.text_begin, note.text_nbytes) == (
        2, None, None, None, None, None
    )  # fmt: skip
    tags = {tag.tag_id: tag for tag in await catalog.list_tags(acme)}
    assert (row.id, row.stream, row.sequence, row.place) == (1, STREAM, 1, 0)
    assert (row.tag_id, row.tag_name, row.opc_node_id) == (3, tags[3].tag_name, tags[3].opc_node_id)
    assert (row.well_id, row.ts_us, row.status, row.value) == (tags[3].well_id, -(2**63), -2147483648, None)
    assert (row.text_begin, row.text_nbytes) == (b"caf\xe9\0", 5)
    assert (row.reason, row.sqlstate, row.detail) == ("text", "22021", "why")
    assert row.well_name


async def test_pages_lead_to_every_row_once_also_while_others_come_in(acme: Database) -> None:
    await many(acme, 25)
    seen: list[int] = []
    while page := await list_quarantined(acme, EVERYTHING, limit=10, before=seen[-1] if seen else None):
        seen += [row.id for row in page]
        await quarantine(acme, {})
    assert seen == list(range(25, 0, -1))


async def test_rows_are_chosen_by_id_tag_well_reason_and_the_time_they_came_here(acme: Database) -> None:
    then = datetime(2026, 5, 1, tzinfo=UTC)
    await quarantine(
        acme, {"tag_id": 1, "quarantined_at": then}, {"tag_id": 2, "reason": "timestamp"}, {"tag_id": 6}
    )
    wells = {tag.tag_id: tag.well_id for tag in await catalog.list_tags(acme)}
    assert wells[1] == wells[2] != wells[6]
    choices: Sequence[tuple[Selection, list[int]]] = (
        (Selection(ids=[1, 3, 99]), [3, 1]),
        (Selection(tag_ids=[2, 6]), [3, 2]),
        (Selection(well_id=wells[1]), [2, 1]),
        (Selection(reason=Reason.TIMESTAMP), [2]),
        (Selection(since=then, until=then + timedelta(microseconds=1)), [1]),
        (Selection(until=then), []),
        (Selection(since=then + timedelta(microseconds=1)), [3, 2]),
        (Selection(well_id=wells[1], reason=Reason.REJECTED), [1]),
        (EVERYTHING, [3, 2, 1]),
    )
    for selection, expected in choices:
        assert [row.id for row in await list_quarantined(acme, selection, limit=10)] == expected, selection
        assert (await count_quarantined(acme, selection)).total() == len(expected), selection


@pytest.mark.parametrize(
    ("field", "selection"),
    [
        ("ids", Selection(ids=[])),
        ("ids", Selection(ids=[0])),
        ("ids", Selection(ids=[2**63])),
        ("ids", Selection(ids=range(1, 10_002))),
        ("tag_ids", Selection(tag_ids=[2**31])),
        ("since", Selection(since=datetime(2026, 1, 2, tzinfo=UTC), until=datetime(2026, 1, 2, tzinfo=UTC))),
    ],
)
async def test_a_selection_that_does_not_fit_is_named_and_nothing_is_done(
    acme: Database, field: str, selection: Selection
) -> None:
    await quarantine(acme, {})
    for call in (
        list_quarantined(acme, selection, limit=1),
        count_quarantined(acme, selection),
        retry(acme, selection, RULES),
        drop(acme, selection, caller=CALLER),
    ):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.field == field
    assert await counted(acme, "reading_quarantine") == 1


async def test_a_page_that_does_not_fit_is_named(acme: Database) -> None:
    for field, page in (
        ("limit", {"limit": 0}),
        ("limit", {"limit": 10_001}),
        ("before", {"limit": 1, "before": 0}),
    ):
        with pytest.raises(InvalidInput, match=f"^{field}: "):
            await list_quarantined(acme, EVERYTHING, **page)


async def test_only_the_beginning_of_a_long_text_is_listed(acme: Database) -> None:
    await quarantine(acme, {"text_bytes": b"\xff" * 5_000_000, "reason": "text"})
    (row,) = await list_quarantined(acme, EVERYTHING, limit=1)
    assert (row.text_begin, row.text_nbytes) == (b"\xff" * 1_024, 5_000_000)


# Trying again


async def test_a_reading_that_is_tried_again_is_stored_as_it_was_and_leaves_the_quarantine(
    acme: Database,
) -> None:
    await quarantine(
        acme,
        {"ts_us": NOW_US + 1, "status": -2147483648, "value": None},
        {"ts_us": NOW_US + 2, "tag_id": 2, "value": float("-inf"), "text_bytes": "Öl ⛽".encode()},
        {"ts_us": NOW_US + 3, "tag_id": 777, "value": None, "text_bytes": b""},
    )
    assert await retried(acme) == (3, {})
    assert await stored(acme) == [
        (NOW_US + 1, 1, -2147483648, None, None),
        (NOW_US + 2, 2, 0, float("-inf"), "Öl ⛽"),
        (NOW_US + 3, 777, 0, None, ""),
    ]
    assert await counted(acme, "reading_quarantine") == 0
    assert await retried(acme) == (0, {})


async def test_only_what_was_chosen_is_tried_again(acme: Database) -> None:
    await quarantine(acme, {"tag_id": 1}, {"tag_id": 2}, {"tag_id": 3})
    assert await retried(acme, Selection(tag_ids=[2])) == (1, {})
    assert [row.tag_id for row in await list_quarantined(acme, EVERYTHING, limit=9)] == [3, 1]


async def test_what_cannot_be_stored_stays_as_it_is_and_holds_nobody_up(acme: Database) -> None:
    await quarantine(
        acme,
        {"ts_us": 0, "reason": "timestamp"},
        {"ts_us": RULES.latest_us + 1, "reason": "timestamp"},
        {"ts_us": -(2**63), "reason": "timestamp"},
        {"text_bytes": b"\xff", "reason": "text"},
        {"text_bytes": b"a\0b", "reason": "text"},
        {"text_bytes": "\ud800".encode("utf-8", "surrogatepass"), "reason": "text"},
        {"tag_id": None, "ts_us": None, "status": None, "value": None, "reason": "journal"},
        {"value": 5.0},
    )
    before = await list_quarantined(acme, EVERYTHING, limit=100)
    assert await retried(acme) == (1, {"timestamp": 3, "text": 3, "journal": 1})
    assert [row[3] for row in await stored(acme)] == [5.0]
    assert await list_quarantined(acme, EVERYTHING, limit=100) == before[1:]


async def test_an_odd_time_is_stored_to_the_microsecond_when_somebody_insists(acme: Database) -> None:
    await acme.execute("set time zone 'America/Denver'")
    times = [-62_135_596_799_999_999, -1, 0, 951_782_400_000_001, 253_402_300_799_999_999]
    await quarantine(acme, *({"ts_us": ts_us, "reason": "timestamp"} for ts_us in [*times, -(2**63)]))
    assert await retried(acme, any_time=True) == (5, {"timestamp": 1})
    assert [row[0] for row in await stored(acme)] == times


async def test_what_is_no_text_is_replaced_when_somebody_says_so(acme: Database) -> None:
    await quarantine(acme, {"text_bytes": b"caf\xe9 \0!", "reason": "text", "value": None})
    assert await retried(acme, replace_invalid=True) == (1, {})
    assert [row[4] for row in await stored(acme)] == ["caf\ufffd \ufffd!"]


async def test_a_row_that_is_refused_again_stays_with_its_new_reason_and_the_rest_goes(
    acme: Database,
) -> None:
    await acme.execute(REFUSE)
    await many(acme, 1_002)
    await quarantine(acme, {"value": 2_000.0, "reason": "text", "text_bytes": b"fine", "detail": "old"})
    assert await retried(acme) == (1_000, {"rejected": 3})
    assert len(await stored(acme)) == 1_000
    kept = await list_quarantined(acme, EVERYTHING, limit=9)
    assert [(row.value, row.reason, row.sqlstate, row.detail) for row in kept] == [
        (2000.0, "rejected", "23514", "value 2000 is too large"),
        (1002.0, "rejected", "23514", "value 1002 is too large"),
        (1001.0, "rejected", "23514", "value 1001 is too large"),
    ]
    await acme.execute(ACCEPT)
    assert await retried(acme) == (3, {})


async def test_an_error_that_is_not_a_rows_own_stops_it_and_changes_nothing_of_that_step(
    acme: Database,
) -> None:
    await many(acme, 1_500)
    await acme.execute(
        REFUSE.replace("'check_violation'", "'insufficient_resources'").replace("> 1000", "> 1200")
    )
    told: list[tuple[int, int]] = []

    def progress(done: Retried) -> None:
        told.append((done.stored, done.kept.total()))

    with pytest.raises(DatabaseError, match="cannot try quarantined readings again: value 1201"):
        await retry(acme, EVERYTHING, RULES, progress=progress)
    assert told == [(1_000, 0)]
    assert (await counted(acme, "readings"), await counted(acme, "reading_quarantine")) == (1_000, 500)


async def test_a_connection_that_is_cut_in_the_middle_leaves_every_row_in_one_place(
    acme: Database, databases: MasterAndTenant
) -> None:
    await many(acme, 10)
    async with (
        await connect(databases.tenant_dsn, application="test") as holder,
        await connect(databases.tenant_dsn, application="test victim", autocommit=True) as victim,
    ):
        await holder.execute("lock table readings in access exclusive mode")
        trying = asyncio.create_task(retry(victim, EVERYTHING, RULES))
        waiting = "select pid from pg_stat_activity where application_name = 'test victim' and wait_event_type = 'Lock'"
        while not (found := await (await acme.execute(waiting)).fetchone()):
            assert not trying.done()
        await acme.execute("select pg_terminate_backend(%s)", found)
        with pytest.raises(DatabaseError):
            await trying
    assert (await counted(acme, "readings"), await counted(acme, "reading_quarantine")) == (0, 10)
    assert await retried(acme) == (10, {})
    assert (await counted(acme, "readings"), await counted(acme, "reading_quarantine")) == (10, 0)


async def test_two_that_try_the_same_rows_at_once_store_each_of_them_once(
    acme: Database, databases: MasterAndTenant
) -> None:
    await many(acme, 5_000)
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as other:
        first, second = await asyncio.gather(
            *(retry(connection, EVERYTHING, RULES) for connection in (acme, other))
        )
    assert first.stored + second.stored == 5_000
    assert len({row[3] for row in await stored(acme)}) == await counted(acme, "readings") == 5_000
    assert await counted(acme, "reading_quarantine") == 0


async def test_it_can_be_done_in_parts_and_ends_with_what_was_there_when_it_began(acme: Database) -> None:
    await many(acme, 2_500)
    parts: list[int] = []
    done = Retried()
    while not parts or done.place:
        done = await retry(acme, EVERYTHING, RULES, place=done.place, most_rows=1_000)
        parts.append(done.stored)
        await quarantine(acme, {})
    assert parts == [1_000, 1_000, 500]
    assert await counted(acme, "reading_quarantine") == 3


async def test_long_texts_are_taken_a_few_at_a_time(acme: Database) -> None:
    await quarantine(acme, *({"text_bytes": b"x" * (3 << 20), "value": None} for _ in range(4)))
    told: list[int] = []
    await retry(acme, EVERYTHING, RULES, progress=lambda done: told.append(done.stored))
    assert told[:2] == [2, 4]
    assert await counted(acme, "readings") == 4


async def test_gaps_and_marks_stay_as_they_are(acme: Database) -> None:
    await acme.execute("truncate ingest_marks, reading_gaps")
    await acme.execute(
        """
        insert into ingest_marks (stream, epoch, after, mark, readings, quarantined)
        values (%s, 1, '{0}', '{9}', 5, 3)
        """,
        [STREAM],
    )
    await acme.execute(
        "insert into reading_gaps (tag_id, \"from\", \"to\", cause) values (1, now(), now() + '1 s', 'journal')"
    )
    marks, gaps = "select * from ingest_marks", "select * from reading_gaps"
    before = [await (await acme.execute(table)).fetchall() for table in (marks, gaps)]
    await many(acme, 3)
    assert await retried(acme) == (3, {})
    assert [await (await acme.execute(table)).fetchall() for table in (marks, gaps)] == before


# Dropping


async def test_what_is_dropped_is_gone_and_the_log_keeps_who_did_it_and_how_many_they_were(
    acme: Database,
) -> None:
    await many(acme, 10_003)
    await quarantine(acme, {"reason": "journal", "tag_id": None})
    told: list[int] = []
    with capture_logs() as lines:
        done = await drop(
            acme, Selection(reason=Reason.REJECTED), caller=Caller("acme", "mia@plant"),
            progress=lambda done: told.append(done.rows),
        )  # fmt: skip
    assert (done.rows, done.place) == (10_003, None)
    assert told[:2] == [10_000, 10_003]
    assert [row.reason for row in await list_quarantined(acme, EVERYTHING, limit=9)] == ["journal"]
    assert await counted(acme, "readings") == 0
    said = {"tenant": "acme", "who": "mia@plant", "chosen": "reason rejected", "log_level": "warning"}
    assert lines == [
        said | {"event": "quarantined readings are going to be dropped"},
        said | {"event": "quarantined readings were dropped", "rows": 10_003},
    ]


async def test_dropping_an_empty_quarantine_is_nothing(acme: Database) -> None:
    assert await drop(acme, EVERYTHING, caller=CALLER) == Dropped(0, None)


async def test_dropping_goes_on_where_it_ended(acme: Database) -> None:
    await many(acme, 15_000)
    first = await drop(acme, EVERYTHING, caller=CALLER, most_rows=1)
    assert first.rows == 10_000
    second = await drop(acme, EVERYTHING, caller=CALLER, place=first.place)
    assert (second.rows, second.place) == (5_000, None)
