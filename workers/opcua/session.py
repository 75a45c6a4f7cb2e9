"""A connection of the catalog, held for ever: connect, subscribe, pump, and again after every failure.

Owns the life of one connection and what is reported of it. Owns no reading and no gauge: readings go from the pump
into the tenant's ring, gauges are set from the reports by the ingest worker, which knows all connections of a tenant.

    connect --> subscribe --> report(connected) --> pump
       ^                                              |  any failure
       +---- back-off <---- report(not connected) <---+
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Never

import structlog

from engine.errors import MalformedMessage, ScadaError
from engine.metrics import Counter
from workers.opcua.backoff import Backoff
from workers.opcua.channel import Channel, heed_cancellation
from workers.opcua.pump import Pump
from workers.opcua.sink import ConnectionReport
from workers.opcua.subscribe import Refusal, create_subscription, monitor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine._fastpath import Ring
    from engine.catalog.records import Connection
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.sink import Sink
    from workers.opcua.subscribe import Subscription

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
    ) -> None:
        """`slots[i]` is the ring slot of `connection.tags[i]`."""
        self._connection = connection
        self._slots = slots
        self._ring = ring
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._backoff = Backoff(first_s=settings.backoff_first_s, most_s=settings.backoff_most_s)
        self._reported: ConnectionReport | None = None
        self._log = log.bind(connection=connection.name, endpoint=connection.endpoint_url)

    async def run(self) -> Never:
        """Hold the connection until cancelled; then close its session and return by CancelledError."""
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
            if self._connected:
                self._counters.count(Counter.RECONNECTS)
                # Only a connection that outlived the wait before it, and did not end in nonsense, has proved anything.
                if not malformed and clock() - started_s > self._backoff.ceiling_s:
                    self._backoff.reset()
            self._report(connected=False, error=str(error), monitored=0)
            await asyncio.sleep(self._backoff.next_s())

    @property
    def _connected(self) -> bool:
        return self._reported is not None and self._reported.connected

    async def _hold(self) -> Never:
        """Connect, subscribe and pump until something fails. Raises the ScadaError that ended it."""
        connection = self._connection
        channel = Channel.for_connection(connection, connection.endpoint_url, self._settings, None)
        try:
            await channel.open()
            # Half of the ring at most, so that a message fits while the other half is being written.
            subscription = await create_subscription(channel, self._settings, self._ring.capacity_rows // 2)
            refusals = await monitor(channel, subscription.subscription_id, connection.tags, self._settings)
            self._report(
                connected=True,
                error=_refusals(refusals, len(connection.tags)),
                monitored=len(connection.tags) - len(refusals),
            )
            await self._pump(channel, subscription)
        finally:
            await channel.close(_CLOSE_DEADLINE_S)

    async def _pump(self, channel: Channel, subscription: Subscription) -> Never:
        pump = Pump(
            channel=channel,
            subscription=subscription,
            ring=self._ring,
            slots=self._slots,
            counters=self._counters,
            settings=self._settings,
            sink=self._sink,
        )
        ended: ScadaError
        async with asyncio.TaskGroup() as group:
            # The guards end the channel and raise nothing, so that what has arrived is stored before the pump raises.
            guards = [group.create_task(guard()) for guard in (pump.watch, pump.keep_session, channel.renew)]
            try:
                await pump.run()
            except ScadaError as exc:
                ended = exc
            finally:
                for guard in guards:
                    guard.cancel()
        raise ended

    def _report(self, *, connected: bool, error: str | None, monitored: int) -> None:
        report = ConnectionReport(
            connection_id=self._connection.id,
            connected=connected,
            error=error,
            monitored=monitored,
            wanted=len(self._connection.tags),
        )
        if report == self._reported:
            return
        self._reported = report
        if not connected:
            self._log.warning("not connected", error=error)
        elif error:
            self._log.warning("connected, but not every tag is monitored", error=error)
        else:
            self._log.info("connected", monitored=monitored)
        self._sink.report(report)


def _refusals(refusals: Sequence[Refusal], tags: int) -> str | None:
    """Return the sentence that names the tags that are not monitored."""
    if not refusals:
        return None
    named = "; ".join(str(refusal) for refusal in refusals[:_REFUSALS_NAMED])
    more = len(refusals) - _REFUSALS_NAMED
    tail = f"; and {more} more" if more > 0 else ""
    return f"{len(refusals)} of {tags} tags not monitored: {named}{tail}"
