"""What a connection is wired to, over all of its sessions: one word for all that its parts need of the tenant.

Owns how a session's items and subscriptions are made of that. Owns no session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.frames import Position
from workers.opcua.flow import Flow
from workers.opcua.monitoring.items import Items
from workers.opcua.sink import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from engine._fastpath import Ring
    from engine.catalog.connection import Connection
    from engine.continuity import Continuity
    from engine.enumerations import Names
    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel
    from workers.opcua.history import Backfiller
    from workers.opcua.monitoring.items import BatchSize
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.remembered import Remembered
    from workers.opcua.resume import Held
    from workers.opcua.sink import Sink


@dataclass(frozen=True, slots=True)
class Line:
    """What one connection is wired to, over all of its sessions."""

    connection: Connection
    slots: NDArray[np.uint32]
    """The ring slot of each place of connection.tags."""
    ring: Ring
    counters: TenantSlots
    settings: OpcuaSettings
    sink: Sink
    continuity: Continuity
    batch: BatchSize
    backfiller: Backfiller | None
    """None: gaps are not filled."""
    learn: Callable[[NDArray[np.uint32], Mapping[int, Names]], None] | None
    """Gets the slots and, by place, the names of enumerations' numbers."""
    remembered: Remembered | None
    """None: the session ends with this process."""

    @property
    def most_rows(self) -> int:
        """Values of one message: half of the ring, so that one fits while the other half is being written."""
        return self.ring.capacity_rows // 2

    def items(self, channel: Channel, held: Held) -> Items:
        """Return what makes monitored items in this session."""
        return Items(
            channel,
            held.monitoring,
            defaults=self.connection.settings,
            settings=self.settings,
            limits=held.limits,
            most_rows=self.most_rows,
            batch=self.batch,
        )

    def flow(self, monitoring: Monitoring, at: int) -> Flow:
        """Return the flow of a subscription of which no message came yet."""
        made = monitoring.subscriptions[at]
        return Flow(
            subscription_id=made.subscription_id,
            publishing_interval_s=made.publishing_interval_s,
            keep_alive_s=made.keep_alive_s,
            lifetime_s=made.lifetime_s,
            slots=self.slots_of(monitoring, at),
        )

    def slots_of(self, monitoring: Monitoring, at: int) -> NDArray[np.uint32]:
        """Return the slots of a subscription's items; where these are all tags, the array that is kept anyway."""
        chosen = monitoring.subscription == at
        return self.slots if chosen.all() else self.slots[chosen]

    def begin(self, held: Held, flow: Flow) -> None:
        """Have the journal say, before the next message, that this subscription is another one."""

        def begun(_position: Position) -> None:
            flow.begun = True
            held.unsaved.set()

        position = Position(self.connection.id, flow.subscription_id, flow.last_taken)
        self.sink.stored(0, Message(position, begun))

    def tell_what_is_polled(self, monitoring: Monitoring) -> None:
        """Let polled values be compared with the ones before."""
        self.continuity.subscribed(self.slots)
        self.continuity.polled(self.slots[monitoring.polled])
