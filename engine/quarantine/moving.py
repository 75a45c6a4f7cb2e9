"""Moves rows of the quarantine into readings, or deletes them. Owns these transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
from psycopg import errors

from engine.database import translated
from engine.quarantine.listing import CHOSEN
from engine.quarantine.records import Caller, Dropped, Place, Retried, RetryRules, Selection
from engine.unstorable import LEAST_US, Reason

if TYPE_CHECKING:
    from psycopg import AsyncConnection

log = structlog.get_logger(__name__)

# id, tag_id, ts_us, status, value, text
_Storable: TypeAlias = tuple[int, int, int, int, float | None, str | None]

# One transaction: well below a second, so that nobody waits for its locks.
RETRIED_ROWS = 1_000
RETRIED_TEXT_BYTES = 8 << 20
DROPPED_ROWS = 10_000

# timestamptz begins in 4714 BC; it ends after the last microsecond that 64 bits hold.
_TIMESTAMPTZ_LEAST_US = -210_866_803_200_000_000
_DETAIL_CHARACTERS = 500
_LOCK = f"""
select q.id, q.tag_id, q.ts_us, q.status, q.value, q.reason, octet_length(q.text_bytes)
from reading_quarantine q
where {CHOSEN} and q.id > %(after)s and q.id <= %(last)s
order by q.id
limit {RETRIED_ROWS}
for update of q
"""
# Exact for every bigint: days and microseconds are whole numbers, and without a time zone each day is as long.
_INSERT = """
insert into readings (ts, tag_id, status, value, text_value)
select ('epoch'::timestamp + make_interval(days => (ts_us / 86400000000)::integer)
        + ts_us %% 86400000000 * interval '1 us') at time zone 'UTC',
    tag_id, status, value, text_value
from unnest(%s::integer[], %s::bigint[], %s::integer[], %s::float8[], %s::text[])
    as row (tag_id, ts_us, status, value, text_value)
