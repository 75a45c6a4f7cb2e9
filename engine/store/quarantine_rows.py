"""Writes rows of reading_quarantine, in the transaction of the batch that they were in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.store.rows import Refused
from engine.unstorable import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Loss
    from engine.store.session import Session

_INSERT = """
insert into reading_quarantine
    (stream, sequence, place, tag_id, ts_us, status, value, text_bytes, reason, sqlstate, detail)
select %s, row.* from unnest(%s::bigint[], %s::integer[], %s::integer[], %s::bigint[], %s::integer[],
    %s::double precision[], %s::bytea[], %s::text[], %s::text[], %s::text[]) as row
on conflict do nothing
"""
# The place of what is not one reading.
_NO_PLACE = -1


async def insert_refused(session: Session, stream: UUID, refused: Sequence[Refused]) -> None:
    """Put rows into the quarantine; one that is there already stays as it is."""
    columns = [
        [getattr(each, name) for each in refused]
        for name in (
            "sequence", "place", "tag_id", "ts_us", "status", "value", "text_bytes", "reason", "sqlstate", "detail",
        )
    ]  # fmt: skip
    await session.execute(_INSERT, [stream, *columns])


def refused_of(loss: Loss) -> Refused:
    """Return the row that tells of lost frames."""
    kept = f"; the bytes are in {loss.kept_in}" if loss.kept_in else ""
    return Refused(
        sequence=loss.until,
        place=_NO_PLACE,
        reason=Reason.JOURNAL,
        detail=f"frames after {loss.after} and before {loss.until} are gone ({loss.reason}){kept}",
    )
