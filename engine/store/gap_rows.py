"""What commits change in reading_gaps: gaps that were found, that were filled, and those that a lost frame leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.gaps import Cause, GapChanges, Gaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.frames import Frame, Loss
    from engine.store.session import Session

# timestamptz begins in 4714 BC; int64 microseconds since 1970 end before it does.
_LEAST_US = -210_866_803_200_000_000
# Exact for every time that an OPC UA server can send: both products stay below 2^53.
_TIME = "'epoch'::timestamptz + {0} / 1000000 * interval '1 s' + {0} %% 1000000 * interval '1 us'"
_COLUMNS = f"""
select tag_id, {_TIME.format("from_us")} as "from", {_TIME.format("to_us")} as "to", cause
from unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::text[]) as gap (tag_id, from_us, to_us, cause)
"""
_RECORD = f"""
insert into reading_gaps (tag_id, "from", "to", cause) {_COLUMNS} on conflict do nothing
"""
_FORGET = f"""
delete from reading_gaps g using ({_COLUMNS}) as gap
where (g.tag_id, g."from", g."to", g.cause) = (gap.tag_id, gap."from", gap."to", gap.cause)
"""
# Tags that were deleted before the hole ended have none. A lane beside it may have stored readings from behind it.
_LOST = f"""
with tag as (
    select tag_id, deleted_at from tag_mappings where tag_id > %s order by tag_id limit %s
), hole as (
    select {_TIME.format("%s::bigint")} as until
), recorded as (
    insert into reading_gaps (tag_id, "from", "to", cause)
    select tag.tag_id, newest.ts, hole.until, %s
    from tag cross join hole cross join lateral (
        select ts from stored_readings
        where tag_id = tag.tag_id and ts > '-infinity' and ts < hole.until order by ts desc limit 1
    ) newest
    where tag.deleted_at is null or tag.deleted_at > hole.until
    on conflict do nothing
)
select max(tag_id) from tag
"""
# So many tags a statement, that one takes less than a second.
_LOST_TAGS = 5_000


def net_changes(frames: Sequence[Frame]) -> GapChanges:
    """Return what the changes of these frames come to, in their order; in a frame, gaps are recorded, then forgotten.

    What is no interval, or begins before timestamptz does, is left out: it would hold up everything behind it.
    """
    changes = [frame.gaps for frame in frames if frame.gaps]
    recorded = [_intervals(change.recorded) for change in changes]
    recovered = [change.recovered for change in changes]
    if not any(map(len, recorded)) or not any(map(len, recovered)):
        return GapChanges(Gaps.joined(recorded), Gaps.joined(recovered))
    # Of changes to the same gap the last one counts.
    every = Gaps.joined([part for pair in zip(recorded, recovered, strict=True) for part in pair])
    is_recorded = np.concatenate(
        [np.full(len(part), on) for pair in zip(recorded, recovered, strict=True)
         for on, part in zip((True, False), pair, strict=True)]
    )  # fmt: skip
    keys = np.stack([every.tag_id, every.from_us, every.to_us, every.cause], axis=1)
    _, last = np.unique(keys[::-1], axis=0, return_index=True)
    last = len(every) - 1 - last
    return GapChanges(every.where(last[is_recorded[last]]), every.where(last[~is_recorded[last]]))


async def change_gaps(session: Session, changes: GapChanges) -> None:
    """Record and forget gaps; recording one that is there, or forgetting one that is not, changes nothing."""
    for statement, gaps in ((_RECORD, changes.recorded), (_FORGET, changes.recovered)):
        if len(gaps):
            await session.execute(statement, _columns(gaps))


async def record_lost(session: Session, loss: Loss) -> None:
    """Record a gap of each tag, from its last reading before the end of the hole to that end."""
    last: int | None = 0
    while last is not None:
        cursor = await session.execute(
            _LOST, [last, _LOST_TAGS, loss.until_us, loss.until_us, Cause.JOURNAL.label]
        )
        row = await cursor.fetchone()
        last = row[0] if row is not None else None


def _intervals(gaps: Gaps) -> Gaps:
    fits = (gaps.from_us < gaps.to_us) & (gaps.from_us >= _LEAST_US)
    return gaps if fits.all() else gaps.where(fits)


def _columns(gaps: Gaps) -> list[list[int] | list[str]]:
    labels = {int(cause): cause.label for cause in Cause}
    causes = [labels[cause] for cause in gaps.cause.tolist()]
    return [gaps.tag_id.tolist(), gaps.from_us.tolist(), gaps.to_us.tolist(), causes]
