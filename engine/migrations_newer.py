"""Refuses a database that a newer engine has migrated, before anything is read from it or written into it.

It does not know what a newer migration changes: nobody does but the engine that brings it. engine.migrations refuses
such a ledger by itself; this is for all others who open a database.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from psycopg.rows import scalar_row

from engine.database import translated
from engine.errors import DatabaseTooNew
from engine.migrations import Which, load
from engine.version import VERSION

if TYPE_CHECKING:
    from psycopg import AsyncConnection


async def refuse_newer(connection: AsyncConnection[Any], which: Which) -> None:
    """Raise DatabaseTooNew, which names the database and the migration, if the ledger has one that we do not know.

    A ledger that is not there, or that the role may not read, says nothing: then there is nothing to refuse. Raises
    DatabaseUnavailable. The connection is idle and in autocommit.
    """
    with translated("cannot read schema_migrations"):
        async with connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(
                "select coalesce(has_table_privilege(to_regclass('schema_migrations'), 'select'), false)"
            )
            if not await cursor.fetchone():
                return
            await cursor.execute(
                """
                select format('migration %%s_%%s of engine %%s', lpad(version::text, 4, '0'), name, engine_version)
                from schema_migrations where version <> all(%s) order by version limit 1
                """,
                [_known(which)],
            )
            unknown = await cursor.fetchone()
    if unknown is not None:
        raise DatabaseTooNew(
            f'the database "{connection.info.dbname}" has {unknown}, which this engine ({VERSION}) does not know: '
            "use that version or a later one"
        )


@cache
def _known(which: Which) -> list[int]:
    return [migration.version for migration in load(which)]
