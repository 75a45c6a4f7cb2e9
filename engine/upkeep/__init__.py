"""Upkeep of a tenant's database: rollups follow the readings, old data goes, chunks are compressed.

Owns what is done with rollups, rollup_changes, rollup_state and storage_policies (migration 0008 says what they mean).
Who calls it, and when, is workers/tenant_upkeep.py. Everything works in small transactions of its own over a connection
in autocommit mode, can be stopped at any moment, and goes on where it was: what is done is in the database alone.

    refresh      pending minutes are computed anew, then the hours and days that they were the last of
    policies     how long what is kept
    retention    what is older goes: never before its rollups are stored, and never a rollup of what stays
    compression  chunks whose time has passed, in columnstore mode
    figures      how much there is, and how far the rollups are

Any number of processes may do this at once: rollup_state is locked by whoever changes rollups or drops readings.
"""

from engine.upkeep.compression import compress_chunk, next_chunk
from engine.upkeep.figures import StorageFigures, TableFigures, read_figures, rollup_lag_s
from engine.upkeep.policies import Policies, change_policies, length_text, read_policies
from engine.upkeep.refresh import Refreshed, Refresher
from engine.upkeep.retention import Retention
from engine.upkeep.tables import Table, list_tables

__all__ = [
    "Policies",
    "Refreshed",
    "Refresher",
    "Retention",
    "StorageFigures",
    "Table",
    "TableFigures",
    "change_policies",
    "compress_chunk",
    "length_text",
    "list_tables",
    "next_chunk",
    "read_figures",
    "read_policies",
    "rollup_lag_s",
]
