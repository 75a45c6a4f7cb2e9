"""How long to wait before a connection is tried again: exponential, with full jitter.

Full jitter (a delay drawn from 0 to the ceiling) keeps a thousand connections to one restarted server from coming back
in step.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Delays in seconds whose ceiling doubles with each failure."""

    def __init__(
        self, *, first_s: float, most_s: float, draw: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self.ceiling_s = min(first_s, most_s)

    def next_s(self) -> float:
        """Return the next delay, and double the ceiling up to its limit."""
        delay_s = self._draw(0.0, self.ceiling_s)
        self.ceiling_s = min(self.ceiling_s * 2, self._most_s)
        return delay_s

    def reset(self) -> None:
        """Start again from the first ceiling: the connection has proved that it works."""
        self.ceiling_s = min(self._first_s, self._most_s)
