"""Chunks are compressed while late readings are committed into them: nothing is lost, twice or in a wrong order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from engine import catalog
from engine.database import connect
from engine.errors import DatabaseError, DatabaseUnavailable
from engine.store import Commit
from engine.upkeep import Policies, Refresher, compress_chunk, list_tables, next_chunk
from tests.engine.commits import BASE_US, Stream, batch_of
from tests.engine.rollup_oracle import WIDTH_S, expected, shown
from tests.servers.databases import MasterAndTenant

ROUNDS = 6
TAGS = 3
ROWS = 600
SECOND_US = 1_000_000
AFTERWARDS = datetime.fromtimestamp(BASE_US / 1e6, UTC) + timedelta(days=2)


async def compress_all(database: psycopg.AsyncConnection[Any]) -> None:
    """Compress each chunk of readings, whatever is going on there; a chunk that is in use is left."""
    (readings, *_) = await list_tables(database)
    if not readings.compresses:
        return
    for (chunk,) in await (await database.execute("select show_chunks('readings')::text")).fetchall():
        try:
            await compress_chunk(database, chunk)
        except DatabaseError as exc:
            if not (exc.is_timeout or exc.is_conflict):
                raise


async def commit_until_stored(stream: Stream, commit: Commit) -> None:
    """Send a commit until it is done, as the pipeline does."""
    async with asyncio.timeout(30):
        while True:
            try:
                await stream.commit(commit)
            except DatabaseUnavailable:
                continue
            return


async def test_chunks_are_compressed_while_late_readings_are_committed_into_them(
    databases: MasterAndTenant, stream: Stream
) -> None:
    async with await connect(databases.tenant_dsn, application="test", autocommit=True) as database:
        await catalog.seed(database, UUID(int=1), "opc.tcp://127.0.0.1:4840")
        for late in range(ROUNDS):
            # Half of it lies among those that are stored already, half before them.
            since_us = BASE_US - late * ROWS * SECOND_US // 2 + late
            batch = batch_of(
                TAGS * ROWS,
                ts_us=np.tile(since_us + np.arange(ROWS, dtype=np.int64) * SECOND_US, TAGS),
                tag_id=np.repeat(np.arange(1, TAGS + 1, dtype=np.int32), ROWS),
            )
            commit = stream.commit_of([stream.frame(batch)])
            await asyncio.gather(commit_until_stored(stream, commit), compress_all(database))
            for tag_id in range(1, TAGS + 1):
                rows = await (
                    await database.execute(
                        "select ts from stored_readings where tag_id = %s order by ts", [tag_id]
                    )
                ).fetchall()
                assert len(set(rows)) == len(rows) == (late + 1) * ROWS
                assert rows == sorted(rows)
        working = Refresher(now_s=AFTERWARDS.timestamp)
        while (await working.refresh_piece(database)).more:
            pass
        await compress_all(database)
        (readings, *_) = await list_tables(database)
        assert (
            await next_chunk(database, readings, Policies(compress_after=timedelta(0)), now=AFTERWARDS)
            is None
        )
        for width in WIDTH_S:
            assert await shown(database, width) == await expected(database, width)
