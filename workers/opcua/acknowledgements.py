"""Which messages of a session the server may forget: those whose values are in the journal for good, and no others.

Owns what is to be acknowledged, over all connections of a session: a message that becomes durable after its connection
was lost is acknowledged by the next one. Owns no request: the pump sends what is due with its publish requests.

    took()         its values are in the ring           -> waiting
    on_durable()   its values are in the journal        -> due
    take()         with the next publish request        -> on its way, until put_back() or the answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.frames import Position

Ack = tuple[int, int]
"""Subscription id and sequence number of a message."""


class Acknowledgements:
    """The acknowledgements of one session; what waits is bounded by what the ring and the journal's stage hold."""

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: set[Ack] = set()
        # In the order in which they became due, each once.
        self._due: dict[Ack, None] = {}

    def took(self, subscription_id: int, number: int) -> None:
        """Take note of a message whose values are in the ring, and nowhere else yet."""
        self._waiting.add((subscription_id, number))

    def on_durable(self, position: Position) -> None:
        """Let a message be acknowledged whose values are in the journal."""
        ack = position.subscription_id, position.sequence_number
        if ack in self._waiting:
            self._waiting.remove(ack)
            self._due[ack] = None

    def came_again(self, subscription_id: int, number: int) -> None:
        """Acknowledge a message that was taken before; not while its values are in the ring only."""
        ack = subscription_id, number
        if ack not in self._waiting:
            self._due[ack] = None

    def take(self) -> list[Ack]:
        """Return what is due, for one publish request."""
        acks = list(self._due)
        self._due.clear()
        return acks

    def put_back(self, acks: Iterable[Ack]) -> None:
        """Have these sent again, first: nobody knows whether the server heard of them."""
        self._due = dict.fromkeys(acks) | self._due

    def forget(self, subscription_id: int) -> None:
        """Acknowledge nothing of a subscription that has ended."""
        self._waiting = {ack for ack in self._waiting if ack[0] != subscription_id}
        self._due = {ack: None for ack in self._due if ack[0] != subscription_id}

    @property
    def due(self) -> list[Ack]:
        """What the next publish request will acknowledge."""
        return list(self._due)
