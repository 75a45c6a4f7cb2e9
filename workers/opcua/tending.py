"""One session while it lives: its subscriptions, the pump that empties them, and all that goes on beside it.

Owns which subscription's messages belong to which tags, and that each part knows when another changes something. Owns
no connection: what ends the channel is raised, and the session is resumed or made again by session.py.

    pump       the messages of all subscriptions            watch, keep_session, heed_end    is the other end there?
    poller     tags that are read instead                   renew                            the channel's keys
    remake     a subscription that the server has ended     mend                             tags that are missing
    backfill   gaps, from the server's history              move                             to a healthier partner
    remember   the session, for the process after this one
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Never

import numpy as np
import structlog

from engine import variants
from engine.errors import ConnectionRefused, ScadaError
from engine.gaps import Cause
from workers.opcua.backoff import Backoff
from workers.opcua.browsing.types import read_types
from workers.opcua.flow import Flow
from workers.opcua.monitoring.items import monitor
from workers.opcua.monitoring.limits import read_limits
from workers.opcua.monitoring.mend import mend
from workers.opcua.monitoring.outcome import NO_SUBSCRIPTION
from workers.opcua.monitoring.poll import Poller
from workers.opcua.monitoring.subscribe import create_subscription
from workers.opcua.pump import Pump
from workers.opcua.redundancy import watch_for_better
from workers.opcua.resume import Held, read_server_start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from workers.opcua.channel import Channel
    from workers.opcua.line import Line
    from workers.opcua.redundancy import Open

log = structlog.get_logger(__name__)

_SAVE_AGAIN_FIRST_S, _SAVE_AGAIN_MOST_S = 5.0, 600.0


async def subscribe(line: Line, channel: Channel, url: str, cause: Cause) -> Held:
    """Monitor every tag in new subscriptions; from here on rows may be missing, for this cause, or come again.

    Raises ConnectionRefused or MalformedMessage when the session cannot go on.
    """
    connection = line.connection
    started = await read_server_start(channel)
    limits = await read_limits(channel)
    monitoring = await monitor(
        channel,
        connection.tags,
        connection.settings,
        line.settings,
        limits,
        line.most_rows,
        batch=line.batch,
    )
    line.continuity.interrupted(line.slots, cause)
    held = Held(
        endpoint_url=url,
        ticket=channel.ticket,
        monitoring=monitoring,
        limits=limits,
        server_started=started,
        text_of=variants.text_of,
    )
    held.flows = [line.flow(monitoring, at) for at in range(len(monitoring.subscriptions))]
    for flow in held.flows:
        line.begin(held, flow)
    line.tell_what_is_polled(monitoring)
    await learn_types(line, channel, held)
    return held


async def learn_types(line: Line, channel: Channel, held: Held) -> None:
    """Learn what the server says of enumerations and structures. Raises ConnectionRefused when the session ends."""
    monitoring = held.monitoring
    types = await read_types(channel, line.connection.tags, monitoring.addresses, held.limits)
    for problem in types.problems:
        monitoring.note(problem)
    if line.learn is not None:
        line.learn(line.slots, types.enum_names)
    held.text_of = types.text_of


async def go_on(line: Line, channel: Channel, held: Held) -> None:
    """Make a session of an earlier process this one's. Raises ConnectionRefused when it ends."""
    await learn_types(line, channel, held)
    monitoring = held.monitoring
    line.tell_what_is_polled(monitoring)
    # Of what the server keeps for us nothing is missing; nobody has read these.
    line.continuity.interrupted(line.slots[monitoring.polled], Cause.RESTART)
    held.restored = False


