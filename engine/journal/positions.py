"""How far each subscription has come: carried from segment to segment, so that it outlives the frames that said it.

The first frame of each segment has all of them, the others what moved. So the newest segment that holds frames is
enough to know them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from engine.frames import Position

# A subscription that is gone is never said to be so. These many moved last: 400 kB in each segment at most.
_MOST = 16_384


class Positions:
    """The newest position of each connection's subscriptions; those that moved longest ago are forgotten first."""

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self._newest: dict[tuple[UUID, int], Position] = {}
        self.move(positions)

    def move(self, positions: Iterable[Position]) -> None:
        """Take positions that came after those before, whatever their numbers: these start again at 1."""
        newest = self._newest
        for position in positions:
            key = position.connection_id, position.subscription_id
            newest.pop(key, None)
            newest[key] = position
        while len(newest) > _MOST:
            del newest[next(iter(newest))]

    def all(self) -> tuple[Position, ...]:
        """Return them, those that moved last at the end."""
        return tuple(self._newest.values())

    def all_with(self, moved: Sequence[Position]) -> tuple[Position, ...]:
        """Return them as they will be when these have moved."""
        after = Positions(self._newest.values())
        after.move(moved)
        return after.all()
