"""How a stream gets a new owner: its epoch goes up, in the database, where every commit looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.store.marks import Claim, Lane, Totals
from engine.store.session import BEGIN

if TYPE_CHECKING:
    from uuid import UUID

    from engine.store.session import Session


async def claim_stream(session: Session, stream: UUID, at_least_epoch: int) -> Claim:
    """Give a stream an epoch that is higher than before and at least this; make its row if there is none."""
    await session.simple(BEGIN)
    # A snapshot does not show what its own statement does: `known` is about before.
    cursor = await session.execute(
        """
        insert into ingest_marks as m (stream, epoch, after, mark) values (%s, greatest(%s, 1), '{0}', '{0}')
        on conflict (stream) do update set epoch = greatest(m.epoch + 1, %s), updated_at = now()
        returning epoch, after, mark, readings, quarantined, (select id from database_identity),
            exists (select from ingest_marks before where before.stream = m.stream)
        """,
        [stream, at_least_epoch, at_least_epoch],
    )
    row = await cursor.fetchone()
    assert row is not None
    epoch, after, mark, readings, quarantined, database_id, known = row
    await session.simple("commit")
    return Claim(
        epoch=epoch,
        database_id=database_id,
        lanes=tuple(Lane(*each) for each in zip(after, mark, strict=True)),
        totals=Totals(readings, quarantined),
        known=known,
    )
