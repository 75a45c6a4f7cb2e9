"""The read side: readings of a time range, streamed or by the page, and the latest of each tag; always for one tenant.

Owns the SQL. Readings travel as binary COPY and are decoded in C: no Python object per value. Every query goes tag by
tag through the index (tag_id, ts), so that it reads what it returns and not the whole range.

A stream is a row of small queries, each over a slice of time that is as wide as the last slices were thin. Memory stays
bounded on both sides, no connection and no snapshot is held while the client reads, and a slow client costs nobody
anything. In return it is no snapshot: what is stored while it runs appears in the part that is still to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
from psycopg import sql
from psycopg.generators import copy_from
from psycopg.rows import class_row

from engine._fastpath import decode_copy
from engine.database import translated
from engine.errors import DatabaseUnavailable, NotFound
from engine.query.connections import QueryConnections
from engine.query.selection import (
    MOST_TAGS,
    Cursor,
    check_cursor,
    check_limit,
    check_range,
    check_tag_ids,
    timestamp,
)
from engine.readings import READING_COLUMNS, Batch, Kind

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

    from engine.database_pool import Database
    from engine.settings import Settings

_MOST_CONNECTIONS = 4
_CONNECTION_WAIT_S = 10.0
_QUERY_TIMEOUT_S = 30.0

# A page of few tags is one query over the whole range; beyond this number of index entries it goes slice by slice.
_MOST_ENTRIES_AT_ONCE = 1_000_000
_FIRST_SLICE_US = 3_600_000_000
# Slices are planned to bring a little less than a batch, so that most of them are not cut.
_AIM = 0.8
_MOST_CHANGE = 8

# Rows taken from libpq before the event loop gets its turn: about 5 ms.
_ROWS_PER_TURN = 8_192

# Nothing is known yet of the newest chunk's distribution, and the planner then takes each tag for a handful of rows:
# it would collect and sort all of them (measured: 300 ms for a page that takes 3 ms by the index's own order).
_BEGIN = f"begin read only; set local enable_bitmapscan = off; set local statement_timeout = '{_QUERY_TIMEOUT_S:.0f}s'"

# Equal (ts, tag_id) are ordered by all the rest, so that rows which still are equal can stand for each other and the
# offset of a cursor is exact. Within a tag, `with ties` brings all rows among which that order chooses.
_PAGE = """
copy (
    select r.* from unnest({tag_ids}::integer[]) as wanted (id) cross join lateral (
        select {columns} from stored_readings
        where tag_id = wanted.id and ts >= {start} and ts < {end} and (ts > {start} or tag_id >= {start_tag_id})
        order by ts fetch first {most} rows with ties
    ) r
    order by ts, tag_id, status, value, text_value
    limit {limit} offset {skip}
) to stdout (format binary)
"""
_LATEST = """
copy (
    select r.* from unnest({tag_ids}::integer[]) as wanted (id) cross join lateral (
        select {columns} from stored_readings where tag_id = wanted.id and ts < 'infinity' order by ts desc limit 1
    ) r
    order by tag_id
) to stdout (format binary)
"""


_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, READING_COLUMNS))


@dataclass(frozen=True, slots=True)
class TagName:
    """What a tag_id stands for, in answers."""

    tag_id: int
    tag_name: str
    opc_node_id: str
    unit: str | None
    well_id: UUID
    well_name: str


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest reading of a tag."""

    tag: TagName
    ts_us: int
    status: int
    value: float | None
    text_value: str | None


