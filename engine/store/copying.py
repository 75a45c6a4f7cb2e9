"""Puts rows into `readings` when the database has refused some of them: finds those, and stores the others.

A COPY is refused as a whole. Where the reason is a row's content (SQLSTATE classes 22 and 23), the rows are halved
again and again, each part behind a savepoint, until the rows that are refused stand alone. A few of them are poison;
many of them say that it is not the rows: a constraint or a trigger is new, and a person has to look at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import DatabaseRejected
from engine.unstorable import Reason

if TYPE_CHECKING:
    from engine.store.rows import Refused, Rows
    from engine.store.session import Session

_POISON_SHARE = 0.01
# Of a small batch one percent is nothing.
_POISON_LEAST = 5


async def copy_all_but_refused(session: Session, rows: Rows) -> list[Refused]:
    """Store the rows that the database takes; return the others.

    For rows of which some are refused, in a transaction. Raises DatabaseRejected when those are too many.
    """
    most = max(_POISON_LEAST, int(len(rows) * _POISON_SHARE))
    refused: list[Refused] = []
    waiting = _halves(0, len(rows)) or [(0, len(rows))]
    await session.simple("savepoint part")
    while waiting:
        first, end = waiting.pop()
        try:
            await session.copy(rows.encoded(first, end))
        except DatabaseRejected as exc:
            if not exc.is_about_rows:
                raise
            await session.simple("rollback to savepoint part")
            if halves := _halves(first, end):
                waiting += halves
                continue
            said = str(exc).removeprefix(f"{session.what}: ")
            if len(refused) == most:
                raise DatabaseRejected(
                    f"systemic: more than {most} of {len(rows)} readings are refused, the last one so: {said}",
                    exc.sqlstate,
                ) from exc
            refused.append(rows.refused(first, Reason.REJECTED, said, exc.sqlstate))
        else:
            await session.simple("release savepoint part; savepoint part")
    return refused


def _halves(first: int, end: int) -> list[tuple[int, int]]:
    """Return both halves of some rows, the one to begin with last; nothing for a single row."""
    middle = (first + end) // 2
    return [(middle, end), (first, middle)] if middle > first else []
