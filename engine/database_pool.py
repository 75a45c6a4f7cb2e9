"""The connections of one process to all databases: few to each server, kept for a while, lent in order.

A worker serves hundreds of tenants, each with a database of its own on few servers, so the cap is on a server (host and
port) and a connection is lent for one batch or one look into the catalog:

    Database.connection() -> breaker -> a kept connection to this database, else a free place, else the place of the
                             connection to another database that lay idle longest, else wait
                          -> given back idle, or closed after any failure

Owns how many there are, who is next (writes before reads, unless those wait long; then who came first), how long an
idle one is kept, and that a server which has none left is asked for fewer. engine.database opens them, engine.breaker
says whether to ask at all, and callers keep their own timeouts, which start when they have a connection: waiting for
one has none. Who has time waits for a connection that somebody else gives back, and none is opened for it.

Invariants:
- A server never sees more than `most` connections of this process. The place of a closed one is free only when the
  server has closed its end, which PostgreSQL does when its process has ended.
- A connection is lent only if it is idle in no transaction, nothing went wrong with it and nothing arrived on it while
  nobody used it (a goodbye). It carries no session state.
- Whoever waits can be cancelled at any time; no place is lost.
- A caller holds one connection at a time: two that wait for each other's would wait for ever. A second one is lent at
  once or soon, or refused (SPARE), while nobody waits; nobody with a first one waits for it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeAlias

import psycopg
import structlog
from psycopg.pq import TransactionStatus

from engine.breaker import Breaker
from engine.database import connect, server_of
from engine.errors import DatabaseError, DatabaseUnavailable

log = structlog.get_logger(__name__)

Connection: TypeAlias = psycopg.AsyncConnection[Any]

TOO_MANY_CONNECTIONS = "53300"
# After a server had none left, one more is tried after each such time without a refusal.
_GROW_S = 60.0
# Who asks for a second one waits so long: for the place of a connection that lies idle, which is closed for it.
_SPARE_S = 0.25
# For the server to close its end. One that is gone does not.
_GOODBYE_S = 2.0
# When this process ends, nobody needs the places any more.
_LAST_GOODBYE_S = 0.2


class Priority(IntEnum):
    """Who goes first where connections are short; see _HANDICAP_S."""

    WRITE = 0  # readings
    READ = 1  # the catalog, and how connections are doing
    SPARE = 2  # a second one for who has one: at once or soon, and only if enough are left for others


# Whoever has waited so much longer than a write goes before it: where there are not enough connections for all
# writes, the catalogs of tenants that have not begun are read all the same.
_HANDICAP_S = {Priority.WRITE: 0.0, Priority.READ: 1.0, Priority.SPARE: 10.0}


class NoSpareConnection(DatabaseUnavailable):
    """Connections are too short for somebody to have a second one; nothing is wrong."""


class DatabasePool:
    """All connections of this process; single event loop."""

    def __init__(
        self,
        most: int,
        *,
        retry_most_s: float,
        idle_s: float = 60.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._retry_most_s = retry_most_s
        self._idle_s = idle_s
        self._now_s = now_s
        self._servers: dict[str, _Server] = {}

    def database(self, dsn: str, application: str) -> Database:
        """Return a handle of a database; nothing is opened or checked yet.

        `application` is what pg_stat_activity shows. The caller closes the handle.
        """
        return Database(self, dsn, application, Breaker(self._retry_most_s, now_s=self._now_s))

    async def close(self) -> None:
        """Close what lies idle, and give the servers a moment to see it."""
        for server in self._servers.values():
            await server.close()

    def server(self, dsn: str) -> _Server:
        """Return the server of a DSN; raises ConfigurationError for one that cannot be parsed."""
        name = server_of(dsn)
        found = self._servers.get(name)
        if found is None:
            found = self._servers[name] = _Server(name, self._most, self._idle_s, self._now_s)
        return found


class Database:
    """One database of the pool. `breaker` is its alone."""

    def __init__(self, pool: DatabasePool, dsn: str, application: str, breaker: Breaker) -> None:
        """Use DatabasePool.database."""
        self.breaker = breaker
        self._pool = pool
        self._dsn = dsn
        self._application = application
        self._closed = False
        self._server: _Server | None = None  # known once the DSN was parsed

    @property
    def dsn(self) -> str:
        """Where the database is, with the password."""
        return self._dsn

    @property
    def is_short(self) -> bool:
        """Whether a connection for us would take another database's place: then it is worth to wait for one of ours."""
        return self._server is not None and self._server.is_full

    def renew(self, dsn: str) -> None:
        """Use another DSN of the same database from now on, such as one with a new password, and try it at once."""
        self._drop_idle()
        self._dsn, self._server = dsn, None
        self.breaker.retry_now()

    @asynccontextmanager
    async def returned_connection(
        self, patience_s: float, *, kept: bool = True
    ) -> AsyncIterator[Connection | None]:
        """Lend the connection that somebody else gives back within a time, or None: it never opens one for us.

        For what is not urgent, where connections are short: it rides along with what needs a connection anyway. With
        `kept`, one that lies idle when the time is over will do as well. Raises as `connection`.
        """
        self.breaker.check(writes=False)
        if self._server is None:
            self._server = self._pool.server(self._dsn)
        dsn, server = self._dsn, self._server
        lent = await server.take_returned(self, patience_s, kept=kept)
        if lent is None:
            yield None
            return
        async with self._using(server, dsn, lent, writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def connection(
        self, priority: Priority = Priority.READ, *, wait_s: float | None = None
    ) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode, when there is one for us: however long that takes, or `wait_s` at most.

        Raises DatabaseUnavailable when there is none in time, when the database cannot be reached, or was away a
        moment ago (see engine.breaker), NoSpareConnection when it is to be a second one and there is none to spare,
        and ConfigurationError for a DSN that cannot be parsed.
        """
        writes = priority is not Priority.READ
        self.breaker.check(writes=writes)
        if self._server is None:
            self._server = self._pool.server(self._dsn)
        dsn, server = self._dsn, self._server
        if priority is Priority.SPARE:
            if not server.has_spare:
                raise NoSpareConnection(
                    f"no second connection to {server.name}: of {server.limit} few are free"
                )
            wait_s = _SPARE_S
        try:
            async with asyncio.timeout(wait_s):
                lent = await server.take(self, priority)
        except TimeoutError as exc:
            error = NoSpareConnection if priority is Priority.SPARE else DatabaseUnavailable
            raise error(
                f"no connection to {server.name} was free for {wait_s:.1f} seconds: {server.limit} are in use"
            ) from exc
        async with self._using(server, dsn, lent, writes=writes) as connection:
            yield connection

    @asynccontextmanager
    async def _using(
        self, server: _Server, dsn: str, lent: Connection | None, *, writes: bool
    ) -> AsyncIterator[Connection]:
        """Lend what the server gave us, a connection or a place to open one in, and give it back."""
        try:
            with self.breaker.call(writes=writes):
                if lent is None:
                    lent = await server.opened(dsn, self._application)
                yield lent
        except BaseException:
            server.discard(lent)
            if self.breaker.is_open:
                self._drop_idle()
            raise
        server.give_back(lent, None if self._closed or dsn != self._dsn else self)

    async def close(self) -> None:
        """Close what lies idle; a connection that is in use is closed when it comes back."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        if self._server is not None:
            self._server.drop_idle_of(self)


@dataclass(slots=True, order=True)
class _Waiting:
    since_s: float  # with the handicap of its priority
    number: int
    database: Database = field(compare=False)
    # A kept connection, or None: a place to open one in.
    given: asyncio.Future[Connection | None] = field(compare=False)


class _Server:
    """The places of one server: `_open` of `limit` are taken, by connections lent, idle, being opened or closed."""

    def __init__(self, name: str, most: int, idle_s: float, now_s: Callable[[], float]) -> None:
        self.name = name
        self.limit = most
        self._most = most
        self._idle_s = idle_s
        self._now_s = now_s
        self._open = 0
        # The least recently used first, as (of which database, since when).
        self._idle: dict[Connection, tuple[Database, float]] = {}
        self._waiting: list[_Waiting] = []
        # Who would take a connection to their database when it is given back.
        self._patient: dict[Database, list[asyncio.Future[Connection]]] = {}
        self._numbers = count()
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._lowered_s = 0.0
        self._grows_s = 0.0

    @property
    def has_spare(self) -> bool:
        """Whether somebody may have a second one: nobody waits, and a quarter of the places stays for first ones."""
        lent = self._open - len(self._idle) - len(self._closing)
        return not self._waiting and lent < self.limit - self.limit // 4

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return self._open >= self.limit

    async def take(self, database: Database, priority: Priority) -> Connection | None:
        """Wait for our turn; return a connection to this database, or None for a place to open one in."""
        given: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        since_s = self._now_s() + _HANDICAP_S[priority]
        heappush(self._waiting, _Waiting(since_s, next(self._numbers), database, given))
        self._serve()
        try:
            return await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                # It came together with the cancellation.
                lent = given.result()
                if lent is None:
                    self.discard(None)
                else:
                    self.give_back(lent, database)
            else:
                self._waiting = [waiting for waiting in self._waiting if not waiting.given.cancelled()]
                heapify(self._waiting)
            raise

    async def take_returned(self, database: Database, patience_s: float, *, kept: bool) -> Connection | None:
        """Wait for a connection to this database to be given back; None when the time is over."""
        given: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        patient = self._patient.setdefault(database, [])
        patient.append(given)
        try:
            await asyncio.wait({given}, timeout=patience_s)
        except asyncio.CancelledError:
            if given.done():
                self.give_back(given.result(), database)
            raise
        finally:
            if given in patient:
                patient.remove(given)
            if not patient:
                self._patient.pop(database, None)
        if given.done():
            return given.result()
        idle = self._kept_of(database) if kept else None
        if idle is not None:
            del self._idle[idle]
        return idle

    async def opened(self, dsn: str, application: str) -> Connection:
        """Open a connection in the place that `take` gave."""
        began_s = self._now_s()
        try:
            return await connect(dsn, application=application, autocommit=True)
        except DatabaseError as exc:
            if exc.sqlstate == TOO_MANY_CONNECTIONS:
                self._ask_for_fewer(began_s)
            raise

    def give_back(self, connection: Connection, database: Database | None) -> None:
        """Keep a connection that was lent; close it where `database` is None or it is not idle."""
        if database is None or connection.info.transaction_status != TransactionStatus.IDLE:
            self.discard(connection)
            return
        if patient := self._patient.get(database):
            patient.pop(0).set_result(connection)
            return
        now_s = self._now_s()
        if self.limit < self._most and now_s >= self._grows_s:
            self.limit += 1
            self._grows_s = now_s + _GROW_S
        self._idle[connection] = database, asyncio.get_running_loop().time()
        self._serve()
        self._watch_idle()

    def discard(self, connection: Connection | None) -> None:
        """Close a connection that was lent, or free the place that was given to open one in."""
        watched = None if connection is None else _watched(connection)
        if connection is None or watched is None:
            self._open -= 1
            self._serve()
            return
        # What AsyncConnection.close does; here, nothing can be awaited.
        connection.pgconn.finish()
        task = asyncio.get_running_loop().create_task(_goodbye(watched))
        self._closing.add(task)
        task.add_done_callback(self._ended)

    def drop_idle_of(self, database: Database) -> None:
        """Close the idle connections of one database."""
        for connection in [kept for kept, (owner, _) in self._idle.items() if owner is database]:
            self._drop(connection)

    async def close(self) -> None:
        """Close the idle connections, and wait a moment for all that are being closed."""
        for connection in list(self._idle):
            self._drop(connection)
        if self._timer is not None:
            self._timer.cancel()
        if self._closing:
            _, late = await asyncio.wait(self._closing, timeout=_LAST_GOODBYE_S)
            for task in late:
                task.cancel()

    def _serve(self) -> None:
        """Give to those who wait, in their order, what there is."""
        while self._waiting:
            first = self._waiting[0]
            kept = None if first.given.done() else self._kept_of(first.database)
            if not first.given.done() and kept is None and self._open >= self.limit:
                break
            heappop(self._waiting)
            if first.given.done():
                continue
            if kept is None:
                self._open += 1
            else:
                del self._idle[kept]
            first.given.set_result(kept)
        # So many places must get free; those of connections that are being closed will.
        missing = len(self._waiting) + self._open - len(self._closing) - self.limit
        for connection in list(self._idle)[: max(0, missing)]:
            self._drop(connection)

    def _kept_of(self, database: Database) -> Connection | None:
        """Return the connection to a database that was used last, if it still stands."""
        for connection in [kept for kept, (owner, _) in reversed(self._idle.items()) if owner is database]:
            if _stands(connection):
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        del self._idle[connection]
        self.discard(connection)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        self._open -= 1
        self._serve()

    def _ask_for_fewer(self, began_s: float) -> None:
        """Halve the limit, once for all who were refused together."""
        now_s = self._now_s()
        self._grows_s = now_s + _GROW_S
        if began_s < self._lowered_s or self.limit == 1:
            return
        before, self.limit = self.limit, max(1, self.limit // 2)
        self._lowered_s = now_s
        log.warning(
            "the database server has no connection left for us; fewer are used for now",
            server=self.name,
            connections=self.limit,
            before=before,
        )

    def _watch_idle(self) -> None:
        """Let a timer close those that lie idle too long."""
        if self._timer is None and self._idle:
            loop = asyncio.get_running_loop()
            oldest_s = next(iter(self._idle.values()))[1]
            self._timer = loop.call_at(oldest_s + self._idle_s, self._drop_old)

    def _drop_old(self) -> None:
        self._timer = None
        # Timers may fire a little early.
        before_s = asyncio.get_running_loop().time() - self._idle_s + 0.01
        for connection in [kept for kept, (_, since_s) in self._idle.items() if since_s <= before_s]:
            self._drop(connection)
        self._watch_idle()


def _stands(connection: Connection) -> bool:
    """Tell whether a connection that lay idle still stands, as far as this end knows; asks nobody.

    Nothing is sent to an idle connection but a goodbye, or news of a changed server setting.
    """
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        return False
    arrived = select.poll()
    arrived.register(connection.fileno(), select.POLLIN)
    return not arrived.poll(0)


def _watched(connection: Connection) -> socket.socket | None:
    """Return the connection's socket once more, to see what becomes of it; None where it is closed already."""
    try:
        return socket.socket(fileno=os.dup(connection.fileno()))
    except (OSError, psycopg.Error):
        return None


async def _goodbye(watched: socket.socket) -> None:
    """Wait until the server has closed its end of a connection that we closed, or is taken to be gone."""
    with watched:
        watched.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                while await loop.sock_recv(watched, 4_096):
                    pass
        except (OSError, TimeoutError):
            pass
