"""A circuit breaker for one database: while that is away, one call at a time asks whether it is back, and all others
are refused at once.

    closed     every call goes through
    open       calls are refused at once with the error that was the reason, until the back-off is over
    half-open  the back-off is over: exactly one call goes through, the probe; the others are refused until it is done.
               Its success closes the breaker, its failure doubles the back-off

Owns which errors count (`opens`), and when the next probe may go. Knows no connection; engine.database_pool puts
every call through it. The back-off has full jitter (any part of the ceiling, which doubles), so that hundreds of
tenants whose server comes back do not come back in step. Time is monotonic. Single event loop.

A database that takes no writes (full disk, read-only) still answers reads: only writes are refused then, and only a
write that works closes the breaker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from engine.errors import DatabaseError, DatabaseUnavailable

FIRST_BACKOFF_S = 0.25
# What says that the database, or the way to it, is away. 57014 is a statement that took too long: it was answered.
_CLASSES = ("08", "28", "3D", "53", "57")
_ANSWERED = "57014"
# Of these only writing suffers: a full disk, a standby or a primary that became one.
_WRITES_ONLY = frozenset({"53100", "25006"})
# 0.25 s doubled so often is longer than any limit; more would overflow a float some day.
_MOST_DOUBLINGS = 32


def opens(error: BaseException) -> bool:
    """Tell whether this error means that the database is away, and not that it refuses what was asked of it."""
    if not isinstance(error, DatabaseUnavailable):
        return False
    state = error.sqlstate
    return state is None or (state.startswith(_CLASSES) and state != _ANSWERED) or state in _WRITES_ONLY


class Breaker:
    """The state of one database; `most_s` is the longest back-off, and 0 a breaker that never refuses."""

    def __init__(
        self,
        most_s: float,
        *,
        now_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._most_s = most_s
        self._now_s = now_s
        self._jitter = jitter
        self._error: DatabaseUnavailable | None = None
        self._failures = 0
        self._due_s = 0.0
        self._probing = False
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the database is taken to be away (open or half-open)."""
        return self._error is not None

    @property
    def error(self) -> DatabaseUnavailable | None:
        """Why it is open; None while it is closed."""
        return self._error

    @property
    def seconds_to_probe(self) -> float:
        """How long until a call is let through again; 0 while closed, and once the back-off is over."""
        return 0.0 if self._error is None else max(0.0, self._due_s - self._now_s())

    def check(self, *, writes: bool) -> None:
        """Raise the remembered error where `call` would; changes nothing."""
        error = self._error
        if error is None or self._most_s == 0 or not self._counts(writes):
            return
        if self._probing or self._now_s() < self._due_s:
            # A new object each time: one would collect the tracebacks of everybody who was refused.
            raise DatabaseUnavailable(str(error), error.sqlstate)

    @contextmanager
    def call(self, *, writes: bool) -> Iterator[None]:
        """Let the block run and learn from how it ends; raises the remembered error while the database is away."""
        self.check(writes=writes)
        probes = self._error is not None and self._counts(writes)
        if probes:
            self._probing = True
        try:
            yield
        except BaseException as exc:
            if probes:
                self._probing = False
            if isinstance(exc, DatabaseError):
                if opens(exc):
                    self._failed(exc, probes)
                else:
                    self._succeeded(writes)  # it was refused, and so answered
            if probes:
                self._wake()  # also when it was cancelled and nothing was learned: somebody else may probe
            raise
        if probes:
            self._probing = False
        self._succeeded(writes)

    async def wait(self) -> None:
        """Return when a write would be let through: at once while closed, else when it can be the probe."""
        while self._error is not None and self._most_s > 0:
            changed = self._changed
            if self._probing:
                await changed.wait()
            elif (wait_s := self.seconds_to_probe) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await changed.wait()
            else:
                return

    def retry_now(self) -> None:
        """End the back-off: something changed that may help, such as a new password."""
        self._failures = 0
        self._due_s = self._now_s()
        self._wake()

    def _writes_only(self) -> bool:
        return self._error is not None and self._error.sqlstate in _WRITES_ONLY

    def _counts(self, writes: bool) -> bool:
        """Tell whether a call says something about what is amiss: a read says nothing of a full disk."""
        return writes or not self._writes_only()

    def _failed(self, error: DatabaseError, probed: bool) -> None:
        """Open, or wait longer. Calls that were on their way when it opened do not count again."""
        if self._error is not None and not probed:
            return
        ceiling_s = min(self._most_s, FIRST_BACKOFF_S * 2 ** min(self._failures, _MOST_DOUBLINGS))
        self._failures += 1
        # A copy, because the original keeps the frames of the call alive.
        self._error = DatabaseUnavailable(str(error), error.sqlstate)
        self._due_s = self._now_s() + ceiling_s * self._jitter()
        self._wake()

    def _succeeded(self, writes: bool) -> None:
        if self._error is not None and self._counts(writes):
            self._error = None
            self._failures = 0
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
