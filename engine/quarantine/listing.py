"""Lists and counts the quarantine. Owns the SQL that chooses rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from engine.database import translated
from engine.errors import InvalidInput
from engine.quarantine.records import BIGINT_MOST, TEXT_SHOWN_BYTES, Quarantined, Selection
from engine.unstorable import Reason

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ROWS_PER_PAGE_MOST = 10_000

# Of reading_quarantine q; takes Selection.parameters().
CHOSEN = """
    (%(ids)s::bigint[] is null or q.id = any(%(ids)s))
    and (%(tag_ids)s::integer[] is null or q.tag_id = any(%(tag_ids)s))
    and (%(well_id)s::uuid is null or q.tag_id in (select tag_id from tag_mappings where well_id = %(well_id)s))
    and (%(reason)s::text is null or q.reason = %(reason)s)
    and (%(since)s::timestamptz is null or q.quarantined_at >= %(since)s)
    and (%(until)s::timestamptz is null or q.quarantined_at < %(until)s)
"""
_LIST = f"""
select q.id, q.stream, q.sequence, q.place, q.tag_id, t.tag_name, t.opc_node_id::text as opc_node_id, t.well_id,
    w.name as well_name, q.ts_us, q.status, q.value, substring(q.text_bytes for {TEXT_SHOWN_BYTES}) as text_begin,
    octet_length(q.text_bytes) as text_nbytes, q.reason, q.sqlstate, q.detail, q.quarantined_at
from reading_quarantine q
left join tag_mappings t using (tag_id)
left join wells w on w.id = t.well_id
where {CHOSEN} and (%(before)s::bigint is null or q.id < %(before)s)
order by q.id desc
limit %(limit)s
"""
_COUNT = f"select q.reason, count(*) from reading_quarantine q where {CHOSEN} group by q.reason"


async def list_quarantined(
    database: AsyncConnection[Any], selection: Selection, *, limit: int, before: int | None = None
) -> list[Quarantined]:
    """Return the newest `limit` rows, the newest first; `before` is the id of the last row of the page before.

    Raises InvalidInput naming limit, before or a field of the selection, and Database errors.
    """
    if not 1 <= limit <= ROWS_PER_PAGE_MOST:
        raise InvalidInput("limit", f"{limit} is not between 1 and {ROWS_PER_PAGE_MOST}")
    if before is not None and not 1 <= before <= BIGINT_MOST:
        raise InvalidInput("before", f"{before} is not the id of a row")
    parameters = selection.parameters() | {"before": before, "limit": limit}
    with translated("cannot read the quarantine"):
        async with database.cursor(row_factory=class_row(Quarantined)) as cursor:
            await cursor.execute(_LIST, parameters)
            return await cursor.fetchall()


async def count_quarantined(database: AsyncConnection[Any], selection: Selection) -> Counter[Reason]:
    """Return how many rows there are, by reason. Raises InvalidInput and Database errors."""
    parameters = selection.parameters()
    with translated("cannot count the quarantine"):
        found = await database.execute(_COUNT, parameters)
        return Counter({Reason(reason): rows async for reason, rows in found})
