"""What a connection tells whoever owns the ring and the catalog: rows that were stored, and how it is doing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from engine.frames import Position
    from engine.metrics.names import MissingReason
    from workers.opcua.channel import ChosenEndpoint
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.monitoring.subscribe import Subscription


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """What is true of a connection now.

    `error` says why it is not connected; when it is, which tags are not monitored and what else an operator has to
    know, or None.
    """

    connection_id: UUID
    connected: bool
    error: str | None
    monitored: int
    """Tags that are monitored or polled."""
    wanted: int
    missing: Mapping[MissingReason, int] = field(default_factory=dict)
    active: ChosenEndpoint | None = None
    """The endpoint in use, with its security."""
    revised: tuple[Subscription, ...] = ()
    """The subscriptions as the server made them."""
    monitoring: Monitoring | None = field(default=None, repr=False, compare=False)
    """What became of each tag; a live object, of the moment in which it is read."""


class Message(NamedTuple):
    """A message whose values are all in the ring."""

    position: Position
    durable: Callable[[Position], None]
    """Called when its values are in the journal for good: from then on it may be acknowledged."""


async def until_accepting(sink: Sink) -> None:
    """Return when the journal takes readings."""
    if sink.accepting:
        return
    changed = asyncio.Event()
    forget = sink.on_accepting(changed.set)
    try:
        while not sink.accepting:
            changed.clear()
            await changed.wait()
    finally:
        forget()


class Sink(Protocol):
    """Whoever owns the ring and the catalog."""

    @property
    def accepting(self) -> bool:
        """False while the journal takes nothing: no publish request may go out."""

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called each time that `accepting` has changed; return what ends that."""

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Take note of rows that went into the ring, and count them as received.

        With a message, also when it brought no rows: it becomes durable behind everything that is in the ring now.
        """

    async def wait_for_space(self) -> None:
        """Return after rows of the ring were freed."""

    def report(self, report: ConnectionReport) -> None:
        """Take note of a change of state."""
