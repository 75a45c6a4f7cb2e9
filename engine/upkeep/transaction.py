"""A transaction of upkeep: sees one state of the database, waits for nobody long, and alone changes rollups."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine.database import translated
from engine.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg import AsyncConnection

# Behind a lock that is waited for, others queue; upkeep comes again.
LOCK_TIMEOUT_S = 2
STATEMENT_TIMEOUT_S = 60
# jit: compiling these plans takes longer than running them. The limit of TimescaleDB (100 000 rows of compressed
# batches that a statement may change) is for accidents; without TimescaleDB the name means nothing.
_BEGIN = (
    "begin isolation level repeatable read; set local jit = off"
    f"; set local lock_timeout = '{LOCK_TIMEOUT_S}s'; set local statement_timeout = '{STATEMENT_TIMEOUT_S}s'"
    f"; set local idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT_S}s'"
    "; set local synchronous_commit = on"
    "; set local timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
    # Before the snapshot, which the first query takes: so this transaction sees all that the one before it did.
    "; lock table rollup_state in share update exclusive mode"
)


@asynccontextmanager
async def upkeep_transaction(database: AsyncConnection[Any], what: str) -> AsyncIterator[None]:
    """Commit when the block ends, roll back when it fails; `what` begins the message of every error.

    Raises DatabaseUnavailable (also where somebody else is at it: `is_timeout`), DatabaseNotMigrated and
    DatabaseRejected.
    """
    with translated(what):
        await database.execute(_BEGIN.encode())
        try:
            yield
        except BaseException:
            if not database.closed:
                await database.execute(b"rollback")
            raise
        said = (await database.execute(b"commit")).statusmessage
    if said != "COMMIT":
        raise DatabaseUnavailable(f"{what}: the answer to commit was {said}")
