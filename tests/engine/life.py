"""One tenant's pipeline over several lives: a journal on disk, a database, and the counters that outlive them."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import psycopg

from engine.database_pool import DatabasePool
from engine.frames import Frame, Position
from engine.journal.journal import Journal
from engine.metrics import MetricsPage, TenantSample
from engine.pipeline import TenantPipeline
from engine.pipeline.backlog import MEMORY_MOST_ROWS
from engine.readings import Kind, RawBatch
from engine.settings import JournalSettings, Settings
from engine.store import Commit, Committed, Store
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant

BASE_US = 1_780_000_000_000_000
SETTINGS = Settings(
    buffer_duration_ms=600_000,
    max_buffer_size=100,
    ring_rows=1_024,
    database_retry_most_s=0.2,
    journal=JournalSettings(group_ms=0, quota_mb=64),
)
TENANT = UUID("6f1f0ab0-0000-4000-8000-000000000007")
CONNECTION = UUID("6f1f0ab0-0000-4000-8000-000000000009")


async def until(probe: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own timeout ends a wait in vain."""
    async with asyncio.timeout(20):
        while not probe():  # noqa: ASYNC110  (what is probed is in shared memory)
            await asyncio.sleep(0.005)


class ObservedStore(Store):
    """A store that says what it has committed, before anybody else knows."""

    after_commit: Callable[[Commit], Any] | None = None

    async def commit(self, commit: Commit, *, before: asyncio.Future[None] | None = None) -> Committed:
        committed = await super().commit(commit, before=before)
        if self.after_commit is not None:
            await self.after_commit(commit)
        return committed


@dataclass
class Cut:
    """A way to the tenant's database that can be cut."""

    dsn: str
    proxy: CuttingProxy

    def refuse(self) -> None:
        self.proxy.refuse()

    async def accept(self) -> None:
        await self.proxy.accept()


class Site:
    """The folder, the database and the page; begins one life after the other."""

    def __init__(self, databases: MasterAndTenant, folder: Path) -> None:
        self.dsn = databases.tenant_dsn
        self.sent = 0
        self.page = MetricsPage.create(1)
        self.stream: UUID | None = None
        self._folder = folder
        self._folders = count()
        self._newest: Path | None = None
        self._lives: list[Life] = []
        self._cuts: list[CuttingProxy] = []

    def new_page(self) -> None:
        """Be a supervisor that starts anew."""
        self.page = MetricsPage.create(1)

    async def begin(
        self,
        *,
        dsn: str = "",
        runs: bool = True,
        memory_most_rows: int = MEMORY_MOST_ROWS,
        quota_mb: int = 64,
        **changed: Any,
    ) -> Life:
        """Open the journal as the life before left it, and take its stream over."""
        settings = replace(SETTINGS, **changed)
        settings = replace(settings, journal=replace(settings.journal, quota_mb=quota_mb))
        # What another process has: the lock of the life before was its own.
        folder = self._folder / str(next(self._folders))
        if self._newest is not None:
            shutil.copytree(self._newest, folder)
        self._newest = folder
        threads = ThreadPoolExecutor(1)
        pool = DatabasePool(4, retry_most_s=settings.database_retry_most_s)
        store = ObservedStore(pool.database(dsn or self.dsn, "test pipeline"))
        page = MetricsPage.attach(os.dup(self.page.fd))
        journal = await Journal.open(
            folder,
            tenant_id=TENANT,
            settings=settings.journal,
            threads=threads,
            now_us=lambda: time.time_ns() // 1_000,
        )
        self.stream = journal.stream
        pipeline = await TenantPipeline.take_over(
            store=store,
            journal=journal,
            counters=page.shard(0).tenant("acme"),
            settings=settings,
            memory_most_rows=memory_most_rows,
        )
        life = Life(self, folder, pool, store, journal, pipeline, threads, page)
        if runs:
            life.task = asyncio.create_task(pipeline.run())
        self._lives.append(life)
        return life

    def leave(self, folder: Path) -> None:
        """Keep for the next life what a kill at this moment leaves on the disk."""
        self._newest = self._folder / f"left-{next(self._folders)}"
        shutil.copytree(folder, self._newest)

    async def close(self) -> None:
        for life in self._lives:
            await life.close()
        for proxy in self._cuts:
            await proxy.stop()

    async def cut_off(self) -> Cut:
        """Return a way to the database that can be cut."""
        parts = urlsplit(self.dsn)
        assert parts.hostname
        proxy = await CuttingProxy.start(parts.hostname, parts.port or 5432)
        self._cuts.append(proxy)
        login = parts.netloc.rpartition("@")[0]
        return Cut(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl(), proxy)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def stored(self) -> list[tuple[Any, ...]]:
        """Return (tag_id, value) of what the database holds, oldest first."""
        return self.rows("select tag_id, value from readings order by ts")

    def gaps(self) -> list[tuple[Any, ...]]:
        return self.rows("select tag_id, cause from reading_gaps")

    def lanes(self) -> int:
        return int(
            self.rows(f"select cardinality(after) from ingest_marks where stream = '{self.stream}'")[0][0]
        )

    def counts(self) -> TenantSample:
        """Return what the page says of the tenant."""
        return self.page.snapshot().tenants["acme"]

    def backup(self) -> list[tuple[Any, ...]]:
        """Return how far the stream is committed now."""
        return self.rows(
            f"""
            select epoch, after::text, mark::text, readings, quarantined, (select max(ts) from readings)
            from ingest_marks where stream = '{self.stream}'
            """
        )

    def restore(self, before: list[tuple[Any, ...]]) -> None:
        """Be a standby that has only what was committed until then."""
        ((epoch, after, mark, readings, quarantined, newest),) = before
        with psycopg.connect(self.dsn) as connection:
            connection.execute("delete from readings where ts > %s", [newest])
            connection.execute(
                """
                update ingest_marks set epoch = %s, after = %s, mark = %s, readings = %s, quarantined = %s
                where stream = %s
                """,
                [epoch, after, mark, readings, quarantined, self.stream],
            )

    async def claim_elsewhere(self, life: Life) -> None:
        """Take the stream over as another process does."""
        store = Store(life.pool.database(self.dsn, "test elsewhere"))
        await store.claim(life.journal.stream, 1)


