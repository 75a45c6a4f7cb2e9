"""Upkeep of one tenant's database while its worker runs: rollups soon, retention and compression now and then.

    every interval_s, one tenant after another, few at a time in a worker (`turns`):
        pending minutes -> rollups, until none is due or the turn is over; then the others first
    every policies_interval_s, in the same way:
        what is older than storage_policies keeps goes; old chunks are compressed, one a turn

Each step borrows a connection for itself and gives it back, so that upkeep never has one for longer than a transaction.
It can be cancelled anywhere. A database that is away is no news here: the breaker knows, the catalog says so. Any other
failure is counted, and logged once until it works again.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from engine.breaker import opens
from engine.errors import DatabaseError, ScadaError
from engine.metrics import Counter, Gauge
from engine.upkeep import (
    Refresher,
    Retention,
    compress_chunk,
    list_tables,
    next_chunk,
    read_policies,
    rollup_lag_s,
)

if TYPE_CHECKING:
    from engine.database_pool import Connection, Database
    from engine.metrics import TenantSlots
    from engine.settings import UpkeepSettings

log = structlog.get_logger(__name__)

# A turn ends after so long, between two transactions: other tenants wait for theirs.
_TURN_S = 5.0


class TenantUpkeep:
    """Upkeep of one tenant."""

    def __init__(
        self, database: Database, counters: TenantSlots, settings: UpkeepSettings, turns: asyncio.Semaphore
    ) -> None:
        """`turns` are shared by all tenants of a worker."""
        self._database = database
        self._counters = counters
        self._settings = settings
        self._turns = turns
        self._refresher = Refresher(delay_s=settings.rollup_delay_s)
        self._retention = Retention()
        self._policies_due_s = time.monotonic() + settings.policies_interval_s * random.random()
        self._lag_s, self._lag_read_s = 0.0, time.monotonic()
        self._failures = 0

    async def run(self) -> None:
        """Keep the database in shape until cancelled."""
        # Tenants begin together, and should not go on together.
        await asyncio.sleep(self._settings.interval_s * random.random())
        while True:
            await self.attempt()
            await asyncio.sleep(self._settings.interval_s * random.uniform(0.9, 1.1))

    async def attempt(self) -> None:
        """Do all that is due; failures are counted and logged here."""
        try:
            await self._refresh()
            if time.monotonic() >= self._policies_due_s:
                await self._apply_policies()
                self._policies_due_s = time.monotonic() + self._settings.policies_interval_s
        except Exception as exc:  # noqa: BLE001  (upkeep must not end the tenant; _failed logs it)
            self._failed(exc)
        else:
            if self._failures:
                log.info("upkeep of the tenant's database works again", attempts=self._failures + 1)
            self._failures = 0

    async def _refresh(self) -> None:
        more = True
        while more:
            async with self._turns:
                end_s = time.monotonic() + _TURN_S
                while more and time.monotonic() < end_s:
                    async with self._database.connection() as connection:
                        more = (await self._refresher.refresh_piece(connection)).more
                async with self._database.connection() as connection:
                    lag_s = await rollup_lag_s(connection, delay_s=self._settings.rollup_delay_s)
            self._lag_s, self._lag_read_s = lag_s, time.monotonic()
            self._counters.set(Gauge.ROLLUP_LAG_S, lag_s)

    async def _apply_policies(self) -> None:
        async with self._turns, self._database.connection() as connection:
            policies = await read_policies(connection)
            tables = await list_tables(connection)
            async with aclosing(self._retention.steps(connection, policies, tables)) as steps:
                async for name, rows in steps:
                    self._counters.count(Counter.RETENTION_ROWS, rows)
                    log.info("retention dropped what is older than it is to be kept", table=name, rows=rows)
        for table in tables:
            tried: set[str] = set()
            while True:
                async with self._turns, self._database.connection() as connection:
                    chunk = await next_chunk(connection, table, policies, besides=tried)
                    if chunk is None:
                        break
                    tried.add(chunk)
                    await self._compress(connection, chunk)

    async def _compress(self, connection: Connection, chunk: str) -> None:
        try:
            await compress_chunk(connection, chunk)
        except DatabaseError as exc:
            if not (exc.is_timeout or exc.is_conflict):
                raise
            # Somebody uses it; the next time, then.
            log.info("a chunk is in use, and is compressed later", chunk=chunk, error=str(exc))
        else:
            self._counters.count(Counter.CHUNKS_COMPRESSED)

    def _failed(self, error: Exception) -> None:
        self._counters.set(Gauge.ROLLUP_LAG_S, self._lag_s + time.monotonic() - self._lag_read_s)
        if opens(error):
            return
        self._counters.count(Counter.UPKEEP_FAILURES)
        if self._failures == 0:
            log.warning(
                "upkeep of the tenant's database failed; it is tried again",
                error=str(error),
                exc_info=None if isinstance(error, ScadaError) else error,
            )
        self._failures += 1