class Tending:
    """Runs one session until something ends it."""

    def __init__(
        self, line: Line, channel: Channel, held: Held, *, open_partner: Open, report: Callable[[], None]
    ) -> None:
        """`report` is called when the session works, and whenever what is monitored has changed."""
        self._line = line
        self._channel = channel
        self._held = held
        self._open_partner = open_partner
        self._report = report
        self._ended: asyncio.Queue[Flow] = asyncio.Queue()
        self._pump = Pump(
            channel=channel,
            connection_id=line.connection.id,
            flows=held.alive,
            ring=line.ring,
            slots=line.slots,
            counters=line.counters,
            settings=line.settings,
            sink=line.sink,
            continuity=line.continuity,
            ended=self._on_ended,
            text_of=held.text_of,
            acks=held.acks,
        )
        self._poller = Poller(
            channel=channel,
            monitoring=held.monitoring,
            ring=line.ring,
            slots=line.slots,
            counters=line.counters,
            settings=line.settings,
            sink=line.sink,
            interval_s=line.connection.poll_interval_seconds,
            text_of=held.text_of,
            changed=self._changed,
        )

    async def run(self) -> Never:
        """Ask for what was sent meanwhile, report, and pump. Raises the ScadaError that ended it."""
        pump = self._pump
        # What was sent meanwhile may have to wait for room in the ring: the session is kept alive all the same.
        keeping = (pump.watch, pump.keep_session, pump.heed_end, self._channel.renew, self._remember)
        self._held.unsaved.set()
        works = (self._poller.run, self._remake, self._mend, self._backfill, self._move)
        ended: ScadaError
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._guarded(work)) for work in keeping]
            try:
                await self._recover()
                self._report()
                beside += [group.create_task(self._guarded(work)) for work in works]
                await pump.run()
            except ScadaError as exc:
                ended = exc
            finally:
                for task in beside:
                    task.cancel()
        raise ended

    async def _recover(self) -> None:
        held, pump = self._held, self._pump
        pump.elements = held.monitoring.elements
        for flow in [flow for flow in held.flows if flow.ended]:
            self._on_ended(flow, "the server did not let it be taken over")
        for flow in held.alive:
            await pump.recover(flow, held.available.pop(flow.subscription_id, None))
            self._line.continuity.resumed(flow.slots)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """End the channel when this fails, and raise nothing: the pump first stores what has arrived."""
        try:
            await work()
        except ScadaError as exc:
            self._channel.abort(exc)

    def _on_ended(self, flow: Flow, reason: str) -> None:
        log.warning("a subscription is made again", connection=self._line.connection.name, reason=reason)
        self._ended.put_nowait(flow)

    def _changed(self) -> None:
        """Take over what became of tags that were tried again."""
        line, held, monitoring = self._line, self._held, self._held.monitoring
        self._pump.elements = monitoring.elements
        line.tell_what_is_polled(monitoring)
        for at in range(len(monitoring.subscriptions)):
            if at == len(held.flows):
                held.flows.append(line.flow(monitoring, at))
                self._pump.add(held.flows[at])
                line.begin(held, held.flows[at])
            held.flows[at].slots = line.slots_of(monitoring, at)
        held.unsaved.set()
        self._report()

    async def _remake(self) -> None:
        while True:
            flow = await self._ended.get()
            with self._changing():
                self._pump.add(await self._make_again(self._held.flows.index(flow)))
            self._changed()

    async def _make_again(self, at: int) -> Flow:
        """Put another subscription in the place of one that has ended, and monitor its tags in it."""
        line, held, monitoring = self._line, self._held, self._held.monitoring
        places = np.flatnonzero(monitoring.subscription == at).astype(np.int32)
        made = await create_subscription(
            self._channel, line.settings, line.most_rows, monitoring.subscriptions[at].wanted_interval_ms
        )
        line.continuity.interrupted(line.slots[places], Cause.OUTAGE)
        monitoring.subscriptions = (*monitoring.subscriptions[:at], made, *monitoring.subscriptions[at + 1 :])
        monitoring.subscription[places] = NO_SUBSCRIPTION
        held.flows[at] = line.flow(monitoring, at)
        line.begin(held, held.flows[at])
        await line.items(self._channel, held).create(places)
        return held.flows[at]

    async def _mend(self) -> None:
        held = self._held
        await mend(
            self._channel,
            lambda: self._line.items(self._channel, held),
            held.monitoring,
            held.limits,
            self._changed,
            changing=self._changing,
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let nobody go on with this session while its subscriptions and items change."""
        held, remembered = self._held, self._line.remembered
        if remembered is not None:
            remembered.forget()
        held.changing += 1
        yield
        held.changing -= 1
        held.unsaved.set()

    async def _remember(self) -> None:
        line, held = self._line, self._held
        pause = Backoff(first_s=_SAVE_AGAIN_FIRST_S, most_s=_SAVE_AGAIN_MOST_S)
        while line.remembered is not None:
            await held.unsaved.wait()
            held.unsaved.clear()
            if not held.settled:
                continue
            saved = False
            try:
                saved = await line.remembered.save(line, held)
            finally:
                if not saved:
                    held.unsaved.set()
            if saved:
                pause.reset()
            elif held.settled:
                # The disk is full, as a rule.
                await asyncio.sleep(pause.next_s())

    async def _backfill(self) -> None:
        held = self._held
        if self._line.backfiller is not None:
            await self._line.backfiller.run(self._channel, held.monitoring, held.limits, held.text_of)

    async def _move(self) -> None:
        best = await watch_for_better(
            self._channel,
            self._held.endpoint_url,
            self._line.connection.endpoint_urls,
            self._open_partner,
        )
        self._pump.stop(ConnectionRefused(f"{best.endpoint_url} is healthier"))
