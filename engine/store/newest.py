"""The newest stored reading of each tag: what continuity begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.readings import Batch, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.store.session import Session

# Through the index (tag_id, ts), so many entries a tag as are asked for.
_NEWEST = """
select wanted.place, extract(epoch from date_trunc('second', r.ts))::bigint * 1000000
    + extract(microseconds from r.ts)::bigint %% 1000000, r.status, r.value, r.text
from unnest(%s::integer[], %s::integer[]) as wanted (id, place) cross join lateral (
    select ts, status, value, text_value is not null as text from stored_readings
    where tag_id = wanted.id and ts > '-infinity' and ts < 'infinity' order by ts desc limit %s
) r
order by wanted.place, r.ts
"""
# Before a server has a value it often says so, with a Bad status and no value. The newest value is then one of these.
_NEWEST_ENTRIES = 5
# So many tags a query, that one takes less than a second and no answer is large.
NEWEST_TAGS = 5_000
_BAD = np.uint32(0x8000_0000)


def nothing_known(tag_ids: NDArray[np.int32]) -> Batch:
    """Return a row for each tag, in the order given, whose ts_us is int64's least."""
    return Batch(
        ts_us=np.full(len(tag_ids), np.iinfo(np.int64).min, np.int64),
        tag_id=tag_ids,
        status=np.zeros(len(tag_ids), np.uint32),
        value=np.zeros(len(tag_ids), np.float64),
        kind=np.zeros(len(tag_ids), np.uint8),
    )


async def fill_newest(session: Session, part: Batch) -> NDArray[np.int64]:
    """Fill the columns of `part`, at most NEWEST_TAGS rows, with the newest reading of each row's tag.

    Return the newest time of each, which is later than that of its row where only readings without a value came since.
    """
    await _fill(session, part, np.arange(len(part)), 1)
    newest_us = part.ts_us.copy()
    nothing = np.flatnonzero((part.kind == Kind.NULL) & (part.status >= _BAD))
    if len(nothing):
        await _fill(session, part, nothing, _NEWEST_ENTRIES)
    return newest_us


async def newest_times(session: Session, tag_ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the newest time of each tag in microseconds since 1970, int64's least where there is none."""
    found = nothing_known(tag_ids)
    for first in range(0, len(tag_ids), NEWEST_TAGS):
        part = found.part(first, first + NEWEST_TAGS)
        await _fill(session, part, np.arange(len(part)), 1)
    return found.ts_us


async def _fill(session: Session, part: Batch, places: NDArray[np.intp], entries: int) -> None:
    cursor = await session.execute(_NEWEST, [part.tag_id[places].tolist(), places.tolist(), entries])
    async for row, ts_us, status, value, text in cursor:
        kind = (Kind.NUMBER if value is not None else 0) | (Kind.TEXT if text else 0)
        if entries > 1 and not kind and status < 0:
            continue  # not the one that is looked for
        part.ts_us[row] = ts_us
        part.status[row] = status & 0xFFFF_FFFF
        part.value[row] = 0.0 if value is None else value
        part.kind[row] = kind