class Readings:
    """The readings of one tenant. `tag_ids` and `well_id` select tags, deleted ones included; neither means all."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._connections = QueryConnections(database, most=_MOST_CONNECTIONS, wait_s=_CONNECTION_WAIT_S)
        self._most_days = settings.max_query_days

    async def tags(
        self, *, tag_ids: Sequence[int] | None = None, well_id: UUID | None = None
    ) -> list[TagName]:
        """Return the selected tags in the order of tag_id; raises NotFound for a tag or well that does not exist."""
        check_tag_ids(tag_ids)
        async with self._connections.use() as connection, asyncio.timeout(_QUERY_TIMEOUT_S):
            with translated("cannot read the tags"):
                async with connection.cursor(row_factory=class_row(TagName)) as cursor:
                    await cursor.execute(
                        """
                        select t.tag_id, t.tag_name, t.opc_node_id, t.unit, t.well_id, w.name as well_name
                        from tag_mappings t join wells w on w.id = t.well_id
                        where (%(tag_ids)s::integer[] is null or t.tag_id = any(%(tag_ids)s))
                            and (%(well_id)s::uuid is null or t.well_id = %(well_id)s)
                        order by t.tag_id
                        """,
                        {"tag_ids": None if tag_ids is None else list(tag_ids), "well_id": well_id},
                    )
                    found = await cursor.fetchall()
                if not found and well_id is not None:
                    known = await connection.execute("select from wells where id = %s", [well_id])
                    if known.rowcount == 0:
                        raise NotFound("well_id", f"there is no well {well_id}")
        missing = set(tag_ids or ()) - {tag.tag_id for tag in found}
        if missing:
            where = "" if well_id is None else f" of well {well_id}"
            raise NotFound("tag_ids", f"there is no tag {min(missing)}{where}")
        return found

    async def range(
        self,
        *,
        from_us: int,
        to_us: int,
        tag_ids: Sequence[int] | None = None,
        well_id: UUID | None = None,
        limit: int,
        after: Cursor | None = None,
    ) -> Batch:
        """Return the first `limit` readings in [from_us, to_us) after the cursor, in the order of (ts, tag_id).

        Fewer than `limit` means that there are no more; else Cursor.after(batch, after) begins the next page. Raises
        InvalidInput naming from, to, limit, tag_ids or page_token, NotFound, and Database errors.
        """
        check_range(from_us, to_us, most_days=self._most_days)
        check_limit(limit)
        check_cursor(after, from_us, to_us)
        ids = [tag.tag_id for tag in await self.tags(tag_ids=tag_ids, well_id=well_id)]
        at_once = len(ids) * limit <= _MOST_ENTRIES_AT_ONCE
        width_us = to_us - from_us if at_once else _FIRST_SLICE_US
        parts: list[Batch] = []
        missing = limit
        async for part in self._slices(ids, from_us, to_us, limit, width_us=width_us, after=after):
            parts.append(part.part(0, missing))
            missing -= len(parts[-1])
            if missing == 0:
                break
        return _joined(parts)

    async def stream(
        self,
        *,
        from_us: int,
        to_us: int,
        tag_ids: Sequence[int] | None = None,
        well_id: UUID | None = None,
        rows_per_batch: int = 10_000,
    ) -> AsyncGenerator[Batch, None]:
        """Yield all readings in [from_us, to_us) in the order of (ts, tag_id), at most `rows_per_batch` at a time.

        Raises as `range` does, before the first batch for anything that is wrong with the request.
        """
        check_range(from_us, to_us, most_days=self._most_days)
        check_limit(rows_per_batch)
        ids = [tag.tag_id for tag in await self.tags(tag_ids=tag_ids, well_id=well_id)]
        width_us = _FIRST_SLICE_US
        async for batch in self._slices(ids, from_us, to_us, rows_per_batch, width_us=width_us, after=None):
            yield batch

    async def latest(
        self, *, tag_ids: Sequence[int] | None = None, well_id: UUID | None = None
    ) -> list[Latest]:
        """Return the newest reading of each selected tag that has one, in the order of tag_id."""
        names = {tag.tag_id: tag for tag in await self.tags(tag_ids=tag_ids, well_id=well_id)}
        ids = list(names)
        found: list[Latest] = []
        for first in range(0, len(ids), MOST_TAGS):
            query = sql.SQL(_LATEST).format(
                tag_ids=sql.Literal(ids[first : first + MOST_TAGS]), columns=_COLUMNS
            )
            found += _latest_of(await self._fetch(query), names)
        return found

    async def _slices(
        self,
        tag_ids: Sequence[int],
        from_us: int,
        to_us: int,
        most_rows: int,
        *,
        width_us: int,
        after: Cursor | None,
    ) -> AsyncGenerator[Batch, None]:
        """Yield the readings of one slice of time after the other, empty ones left out; begin with `width_us`."""
        start_us = from_us if after is None else after.ts_us
        while start_us < to_us and tag_ids:
            end_us = min(start_us + width_us, to_us)
            batch = await self._fetch(_page(tag_ids, start_us, end_us, most_rows, after))
            after = Cursor.after(batch, after) if len(batch) == most_rows else None
            reached_us = after.ts_us if after else end_us
            width_us = _next_width_us(width_us, reached_us - start_us, len(batch) / most_rows)
            start_us = reached_us
            if len(batch):
                yield batch

    async def _fetch(self, query: sql.Composed) -> Batch:
        """Run a COPY whose result fits in memory and return it."""
        try:
            async with self._connections.use() as connection, asyncio.timeout(_QUERY_TIMEOUT_S):
                received = bytearray()
                with translated("cannot read readings"):
                    await connection.execute(_BEGIN)
                    async with connection.cursor().copy(query):
                        # Not copy.read(): that goes through the event loop once a row.
                        more = True
                        while more:
                            more = await connection.wait(_take_rows(connection.pgconn, received))
                            await asyncio.sleep(0)
                    await connection.execute("commit")
        except TimeoutError as exc:
            raise DatabaseUnavailable(f"no answer to a query in {_QUERY_TIMEOUT_S} seconds") from exc
        return decode_copy(received)


def _page(
    tag_ids: Sequence[int], start_us: int, end_us: int, limit: int, after: Cursor | None
) -> sql.Composed:
    """Compose the query; COPY takes no parameters, so they are literals, and none of them is a text from outside."""
    skip = after.skip if after else 0
    return sql.SQL(_PAGE).format(
        columns=_COLUMNS,
        tag_ids=sql.Literal(list(tag_ids)),
        start=sql.Literal(timestamp(start_us)),
        end=sql.Literal(timestamp(end_us)),
        start_tag_id=sql.Literal(after.tag_id if after else 0),
        most=sql.Literal(limit + skip),
        limit=sql.Literal(limit),
        skip=sql.Literal(skip),
    )


def _next_width_us(width_us: int, covered_us: int, filled: float) -> int:
    """Return how wide the next slice should be, when the last one filled this part of a batch in `covered_us`."""
    if covered_us == 0:  # more rows at one moment than fit: that says nothing about what follows
        return width_us
    wanted_us = int(covered_us * _AIM / filled) if filled else width_us * _MOST_CHANGE
    return max(1, width_us // _MOST_CHANGE, min(wanted_us, width_us * _MOST_CHANGE))


def _take_rows(pgconn: PGconn, into: bytearray) -> PQGen[bool]:
    """Append what the server sent, up to _ROWS_PER_TURN rows; False at the end of the COPY."""
    for _ in range(_ROWS_PER_TURN):
        received = yield from copy_from(pgconn)
        if not isinstance(received, memoryview):
            return False
        into += received
    return True


def _latest_of(batch: Batch, names: dict[int, TagName]) -> list[Latest]:
    return [
        Latest(
            tag=names[int(tag_id)],
            ts_us=int(ts_us),
            status=int(status),
            value=float(value) if kind & Kind.NUMBER else None,
            text_value=batch.texts.get(row),
        )
        for row, (ts_us, tag_id, status, value, kind) in enumerate(
            zip(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, strict=True)
        )
    ]


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    texts: dict[int, str] = {}
    rows = 0
    for part in parts:
        texts |= {rows + row: text for row, text in part.texts.items()}
        rows += len(part)
    return Batch(
        ts_us=np.concatenate([np.empty(0, np.int64), *(part.ts_us for part in parts)]),
        tag_id=np.concatenate([np.empty(0, np.int32), *(part.tag_id for part in parts)]),
        status=np.concatenate([np.empty(0, np.uint32), *(part.status for part in parts)]),
        value=np.concatenate([np.empty(0, np.float64), *(part.value for part in parts)]),
        kind=np.concatenate([np.empty(0, np.uint8), *(part.kind for part in parts)]),
        texts=texts,
    )
