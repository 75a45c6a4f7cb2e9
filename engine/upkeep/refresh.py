"""Computes pending minutes anew, in pieces, the newest first; then the hours and days that have none left.

One piece is one transaction in repeatable read:

    1  lock rollup_state; from here on, one state of the database is seen
    2  choose some of the minutes in rollup_changes and take them out of it (`chosen_piece`)
    3  compute those minutes from the readings, tag by tag through the index; write the rows that differ
    4  the same for hours from minutes, and for days from hours, where none of their minutes is pending any more

It is right whatever happens at the same time. A row of rollup_changes is written in the transaction of its readings:
who sees it (and takes it out) sees them. What a transaction commits that is not seen here stays noted, and is computed
again. Two refreshers wait for each other; if they did not, both would write the same rows and the later one be rolled
back. A crash rolls the piece back as a whole. Minutes that are computed in vain only cost time, so small holes between
chosen minutes are computed, too.

What is not computed, and stays noted: minutes that are not over for `delay_s` yet; more readings of them will come, and
meanwhile the views compute them. Minutes of a time that retention has dropped are only taken out of rollup_changes:
their rollups stay as they are, and readings that came too late are in no rollup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import DatabaseError
from engine.upkeep.transaction import upkeep_transaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# From a minute up to another one, in minutes since 1970.
Span: TypeAlias = tuple[int, int]

# A span costs a look for each tag, 20 us; as much as the rows of some minutes.
HOLE_MINUTES = 10
SPANS = 32
# Rows of rollup_changes are many where changes are scattered; so many are looked at, the newest.
_SPANS_READ = 4_096
_DAY_MINUTES = 1_440
# A minute of a million tags takes 20 s: one statement is of so many tags, far from its time limit.
TAGS_AT_ONCE = 100_000
_LAST_TAG = (1 << 31) - 1
_SLOW_S = 4.0
_QUICK_S = 1.0

_PENDING = """
select lower(part), upper(part)
from (select unnest(range_agg(change)) as part from rollup_changes, unnest(minutes) change) merged
order by 1 desc
limit %s
"""
# The remaining minutes in two rows: those that are due keep the time since when, for the lag.
_TAKE = """
with gone as (
    delete from rollup_changes returning minutes, noted_at
), part as (
    select change as span, noted_at from gone cross join unnest(minutes) change
), remaining as (
    select range_agg(span) - %(piece)s::int8multirange as minutes,
        min(noted_at) filter (where lower(span) < %(young)s) as noted_at
    from part
)
insert into rollup_changes (minutes, noted_at)
select minutes * int8multirange(int8range(null, %(young)s)), coalesce(noted_at, now()) from remaining
where minutes && int8range(null, %(young)s)
union all
select minutes * int8multirange(int8range(%(young)s, null)), now() from remaining
where minutes && int8range(%(young)s, null)
"""
_COLUMNS = "count, good_count, value_count, sum, min, max, first, last"
_VALUES = "{0}.count, {0}.good_count, {0}.value_count, {0}.sum, {0}.min, {0}.max, {0}.first, {0}.last"
# Only what differs is written: a row of a compressed chunk costs the decompression of its batch.
_STORE = f"""
with computed as materialized (
    {{computed}}
), known as materialized (
    select k.* from tag_mappings t cross join lateral (
        select * from {{table}} r
        where r.tag_id = t.tag_id
            and r.bucket >= to_timestamp(%(since)s::bigint * 60) and r.bucket < to_timestamp(%(until)s::bigint * 60)
        offset 0
    ) k
    where t.tag_id between %(first_tag)s::integer and %(last_tag)s::integer
), stored as (
    insert into {{table}} as r (bucket, tag_id, {_COLUMNS})
    select bucket, tag_id, {_VALUES.format("c")}
    from computed c left join known k using (tag_id, bucket)
    where k.tag_id is null or ({_VALUES.format("c")}) is distinct from ({_VALUES.format("k")})
    order by tag_id, bucket
    on conflict (tag_id, bucket) do update set
        {", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", "))}
    returning 1
), gone as materialized (
    select tag_id, bucket from known where not exists (
        select from computed where (computed.tag_id, computed.bucket) = (known.tag_id, known.bucket)
    )
)
select
    (select coalesce(sum(count), 0)::bigint from computed),
    (select count(*) from stored),
    (select array_agg(tag_id) from gone),
    (select array_agg((extract(epoch from bucket) / 60)::bigint) from gone)
"""
_OF_READINGS = """
    select * from rollups_of_readings(to_timestamp(%(since)s::bigint * 60), to_timestamp(%(until)s::bigint * 60))
    where tag_id between %(first_tag)s::integer and %(last_tag)s::integer
"""
_OF_FINER = """
    select made.* from tag_mappings t cross join lateral (
        select
            date_bin('{width}', r.bucket, 'epoch') as bucket,
            r.tag_id,
            sum(r.count)::bigint as count,
            sum(r.good_count)::bigint as good_count,
            sum(r.value_count)::bigint as value_count,
            sum(r.sum) as sum,
            min(r.min) as min,
            max(r.max) as max,
            (array_agg(r.first order by r.bucket) filter (where r.value_count > 0))[1] as first,
            (array_agg(r.last order by r.bucket desc) filter (where r.value_count > 0))[1] as last
        from {finer} r
        where r.tag_id = t.tag_id
            and r.bucket >= to_timestamp(%(since)s::bigint * 60) and r.bucket < to_timestamp(%(until)s::bigint * 60)
        group by date_bin('{width}', r.bucket, 'epoch'), r.tag_id
    ) made
    where t.tag_id between %(first_tag)s::integer and %(last_tag)s::integer
"""
_STORE_1M = _STORE.format(table="rollups_1m", computed=_OF_READINGS)
_STORE_1H = _STORE.format(table="rollups_1h", computed=_OF_FINER.format(width="1 hour", finer="rollups_1m"))
_STORE_1D = _STORE.format(table="rollups_1d", computed=_OF_FINER.format(width="24 hours", finer="rollups_1h"))
_TAGS = """
select tag_id from (select tag_id, row_number() over (order by tag_id) as place from tag_mappings) placed
where place %% %s = 1
order by tag_id
"""
_COMPLETE = """
select (extract(epoch from lower(span)) / 60)::bigint, (extract(epoch from upper(span)) / 60)::bigint
from unnest(
    (select range_agg(tstzrange(
        date_bin(%(width)s, to_timestamp(since * 60), 'epoch'),
        date_bin(%(width)s, to_timestamp((until - 1) * 60), 'epoch') + %(width)s::interval
    )) from unnest(%(since)s::bigint[], %(until)s::bigint[]) as spans (since, until))
    - pending_spans(%(width)s)
) span
"""
_KEPT_FROM = """
select (extract(epoch from greatest(readings_from, '4714-11-24 00:00Z BC')) / 60)::bigint from rollup_state
"""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a piece was. `minutes` 0: nothing was due."""

    minutes: int = 0
    """That were computed, holes between them included, or that lie before what is kept."""
    readings: int = 0
    """That were read."""
    rows: int = 0
    """Of rollups that were written or deleted, minutes, hours and days."""
    more: bool = False
    """More is due."""


class Refresher:
    """Refreshes one database; learns how much fits into a second."""

    def __init__(self, *, delay_s: float = 60.0, now_s: Callable[[], float] = time.time) -> None:
        """`delay_s`: a minute is left pending until it is over for so long."""
        self._delay_s = delay_s
        self._now_s = now_s
        self._most_minutes = 60

    async def refresh_piece(self, database: AsyncConnection[Any]) -> Refreshed:
        """Compute some of the pending minutes. Raises Database errors; then nothing was done."""
        began_s = time.monotonic()
        try:
            async with upkeep_transaction(database, "cannot refresh rollups"):
                done = await self._piece(database)
        except DatabaseError as exc:
            if exc.is_timeout:
                self._most_minutes = max(1, self._most_minutes // 2)
            raise
        took_s = time.monotonic() - began_s
        if took_s > _SLOW_S:
            self._most_minutes = max(1, self._most_minutes // 2)
        elif took_s < _QUICK_S and done.minutes >= self._most_minutes // 2:
            self._most_minutes = min(_DAY_MINUTES, self._most_minutes * 2)
        return done

    async def _piece(self, database: AsyncConnection[Any]) -> Refreshed:
        pending: list[Span] = await (await database.execute(_PENDING.encode(), [_SPANS_READ])).fetchall()
        young = int((self._now_s() - self._delay_s) // 60)
        piece, more = chosen_piece(pending, young, self._most_minutes)
        if not piece:
            return Refreshed()
        taken = "{" + ",".join(f"[{since},{until})" for since, until in piece) + "}"
        await database.execute(_TAKE.encode(), {"piece": taken, "young": young})
        kept_from = (await _row(database, _KEPT_FROM, {}))[0]
        kept = [(max(since, kept_from), until) for since, until in piece if until > kept_from]
        tags = await _tag_ranges(database)
        readings, rows = 0, 0
        for span in kept:
            read, written = await _store(database, "rollups_1m", _STORE_1M, span, tags)
            readings, rows = readings + read, rows + written
        for table, store, width in (
            ("rollups_1h", _STORE_1H, "1 hour"),
            ("rollups_1d", _STORE_1D, "24 hours"),
        ):
            parameters = {
                "since": [span[0] for span in kept],
                "until": [span[1] for span in kept],
                "width": width,
            }
            for span in await (await database.execute(_COMPLETE.encode(), parameters)).fetchall():
                rows += (await _store(database, table, store, span, tags))[1]
        minutes = sum(until - since for since, until in piece)
        return Refreshed(minutes, readings, rows, more or len(pending) == _SPANS_READ)


def chosen_piece(pending: Sequence[Span], young: int, most_minutes: int) -> tuple[list[Span], bool]:
    """Return what is to be computed now, and whether more is due.

    `pending` and the answer are ordered from the newest to the oldest. Minutes from `young` on are not due.
    """
    piece: list[Span] = []
    left = most_minutes
    for since, end in pending:
        until = min(end, young)
        if since >= until:
            continue
        hole = piece[-1][0] - until if piece else 0
        joins = bool(piece) and hole <= min(HOLE_MINUTES, left - 1)
        if left < 1 or (len(piece) == SPANS and not joins):
            return piece, True
        if joins:
            first = max(since, until - (left - hole))
            left -= piece[-1][0] - first
            piece[-1] = (first, piece[-1][1])
        else:
            first = max(since, until - left)
            left -= until - first
            piece.append((first, until))
        if first > since:
            return piece, True
    return piece, False


async def _tag_ranges(database: AsyncConnection[Any]) -> list[tuple[int, int]]:
    """Return ranges of tag ids, first and last, that have so many tags as one statement takes."""
    found = await (await database.execute(_TAGS.encode(), [TAGS_AT_ONCE])).fetchall()
    firsts = [tag_id for (tag_id,) in found]
    lasts = [tag_id - 1 for tag_id in firsts[1:]] + [_LAST_TAG]
    return list(zip(firsts, lasts, strict=False))


async def _store(
    database: AsyncConnection[Any], table: str, statement: str, span: Span, tags: list[tuple[int, int]]
) -> tuple[int, int]:
    """Compute the rows of a span and write those that differ; return how many readings and rows that was."""
    readings, rows = 0, 0
    for first_tag, last_tag in tags:
        parameters = {"since": span[0], "until": span[1], "first_tag": first_tag, "last_tag": last_tag}
        read, written, tag_ids, minutes = await _row(database, statement, parameters)
        for tag_id, minute in zip(tag_ids or (), minutes or (), strict=True):
            # One by one: then TimescaleDB need not decompress what is not meant.
            await database.execute(
                f"delete from {table} where tag_id = %s and bucket = to_timestamp(%s::bigint * 60)".encode(),
                [tag_id, minute],
            )
        readings, rows = readings + read, rows + written + len(tag_ids or ())
    return readings, rows


async def _row(database: AsyncConnection[Any], statement: str, parameters: dict[str, Any]) -> Any:
    return await (await database.execute(statement.encode(), parameters)).fetchone()
