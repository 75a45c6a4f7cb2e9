"""How a database keeps readings: decided by its migrations, found out here."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from engine.errors import DatabaseNotMigrated

if TYPE_CHECKING:
    from engine.store.session import Session

_TABLES = (
    "readings",
    "stored_readings",
    "append_order",
    "tag_mappings",
    "scada_connections",
    "reading_gaps",
    "database_identity",
    "ingest_marks",
    "rollup_changes",
    "reading_quarantine",
)


class StorageMode(StrEnum):
    """How a database keeps readings; the migrations decide it, by what the server can do."""

    COLUMNSTORE = "columnstore"  # TimescaleDB community edition with direct compress on COPY
    HYPERTABLE = "hypertable"  # TimescaleDB without it: rows in chunks, one B-tree
    PLAIN = "plain"  # PostgreSQL alone; not for production


async def detect_mode(session: Session) -> StorageMode:
    """Return how this database keeps readings; raises DatabaseNotMigrated when it has none."""
    cursor = await session.execute(
        """
        select array(select name from unnest(%s::text[]) as name where to_regclass(name) is null),
            exists (select from pg_extension where extname = 'timescaledb'),
            exists (select from pg_settings where name = 'timescaledb.enable_direct_compress_copy_client_sorted')
        """,
        [list(_TABLES)],
    )
    row = await cursor.fetchone()
    assert row is not None
    missing, timescaledb, direct_compress = row
    if missing:
        raise DatabaseNotMigrated(
            f"tables are missing: {', '.join(missing)}; scada-engine migrate up makes them"
        )
    if not timescaledb:
        return StorageMode.PLAIN
    cursor = await session.simple(
        """
        select compression_enabled from timescaledb_information.hypertables
        where format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'readings'::regclass
        """
    )
    hypertable = await cursor.fetchone()
    if hypertable is None:
        return StorageMode.PLAIN
    return StorageMode.COLUMNSTORE if hypertable[0] and direct_compress else StorageMode.HYPERTABLE
