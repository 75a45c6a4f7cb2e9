"""The gaps of a time range: intervals in which readings are missing and could not be recovered. Owns the SQL.

A gap belongs to a range when the two overlap; one that ends exactly where the range begins does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from engine.database import translated
from engine.query.selection import check_limit, check_range, check_tag_ids, timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

_US = (
    "extract(epoch from date_trunc('second', {0}))::bigint * 1000000"
    " + extract(microseconds from {0})::bigint %% 1000000"
)
_GAPS = f"""
select g.tag_id, t.tag_name, t.opc_node_id, t.well_id, w.name,
    {_US.format('g."from"')}, {_US.format('g."to"')}, g.cause, g.recorded_at
from reading_gaps g
join tag_mappings t using (tag_id)
join wells w on w.id = t.well_id
where g."from" < %(to)s and g."to" > %(from)s
    and (%(tag_ids)s::integer[] is null or g.tag_id = any(%(tag_ids)s))
    and (%(well_id)s::uuid is null or t.well_id = %(well_id)s)
    and (%(after_from)s::timestamptz is null
        or (g."from", g.tag_id, g."to", g.cause) > (%(after_from)s, %(after_tag)s, %(after_to)s, %(after_cause)s))
order by g."from", g.tag_id, g."to", g.cause
limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class GapPlace:
    """A gap's place in the list: what tells it from all others."""

    from_us: int
    tag_id: int
    to_us: int
    cause: str


@dataclass(frozen=True, slots=True)
class ReadingGap:
    """One interval in which readings of a tag are missing; both ends are readings that are there."""

    tag_id: int
    tag_name: str
    opc_node_id: str
    well_id: UUID
    well_name: str
    from_us: int
    to_us: int
    cause: str
    """The label of an engine.gaps.Cause."""
    recorded_at: datetime

    @property
    def place(self) -> GapPlace:
        """Where it is in the list."""
        return GapPlace(self.from_us, self.tag_id, self.to_us, self.cause)


async def list_gaps(
    database: AsyncConnection[Any],
    *,
    from_us: int,
    to_us: int,
    tag_ids: Sequence[int] | None = None,
    well_id: UUID | None = None,
    limit: int,
    after: GapPlace | None = None,
    most_days: int,
) -> list[ReadingGap]:
    """Return the first `limit` gaps that overlap [from_us, to_us), in the order of (from, tag_id), behind `after`.

    Gaps of deleted tags are shown, as their readings are. Raises InvalidInput naming from, to, limit or tag_ids, and
    Database errors.
    """
    check_range(from_us, to_us, most_days=most_days)
    check_limit(limit)
    check_tag_ids(tag_ids)
    with translated("cannot read the gaps"):
        found = await database.execute(
            _GAPS,
            {
                "from": timestamp(from_us),
                "to": timestamp(to_us),
                "tag_ids": None if tag_ids is None else list(tag_ids),
                "well_id": well_id,
                "after_from": after and timestamp(after.from_us),
                "after_tag": after and after.tag_id,
                "after_to": after and timestamp(after.to_us),
                "after_cause": after and after.cause,
                "limit": limit,
            },
        )
        return [ReadingGap(*row) async for row in found]
