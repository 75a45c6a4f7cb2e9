"""Going on where a lost connection ended: which way back to try, and the requests of the ways that have some.

Owns the ladder. Owns no retry of a connection that cannot be made, and no subscription: they are made anew by whoever
made them first.

    rung         request                                       if the server refuses
    REACTIVATE   ActivateSession on a new channel              TRANSFER
    TRANSFER     a new session, then TransferSubscriptions     CREATE, for what was not transferred
    CREATE       a new session and new subscriptions           (the error is the connection's)

After REACTIVATE and TRANSFER whoever pumps asks for what was sent meanwhile (Republish), and only then publishes. A
connection that is lost on the ladder leaves everything as it is known: the next one starts again from the first rung,
until no subscription can be alive any more.

Subscription ids are small numbers that a restarted server, or another one at the same address, gives to somebody
else: TRANSFER is tried only where the server says that it has been running since before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import structlog
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from engine.errors import ConnectionRefused, ScadaError
from engine.metrics import Counter
from workers.opcua.acknowledgements import Acknowledgements
from workers.opcua.monitoring.resolve import SESSION_ENDED
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.metrics import TenantSlots
    from workers.opcua.channel import Channel
    from workers.opcua.flow import Flow
    from workers.opcua.monitoring.limits import Limits
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.security.handshake import SessionTicket

log = structlog.get_logger(__name__)

_START_TIME = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_StartTime))
_CLOSE_DEADLINE_S = 2.0
# Some servers do not answer a session they do not know: they close the connection.
_MOST_SILENT_REFUSALS = 2


class Rung(IntEnum):
    """The ways back, in the order in which they are tried."""

    REACTIVATE = 0
    TRANSFER = 1
    CREATE = 2


@dataclass(slots=True)
class Held:
    """What is known of a session, and outlives its connection."""

    endpoint_url: str
    ticket: SessionTicket
    monitoring: Monitoring
    limits: Limits
    server_started: object
    """When the server says that it was started; None where it does not say."""
    text_of: Callable[[bytes], str | None]
    """For the decoders: the text of a Variant, with what the server says of its structures."""
    flows: list[Flow] = field(default_factory=list)
    """One for each of monitoring.subscriptions, in their order."""
    acks: Acknowledgements = field(default_factory=Acknowledgements)
    lost_at_s: float = 0.0
    """On the event loop's clock."""
    session_gone: bool = False
    silent_refusals: int = 0
    untransferred: bool = False
    """The subscriptions were another session's; it is not known yet whether they are this one's."""
    restored: bool = False
    """An earlier process made it; what the server says of types has not been read in this one."""
    changing: int = 0
    """So many are changing subscriptions or items: what is known here is not what the server has."""
    unsaved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something new to remember."""
    available: dict[int, list[int]] = field(default_factory=dict)
    """Subscription id -> the numbers of messages that the server said it keeps."""

    def lose(self, now_s: float) -> None:
        """Take note that the connection was lost."""
        self.lost_at_s = now_s
        self.silent_refusals = 0

    @property
    def settled(self) -> bool:
        """Whether another process could go on with what is known."""
        return self.changing == 0 and all(flow.begun for flow in self.alive)

    @property
    def alive(self) -> list[Flow]:
        """The subscriptions that the server has, as far as we know."""
        return [flow for flow in self.flows if not flow.ended]


def first_rung(held: Held | None, now_s: float) -> Rung:
    """Return where to begin.

    1. nothing is known, or every subscription's lifetime has passed: CREATE
    2. the server has refused the session before: TRANSFER
    3. else: REACTIVATE
    """
    if held is None or not held.alive:
        return Rung.CREATE
    if now_s - held.lost_at_s > max(flow.lifetime_s for flow in held.alive):
        return Rung.CREATE
    return Rung.TRANSFER if held.session_gone else Rung.REACTIVATE


def is_refusal(exc: ScadaError) -> bool:
    """Tell whether the server has answered, and said no."""
    return isinstance(exc.__cause__, UaStatusCodeError)


async def climb(
    held: Held | None,
    connect: Callable[[], Channel],
    *,
    counters: TenantSlots,
    now_s: float,
    keeping: Callable[[], bool] = lambda: False,
) -> tuple[Channel, Held | None]:
    """Return an open channel, and `held` if any of its subscriptions goes on in it.

    When cancelled the session is closed, unless `keeping` says that it is to stay on the server. Raises
    ConnectionRefused and MalformedMessage when no channel can be opened; `held` is then still of use.
    """
    rung = first_rung(held, now_s)
    while True:
        channel = connect()
        try:
            if rung is Rung.REACTIVATE and held is not None:
                await channel.resume(held.ticket)
                held.ticket = channel.ticket
                counters.count(Counter.RESUMED_SESSIONS)
            else:
                await channel.open()
                if rung is Rung.CREATE or held is None or not await _is_same_server(channel, held):
                    return channel, None
                held.ticket = channel.ticket
                held.session_gone = False
                held.untransferred = True
            if held.untransferred:
                await _transfer(channel, held, counters)
            return channel, held if held.alive else None
        except ScadaError as exc:
            await channel.close(_CLOSE_DEADLINE_S, delete_subscriptions=False)
            if rung is not Rung.REACTIVATE or held is None or not _refused(exc, held):
                raise
            log.info("the session is gone; its subscriptions are to be taken over", reason=str(exc))
            held.session_gone = True
            rung = Rung.TRANSFER
        except BaseException:
            await channel.close(_CLOSE_DEADLINE_S, delete_subscriptions=True, keep_session=keeping())
            raise


def _refused(exc: ScadaError, held: Held) -> bool:
    """Tell whether the session cannot be activated again; a connection that cannot be made says nothing of it."""
    if is_refusal(exc):
        return True
    if not isinstance(exc.__cause__, OSError):
        held.silent_refusals += 1
    return held.silent_refusals >= _MOST_SILENT_REFUSALS


async def _is_same_server(channel: Channel, held: Held) -> bool:
    return held.server_started is not None and await read_server_start(channel) == held.server_started


async def read_server_start(channel: Channel) -> object:
    """Return when the server says that it was started, None when it does not say."""
    with channel.translated("server status not read"):
        try:
            (read,) = await channel.session.read_attributes([_START_TIME], AttributeIds.Value)
        except UaStatusCodeError as exc:
            if exc.code in SESSION_ENDED:
                raise
            return None
        return read.Value.Value if read.Value is not None else None


async def _transfer(channel: Channel, held: Held, counters: TenantSlots) -> None:
    """Take over the subscriptions of the session before; those that the server does not give have ended."""
    flows = held.alive
    request = ua.TransferSubscriptionsParameters(
        SubscriptionIds=[ua.IntegerId(flow.subscription_id) for flow in flows],
        # Part 4, 5.14.7: what we have already would come again.
        SendInitialValues=False,
    )
    with channel.translated("subscriptions not taken over"):
        try:
            results = await channel.session.transfer_subscriptions(request)
        except UaStatusCodeError as exc:
            if exc.code in SESSION_ENDED:
                raise
            log.info("subscriptions cannot be taken over", status=status_name(exc.code))
            for flow in flows:
                flow.ended = True
            held.untransferred = False
            return
    if len(results or ()) != len(flows):
        raise ConnectionRefused(f"the server answered {len(results or ())} of {len(flows)} subscriptions")
    for flow, result in zip(flows, results, strict=True):
        code = result.StatusCode.value
        # BadNothingToDo: it is this session's already (Part 4, 5.14.7).
        if code < StatusCodes.Bad:
            counters.count(Counter.TRANSFERRED_SUBSCRIPTIONS)
            held.available[flow.subscription_id] = [int(n) for n in result.AvailableSequenceNumbers or ()]
        elif code != StatusCodes.BadNothingToDo:
            log.info("a subscription cannot be taken over", status=status_name(code))
            flow.ended = True
    held.untransferred = False
