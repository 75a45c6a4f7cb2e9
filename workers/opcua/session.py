"""A connection of the catalog, held for ever: connect, subscribe, pump, and on after every failure.

Owns the life of one connection and what is reported of it. Owns no reading and no gauge: readings go from the pump
into the tenant's ring, gauges are set from the reports by the ingest worker, which knows all connections of a tenant.

    climb (resume.py) --> the old subscriptions: ask for what was sent meanwhile --+--> report(connected) --> pump
       ^                \\-> none is left: create, say that rows may be missing ----+                           |
       +--------------- back-off <------------- report(not connected) <---------------------------------------+

A connection that worked is tried again at once, all others after a back-off. One that is lost leaves its session and
its subscriptions on the server, to be resumed; one of which the server said something that cannot go on takes them
with it. A process that stops or dies leaves them to the next one, for which they are remembered (remembered.py); a
connection that was told to `discard` takes them with it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Never

import numpy as np
import structlog

from engine.continuity import Continuity
from engine.errors import MalformedMessage, ScadaError
from engine.gaps import Cause
from engine.metrics import Counter
from engine.metrics.names import MissingReason
from workers.opcua.backoff import Backoff
from workers.opcua.channel import Channel, heed_cancellation
from workers.opcua.history import Backfiller
from workers.opcua.line import Line
from workers.opcua.monitoring.items import BatchSize
from workers.opcua.monitoring.outcome import NO_SUBSCRIPTION
from workers.opcua.redundancy import rank, refusal
from workers.opcua.resume import Held, climb
from workers.opcua.sink import ConnectionReport
from workers.opcua.tending import Tending, go_on, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from engine._fastpath import Ring
    from engine.catalog.connection import Connection
    from engine.enumerations import Names
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.remembered import Remembered
    from workers.opcua.security.pki import Pki
    from workers.opcua.sink import Sink

log = structlog.get_logger(__name__)

# Long enough for CloseSession over a slow line; a worker that stops closes all its sessions at the same time.
_CLOSE_DEADLINE_S = 2.0
# last_error is read by people: the first few tags name the trouble, the count says how large it is.
_REFUSALS_NAMED = 5


class Connector:
    """One connection, until cancelled."""

    def __init__(
        self,
        connection: Connection,
        *,
        slots: NDArray[np.uint32],
        ring: Ring,
        counters: TenantSlots,
        settings: OpcuaSettings,
        sink: Sink,
        pki: Pki | None = None,
        continuity: Continuity | None = None,
        learn: Callable[[NDArray[np.uint32], Mapping[int, Names]], None] | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """`slots[i]` is the ring slot of place i of `connection.tags`.

        `learn` gets the slots and, by place, the names of enumerations' numbers. Without `remembered` the session ends
        with this process.
        """
        continuity = continuity or Continuity(ring)
        self._connection = connection
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._pki = pki
        self._backoff = Backoff(first_s=settings.backoff_first_s, most_s=settings.backoff_most_s)
        self._line = Line(
            connection=connection,
            slots=slots,
            ring=ring,
            counters=counters,
            settings=settings,
            sink=sink,
            continuity=continuity,
            batch=BatchSize(settings.items_per_call),
            backfiller=(
                Backfiller(slots=slots, ring=ring, counters=counters, sink=sink, continuity=continuity)
                if settings.history_backfill
                else None
            ),
            learn=learn,
            remembered=remembered,
        )
        self._keeping = remembered is not None
        self._held: Held | None = None
        self._was_connected = False
        self._at_once = False
        self._reported: ConnectionReport | None = None
        self._log = log.bind(connection=connection.name)

    def discard(self) -> None:
        """Let no process go on with the session; call it before `run` is cancelled."""
        self._keeping = False
        self._forget()

    async def run(self) -> Never:
        """Hold the connection until cancelled; then leave the session or close it, and return by CancelledError."""
        remembered = self._line.remembered
        if remembered is None:
            await self._backfill_and_hold()
        self._held = await remembered.recall(self._line)
        if self._held is not None:
            self._held.lose(asyncio.get_running_loop().time())
            self._at_once = True
        try:
            await self._backfill_and_hold()
        except asyncio.CancelledError:
            if not self._keeping:
                self._forget()
            raise
        except BaseException:
            # Nobody knows what this did; and what the journal had recovered is not the newest any more.
            self._forget()
            raise

    async def _backfill_and_hold(self) -> Never:
        line = self._line
        if line.backfiller is None:
            await self._hold_for_ever()
        number = line.continuity.attach(line.slots, line.backfiller.offer)
        try:
            await self._hold_for_ever()
        finally:
            line.continuity.detach(number)
            line.backfiller.close()

    async def _hold_for_ever(self) -> Never:
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            try:
                await self._hold()
            except ScadaError as exc:
                error = exc
            heed_cancellation()
            malformed = isinstance(error, MalformedMessage)
            if malformed:
                self._counters.count(Counter.MALFORMED_MESSAGES)
            worked = False
            if self._connected:
                self._counters.count(Counter.RECONNECTS)
                # Only a connection that outlived the wait before it, and did not end in nonsense, has proved anything.
                worked = not malformed and clock() - started_s > self._backoff.ceiling_s
            self._at_once = worked
            if worked:
                self._backoff.reset()
            self._report_lost(str(error))
            await asyncio.sleep(0.0 if worked else self._backoff.next_s())

    @property
    def _connected(self) -> bool:
        return self._reported is not None and self._reported.connected

    async def _hold(self) -> Never:
        """Go on or begin anew, and pump until something fails. Raises the ScadaError that ended it."""
        now_s = asyncio.get_running_loop().time
        url = await self._choose_url()
        held = self._held if self._held is not None and self._held.endpoint_url == url else None
        self._at_once = False
        channel, held = await climb(
            held,
            lambda: self._channel(url),
            counters=self._counters,
            now_s=now_s(),
            keeping=lambda: self._keeping,
        )
        self._held = None
        lost = kept = False
        try:
            if held is not None and held.restored:
                await go_on(self._line, channel, held)
            if held is None:
                self._forget()
                cause = Cause.OUTAGE if self._was_connected else Cause.RESTART
                held = await subscribe(self._line, channel, url, cause)
            report = partial(self._report_connected, channel, held.monitoring)
            await Tending(self._line, channel, held, open_partner=self._open, report=report).run()
        except ScadaError as exc:
            # No answer in time is a network that is gone, too. All else the server has said, and will say again.
            lost = channel.lost or isinstance(exc, MalformedMessage) or isinstance(exc.__cause__, OSError)
            if lost and held is not None:
                held.lose(now_s())
                self._held = held
                channel.abort(exc)
            raise
        except asyncio.CancelledError:
            kept = await self._remembers(held)
            raise
        finally:
            if not lost and not kept:
                self._forget()
            await channel.close(_CLOSE_DEADLINE_S, delete_subscriptions=not lost, keep_session=kept)

    async def _remembers(self, held: Held | None) -> bool:
        """Return whether the session stays on the server for the next process, which then knows all about it."""
        remembered = self._line.remembered
        if not self._keeping or remembered is None or held is None or not held.settled:
            return False
        if remembered.saved and not held.unsaved.is_set():
            return True
        return await remembered.save(self._line, held) or remembered.saved

    def _forget(self) -> None:
        if self._line.remembered is not None:
            self._line.remembered.forget()

    async def _choose_url(self) -> str:
        """Return the address to try: of the session that was just lost, else the one whose server is healthiest."""
        urls = self._connection.endpoint_urls
        if len(urls) == 1:
            return urls[0]
        if self._at_once and self._held is not None:
            return self._held.endpoint_url
        ranked = await rank(urls, self._open)
        if ranked[0].service_level is None:
            raise refusal(ranked)
        return ranked[0].endpoint_url

    def _channel(self, url: str) -> Channel:
        return Channel.for_connection(self._connection, url, self._settings, self._pki)

    async def _open(self, url: str) -> Channel:
        channel = self._channel(url)
        try:
            await channel.open()
        except BaseException:
            await channel.close(_CLOSE_DEADLINE_S)
            raise
        return channel

    def _report_connected(self, channel: Channel, monitoring: Monitoring) -> None:
        self._was_connected = True
        wanted = len(self._connection.tags)
        missing = monitoring.missing()
        error = _refusals(monitoring, sum(missing.values()), wanted)
        alive = np.unique(monitoring.subscription)
        self._report(
            ConnectionReport(
                connection_id=self._connection.id,
                connected=True,
                error=error,
                monitored=monitoring.monitored,
                wanted=wanted,
                missing=missing,
                active=channel.chosen,
                revised=tuple(
                    monitoring.subscriptions[at] for at in alive[alive != NO_SUBSCRIPTION].tolist()
                ),
                monitoring=monitoring,
            )
        )

    def _report_lost(self, error: str) -> None:
        wanted = len(self._connection.tags)
        self._report(
            ConnectionReport(
                connection_id=self._connection.id,
                connected=False,
                error=error,
                monitored=0,
                wanted=wanted,
                missing={MissingReason.NOT_CONNECTED: wanted} if wanted else {},
            )
        )

    def _report(self, report: ConnectionReport) -> None:
        if report == self._reported:
            return
        self._reported = report
        if not report.connected:
            self._log.warning("not connected", error=report.error)
        elif report.error:
            self._log.warning("connected, but not everything is as it was asked for", error=report.error)
        else:
            self._log.info("connected", monitored=report.monitored)
        self._sink.report(report)


def _refusals(monitoring: Monitoring, missing: int, tags: int) -> str | None:
    """Return the sentences that name the tags that are not monitored, and what else there is to know."""
    said = list(monitoring.notes)
    if missing:
        named = "; ".join(monitoring.refusals(_REFUSALS_NAMED))
        more = missing - _REFUSALS_NAMED
        tail = f"; and {more} more" if more > 0 else ""
        said.insert(0, f"{missing} of {tags} tags not monitored: {named}{tail}")
    return "; ".join(said) or None
