"""A connection of the catalog, held for ever: connect, subscribe, pump, and on after every failure.

Owns the life of one connection and what is reported of it. Owns no reading and no gauge: readings go from the pump
into the tenant's ring, gauges are set from the reports by the ingest worker, which knows all connections of a tenant.

    climb (resume.py) --> the old subscriptions: ask for what was sent meanwhile --+--> report(connected) --> pump
       ^                \\-> none is left: create, say that rows may be missing ----+                           |
       +--------------- back-off <------------- report(not connected) <---------------------------------------+

A connection that worked is tried again at once, all others after a back-off. One that is lost leaves its session and
its subscriptions on the server, to be resumed; one that is stopped, or of which the server said something that cannot
go on, takes them with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Never

import numpy as np
import structlog

from engine.continuity import Continuity
from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from engine.gaps import Cause
from engine.metrics import Counter
from engine.metrics.names import MissingReason
from workers.opcua.backoff import Backoff
from workers.opcua.channel import Channel, heed_cancellation
from workers.opcua.flow import Flow
from workers.opcua.history import Backfiller
from workers.opcua.items import BatchSize, Items, monitor
from workers.opcua.limits import read_limits
from workers.opcua.mend import mend
from workers.opcua.monitoring import NO_SUBSCRIPTION
from workers.opcua.poll import Poller
from workers.opcua.pump import Pump
from workers.opcua.redundancy import rank, refusal, watch_for_better
from workers.opcua.resume import Held, climb, read_server_start
from workers.opcua.sink import ConnectionReport
from workers.opcua.subscribe import create_subscription
from workers.opcua.types import read_types

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from numpy.typing import NDArray

    from engine._fastpath import Ring
    from engine.catalog.records import Connection
    from engine.enumerations import Names
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.monitoring import Monitoring
    from workers.opcua.pki import Pki
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
    ) -> None:
        """`slots[i]` is the ring slot of place i of `connection.tags`.

        `learn` gets the slots and, by place, the names of enumerations' numbers.
        """
        self._connection = connection
        self._slots = slots
        self._ring = ring
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._pki = pki
        self._continuity = continuity or Continuity(ring)
        self._learn = learn
        self._backoff = Backoff(first_s=settings.backoff_first_s, most_s=settings.backoff_most_s)
        self._batch = BatchSize(settings.items_per_call)
        self._backfiller: Backfiller | None = None
        if settings.history_backfill:
            self._backfiller = Backfiller(
                slots=slots,
                ring=ring,
                counters=counters,
                sink=sink,
                continuity=self._continuity,
            )
        self._held: Held | None = None
        self._was_connected = False
        self._at_once = False
        self._reported: ConnectionReport | None = None
        self._log = log.bind(connection=connection.name)

    async def run(self) -> Never:
        """Hold the connection until cancelled; then close its session and return by CancelledError."""
        if self._backfiller is None:
            await self._hold_for_ever()
        number = self._continuity.attach(self._slots, self._backfiller.offer)
        try:
            await self._hold_for_ever()
        finally:
            self._continuity.detach(number)
            self._backfiller.close()

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
        channel, held = await climb(held, lambda: self._channel(url), counters=self._counters, now_s=now_s())
        self._held = None
        lost = False
        try:
            if held is None:
                held = await self._subscribe(channel, url)
            await self._pump(channel, held)
        except ScadaError as exc:
            # No answer in time is a network that is gone, too. All else the server has said, and will say again.
            lost = channel.lost or isinstance(exc, MalformedMessage) or isinstance(exc.__cause__, OSError)
            if lost and held is not None:
                held.lose(now_s())
                self._held = held
                channel.abort(exc)
            raise
        finally:
            await channel.close(_CLOSE_DEADLINE_S, delete_subscriptions=not lost)

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

    async def _subscribe(self, channel: Channel, url: str) -> Held:
        """Monitor every tag in new subscriptions; from here on rows may be missing, or come again."""
        connection = self._connection
        started = await read_server_start(channel)
        limits = await read_limits(channel)
        monitoring = await monitor(
            channel,
            connection.tags,
            connection.settings,
            self._settings,
            limits,
            self._most_rows,
            batch=self._batch,
        )
        self._continuity.interrupted(self._slots, Cause.OUTAGE if self._was_connected else Cause.RESTART)
        types = await read_types(channel, connection.tags, monitoring.addresses, limits)
        for problem in types.problems:
            monitoring.note(problem)
        if self._learn is not None:
            self._learn(self._slots, types.enum_names)
        held = Held(
            endpoint_url=url,
            ticket=channel.ticket,
            monitoring=monitoring,
            limits=limits,
            server_started=started,
            text_of=types.text_of,
        )
        held.flows = [self._flow(monitoring, at) for at in range(len(monitoring.subscriptions))]
        self._tell_what_is_polled(monitoring)
        return held

    @property
    def _most_rows(self) -> int:
        # Half of the ring at most, so that a message fits while the other half is being written.
        return self._ring.capacity_rows // 2

    def _flow(self, monitoring: Monitoring, at: int) -> Flow:
        made = monitoring.subscriptions[at]
        return Flow(
            subscription_id=made.subscription_id,
            publishing_interval_s=made.publishing_interval_s,
            keep_alive_s=made.keep_alive_s,
            lifetime_s=made.lifetime_s,
            slots=self._slots[monitoring.subscription == at],
        )

    def _tell_what_is_polled(self, monitoring: Monitoring) -> None:
        self._continuity.subscribed(self._slots)
        self._continuity.polled(self._slots[monitoring.polled])

    def _items(self, channel: Channel, held: Held) -> Items:
        return Items(
            channel,
            held.monitoring,
            defaults=self._connection.settings,
            settings=self._settings,
            limits=held.limits,
            most_rows=self._most_rows,
            batch=self._batch,
        )

    async def _pump(self, channel: Channel, held: Held) -> Never:
        """Ask for what was sent meanwhile, report, and pump."""
        monitoring = held.monitoring
        ended: asyncio.Queue[Flow] = asyncio.Queue()

        def on_ended(flow: Flow, reason: str) -> None:
            self._log.warning("a subscription is made again", reason=reason)
            ended.put_nowait(flow)

        pump = Pump(
            channel=channel,
            flows=held.alive,
            ring=self._ring,
            slots=self._slots,
            counters=self._counters,
            settings=self._settings,
            sink=self._sink,
            continuity=self._continuity,
            ended=on_ended,
            text_of=held.text_of,
            unacknowledged=held.unacknowledged,
        )
        pump.elements = monitoring.elements
        for flow in held.flows:
            if flow.ended:
                on_ended(flow, "the server did not let it be taken over")
            else:
                await pump.recover(flow, held.available.pop(flow.subscription_id, None))
        self._was_connected = True
        self._report_connected(channel, monitoring)

        def changed() -> None:
            """Take over what became of tags that were tried again."""
            pump.elements = monitoring.elements
            self._tell_what_is_polled(monitoring)
            for at in range(len(monitoring.subscriptions)):
                if at == len(held.flows):
                    held.flows.append(self._flow(monitoring, at))
                    pump.add(held.flows[at])
                held.flows[at].slots = self._slots[monitoring.subscription == at]
            self._report_connected(channel, monitoring)

        async def remake() -> None:
            while True:
                flow = await ended.get()
                pump.add(await self._make_again(channel, held, held.flows.index(flow)))
                changed()

        async def move() -> None:
            best = await watch_for_better(
                channel, held.endpoint_url, self._connection.endpoint_urls, self._open
            )
            pump.stop(ConnectionRefused(f"{best.endpoint_url} is healthier"))

        poller = Poller(
            channel=channel,
            monitoring=monitoring,
            ring=self._ring,
            slots=self._slots,
            counters=self._counters,
            settings=self._settings,
            sink=self._sink,
            interval_s=self._connection.poll_interval_seconds,
            text_of=held.text_of,
        )

        async def backfill() -> None:
            if self._backfiller is not None:
                await self._backfiller.run(channel, monitoring, held.limits, held.text_of)

        await _run_beside(
            channel,
            pump.run,
            backfill,
            pump.watch,
            pump.keep_session,
            pump.heed_end,
            channel.renew,
            remake,
            move,
            poller.run,
            lambda: mend(channel, lambda: self._items(channel, held), monitoring, held.limits, changed),
        )

    async def _make_again(self, channel: Channel, held: Held, at: int) -> Flow:
        """Put another subscription in the place of one that has ended, and monitor its tags in it."""
        monitoring = held.monitoring
        places = np.flatnonzero(monitoring.subscription == at).astype(np.int32)
        made = await create_subscription(
            channel, self._settings, self._most_rows, monitoring.subscriptions[at].wanted_interval_ms
        )
        self._continuity.interrupted(self._slots[places], Cause.OUTAGE)
        monitoring.subscriptions = (*monitoring.subscriptions[:at], made, *monitoring.subscriptions[at + 1 :])
        monitoring.subscription[places] = NO_SUBSCRIPTION
        held.flows[at] = self._flow(monitoring, at)
        await self._items(channel, held).create(places)
        return held.flows[at]

    def _report_connected(self, channel: Channel, monitoring: Monitoring) -> None:
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


async def _run_beside(
    channel: Channel, pump: Callable[[], Awaitable[Never]], *works: Callable[[], Awaitable[None]]
) -> Never:
    """Run the pump with what goes on beside it, until the pump ends. Raises what ended it.

    What fails beside it ends the channel and raises nothing, so that what has arrived is stored before the pump raises.
    """

    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ScadaError as exc:
            channel.abort(exc)

    ended: ScadaError
    async with asyncio.TaskGroup() as group:
        guards = [group.create_task(guarded(work)) for work in works]
        try:
            await pump()
        except ScadaError as exc:
            ended = exc
        finally:
            for guard in guards:
                guard.cancel()
    raise ended


def _refusals(monitoring: Monitoring, missing: int, tags: int) -> str | None:
    """Return the sentences that name the tags that are not monitored, and what else there is to know."""
    said = list(monitoring.notes)
    if missing:
        named = "; ".join(monitoring.refusals(_REFUSALS_NAMED))
        more = missing - _REFUSALS_NAMED
        tail = f"; and {more} more" if more > 0 else ""
        said.insert(0, f"{missing} of {tags} tags not monitored: {named}{tail}")
    return "; ".join(said) or None