@dataclass
class Life:
    """A pipeline, and what can be seen of it from outside."""

    site: Site
    folder: Path
    pool: DatabasePool
    store: ObservedStore
    journal: Journal
    pipeline: TenantPipeline
    threads: ThreadPoolExecutor
    page: MetricsPage
    task: asyncio.Task[None] | None = None
    durable: list[int] = field(default_factory=list)
    closed: bool = False

    def position(self, message: int) -> Position:
        return Position(CONNECTION, 1, message)

    def receive(self, rows: int, *, message: int | None = None, ts_us: int | None = None) -> None:
        """Put readings into the ring as the publish pump does."""
        first = self.site.sent
        slot = self.pipeline.tags.slot(7, scaling_factor=2.0, offset=1.0)
        raw = RawBatch(
            ts_us=np.full(rows, ts_us, np.int64)
            if ts_us is not None
            else BASE_US + np.arange(first, first + rows),
            slot=np.full(rows, slot, np.uint32),
            status=np.zeros(rows, np.uint32),
            value=np.arange(first, first + rows, dtype=np.float64),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        )
        assert self.pipeline.ring.append(raw)
        self.site.sent += rows
        told = None if message is None else _Told(self.position(message), self._on_durable)
        self.pipeline.stored(rows, told)

    def _on_durable(self, position: Position) -> None:
        self.durable.append(position.sequence_number)

    def counts(self) -> TenantSample:
        return self.site.counts()

    async def frames(self) -> list[Frame]:
        """Return every frame of the journal."""
        part = await self.journal.read(0, until=None, most_rows=1 << 30, most_bytes=1 << 30)
        return list(part.frames)

    def follow_commits(self) -> list[tuple[bool, int]]:
        """Return what will hold, of each commit: does it end with the newest frame, and where does it end."""
        marks: list[tuple[bool, int]] = []

        async def note(commit: Commit) -> None:
            marks.append((commit.end == self.journal.last_sequence, commit.end))

        self.store.after_commit = note
        return marks

    @asynccontextmanager
    async def journal_stuck(self) -> AsyncIterator[None]:
        """Be a disk that hangs."""
        release = threading.Event()
        self.threads.submit(release.wait)
        try:
            yield
        finally:
            release.set()

    @asynccontextmanager
    async def killed_after_commit(self) -> AsyncIterator[asyncio.Event]:
        """Stop at the moment at which the database has committed and nobody knows; kill at the end."""
        reached = asyncio.Event()

        async def stop_there(_commit: Commit) -> None:
            reached.set()
            await asyncio.Event().wait()

        self.store.after_commit = stop_there
        yield reached
        await self.kill()

    async def turn(self) -> None:
        """Let everything run that can."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def ended(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(20):
            await self.task

    async def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def kill(self) -> None:
        """Leave the disk, the database and the page as they are at this moment."""
        self.site.leave(self.folder)
        await self.cancel()

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self.cancel()
            await self.journal.close()
            await self.pool.close()
            self.threads.shutdown()
            self.page.close()


@dataclass(frozen=True)
class _Told:
    position: Position
    durable: Callable[[Position], None]
