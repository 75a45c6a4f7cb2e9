"""Commits of one stream in flight at once: each is made in its turn.

A commit that follows another copies its rows while the other is still under way, and then waits for it, in its
transaction. It holds what its COPY took until then: a chunk that it made, or a chunk's entry in the catalog of
TimescaleDB that it changed. The other one may need the same, and would wait for us in the database while we wait for
it here, where no deadlock is detected. So whoever waits looks now and then whether it stands in the way of another
commit of the same store, and if so, rolls back, waits, and begins again when it is its turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.errors import ScadaError

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.store.session import Session

# A COPY that waits for a lock loses so much time at most. One look is a query of 0.1 ms; it also keeps the server from
# ending a transaction that lies idle.
_LOOK_S = 0.1


class NotItsTurn(ScadaError):
    """The commit before this one is not made, so this one was rolled back: send both again, in their order."""

    retry = True


async def is_in_the_way(session: Session, before: asyncio.Future[None], running: Collection[int]) -> bool:
    """Wait until the commit before this one is made; return True at once when it waits for our transaction.

    `running`: the server's processes that make this store's commits. Raises NotItsTurn as `its_turn` does.
    """
    while not before.done():
        await asyncio.wait([before], timeout=_LOOK_S)
        if not before.done() and await _blocks(session, running):
            return True
    await its_turn(before)
    return False


async def its_turn(before: asyncio.Future[None]) -> None:
    """Return when the commit before this one is made; raises NotItsTurn when it is not going to be."""
    await asyncio.wait([before])
    if before.cancelled():
        raise NotItsTurn("the commit before this one was given up")
    if (failure := before.exception()) is not None:
        raise NotItsTurn(f"the commit before this one failed: {failure}") from failure


async def _blocks(session: Session, running: Collection[int]) -> bool:
    cursor = await session.execute(
        "select exists (select from unnest(%s::integer[]) as pid"
        " where pg_backend_pid() = any (pg_blocking_pids(pid)))",
        [list(running)],
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
