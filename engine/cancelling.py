"""Ending tasks that may be waiting for a database which has stopped answering.

psycopg answers a cancellation by asking the server to cancel, and waits for that up to ten seconds; a second one ends
the wait, and the connection with it. A stop has no ten seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# A server that is there cancels a statement within milliseconds.
_POLITE_S = 0.2
_TRIES = 3


async def cancel_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; raises nothing of theirs."""
    pending = {task for task in tasks if not task.done()}
    for _ in range(_TRIES):
        if not pending:
            break
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_POLITE_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen: whoever cares has awaited it