"""
# Rollups of these minutes are computed anew (migration 0008).
_NOTE = "insert into rollup_changes (minutes) values (%s::int8multirange)"
_REFUSE = """
update reading_quarantine q set reason = 'rejected', sqlstate = refused.sqlstate, detail = refused.detail
from unnest(%s::bigint[], %s::text[], %s::text[]) as refused (id, sqlstate, detail)
where q.id = refused.id
"""
_DROP = f"""
with chosen as (
    select q.id from reading_quarantine q
    where {CHOSEN} and q.id > %(after)s and q.id <= %(last)s
    order by q.id limit {DROPPED_ROWS} for update of q
), gone as (
    delete from reading_quarantine where id in (select id from chosen) returning id
)
select count(*), max(id) from gone
"""


async def retry(
    database: AsyncConnection[Any],
    selection: Selection,
    rules: RetryRules,
    *,
    place: Place | None = None,
    most_rows: int | None = None,
    progress: Callable[[Retried], None] = lambda _: None,
) -> Retried:
    """Store rows that can be stored now, and take them out of the quarantine; the oldest first.

    Goes on at `place`, and ends early, with a place to go on, when it has come to `most_rows`. A row that the database
    refuses stays, with the new reason. Raises InvalidInput for the selection, and Database errors: what `progress` was
    told last is then done.
    """
    parameters = selection.parameters()
    done = Retried(place=place or await rows_now(database))
    while done.place is not None and (most_rows is None or done.stored + done.kept.total() < most_rows):
        with translated("cannot try quarantined readings again"):
            async with database.transaction():
                stored, kept, after = await _retry_some(database, parameters | asdict(done.place), rules)
        done.stored += stored
        done.kept += kept
        done.place = None if after is None else Place(after, done.place.last)
        progress(done)
    return done


async def drop(
    database: AsyncConnection[Any],
    selection: Selection,
    *,
    caller: Caller,
    place: Place | None = None,
    most_rows: int | None = None,
    progress: Callable[[Dropped], None] = lambda _: None,
) -> Dropped:
    """Delete rows for good; the log keeps who did it and how many they were. Goes on and ends as `retry` does."""
    parameters = selection.parameters()
    done = Dropped(place=place or await rows_now(database))
    told = {"tenant": caller.tenant, "who": caller.who, "chosen": str(selection)}
    # Before the first of them goes, so that there is a trace of it whatever happens then.
    log.warning("quarantined readings are going to be dropped", **told)
    try:
        while done.place is not None and (most_rows is None or done.rows < most_rows):
            with translated("cannot drop quarantined readings"):
                async with database.transaction():
                    found = await database.execute(_DROP, parameters | asdict(done.place))
                    rows, after = await found.fetchone() or (0, None)
            done.rows += rows
            done.place = None if after is None else Place(after, done.place.last)
            progress(done)
    finally:
        log.warning("quarantined readings were dropped", rows=done.rows, **told)
    return done


async def rows_now(database: AsyncConnection[Any]) -> Place | None:
    """Return the place at which a change of all rows that are there now begins; None when there are none."""
    with translated("cannot read the quarantine"):
        found = await (await database.execute("select max(id) from reading_quarantine")).fetchone()
    return None if found is None or found[0] is None else Place(0, found[0])


async def _retry_some(
    database: AsyncConnection[Any], parameters: dict[str, Any], rules: RetryRules
) -> tuple[int, Counter[Reason], int | None]:
    """Move some rows in the transaction that is open; return how many, those that stay, and the last id or None."""
    # A role or a database may have it off, and then a commit would not be for good.
    await database.execute("set local synchronous_commit = on")
    found = await (await database.execute(_LOCK, parameters)).fetchall()
    if not found:
        return 0, Counter(), None
    rows = found[: _fitting([row[-1] or 0 for row in found])]
    texts = await _texts(database, [row[0] for row in rows if row[-1] is not None], rules)
    kept: Counter[Reason] = Counter()
    storable: list[_Storable] = []
    for row_id, tag_id, ts_us, status, value, reason, text_nbytes in rows:
        text = texts.get(row_id)
        if reason == Reason.JOURNAL or tag_id is None:
            kept[Reason.JOURNAL] += 1
        elif not _is_storable_time(ts_us, rules):
            kept[Reason.TIMESTAMP] += 1
        elif text is None and text_nbytes is not None:
            kept[Reason.TEXT] += 1
        else:
            storable.append((row_id, tag_id, ts_us, status, value, text))
    refused = await _move(database, storable)
    kept[Reason.REJECTED] += refused
    return len(storable) - refused, +kept, rows[-1][0]


def _fitting(sizes: Sequence[int]) -> int:
    """Return how many rows fit into memory: at least one."""
    total = 0
    for count, nbytes in enumerate(sizes):
        total += nbytes
        if total > RETRIED_TEXT_BYTES and count:
            return count
    return len(sizes)


def _is_storable_time(ts_us: int | None, rules: RetryRules) -> bool:
    if ts_us is None:
        return False
    if rules.any_time:
        return ts_us >= _TIMESTAMPTZ_LEAST_US
    return LEAST_US <= ts_us <= rules.latest_us


async def _texts(database: AsyncConnection[Any], ids: Sequence[int], rules: RetryRules) -> dict[int, str]:
    """Return the texts of these rows that can be stored."""
    if not ids:
        return {}
    found = await database.execute("select id, text_bytes from reading_quarantine where id = any(%s)", [ids])
    texts: dict[int, str] = {}
    async for row_id, data in found:
        text = bytes(data).decode("utf-8", "replace")
        if rules.replace_invalid:
            texts[row_id] = text.replace("\0", "\ufffd")
        elif text.encode() == data and "\0" not in text:
            texts[row_id] = text
    return texts


async def _move(database: AsyncConnection[Any], storable: Sequence[_Storable]) -> int:
    """Move rows into readings, in halves where the database refuses some; return how many it refused."""
    refused: list[tuple[Any, str | None, str]] = []
    parts = [storable] if storable else []
    while parts:
        part = parts.pop()
        ids, *columns = (list(column) for column in zip(*part, strict=True))
        try:
            async with database.transaction():
                await database.execute(_INSERT, columns)
                await database.execute(_NOTE, [_minutes(columns[1])])
                await database.execute("delete from reading_quarantine where id = any(%s)", [ids])
        except (errors.DataError, errors.IntegrityError) as exc:
            if len(part) == 1:
                refused.append((ids[0], exc.sqlstate, _told(exc)))
            else:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
    if refused:
        await database.execute(_REFUSE, [list(column) for column in zip(*refused, strict=True)])
    return len(refused)


def _minutes(ts_us: Sequence[int]) -> str:
    """Return the minutes since 1970 of these times as PostgreSQL writes a multirange."""
    minutes = {each // 60_000_000 for each in ts_us}
    return "{" + ",".join(f"[{minute},{minute + 1})" for minute in minutes) + "}"


def _told(exc: errors.Error) -> str:
    said = exc.diag.message_primary or str(exc)
    return " ".join(said.split())[:_DETAIL_CHARACTERS]
