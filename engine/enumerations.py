"""Names of enumeration values: which slots are enumerations, and the text that their numbers get.

Owns the names by slot, as a connection read them from its server, and puts them into batches: a number that has a name
keeps its number and gets the name as text (Kind NUMBER | TEXT). A number without a name stays a plain number.

Cheap where there are none: one comparison a batch. Where there are some, a mask picks their rows. Slots of one type
share its names, so a slot costs one byte and a dictionary entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from engine.readings import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.readings import RawBatch

Names = Mapping[int, str]
# A slot's number has 32 bits; this bounds the mask to what a tenant can have.
_SLOTS_MOST = 1 << 26


class Enumerations:
    """The names of one tenant's enumeration tags, by slot."""

    __slots__ = ("_is_named", "_names")

    def __init__(self) -> None:
        self._names: dict[int, Names] = {}
        self._is_named: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, slots: NDArray[np.uint32], names: Mapping[int, Names]) -> None:
        """Take what one connection knows: `slots` are all of its slots by place, `names` by place.

        What was known of these slots before is forgotten. Raises ValueError for a place or a slot out of range.
        """
        known = slots[slots < len(self._is_named)]
        known = known[self._is_named[known]]
        for slot in known.tolist():
            del self._names[slot]
        self._is_named[known] = False
        named = {int(slots[place]): known for place, known in names.items() if known}
        if not named:
            return
        most = max(named)
        if most >= _SLOTS_MOST:
            raise ValueError(f"slot {most} is not below {_SLOTS_MOST}")
        if most >= len(self._is_named):
            grown = np.zeros(max(most + 1, 2 * len(self._is_named)), np.bool_)
            grown[: len(self._is_named)] = self._is_named
            self._is_named = grown
        self._is_named[list(named)] = True
        self._names |= named

    def forget(self, slots: NDArray[np.uint32]) -> None:
        """Drop what is known of these slots: their connection has ended."""
        self.learn(slots, {})

    def name(self, batch: RawBatch) -> None:
        """Give the numbers of enumerations their names as text; changes the batch's kinds and texts."""
        if not self._names or not len(batch):
            return
        known = batch.slot < len(self._is_named)
        rows = np.flatnonzero(known & (batch.kind == Kind.NUMBER))
        rows = rows[self._is_named[batch.slot[rows]]]
        for row in rows.tolist():
            number = batch.value[row]
            # A number that is not whole, NaN or infinite is nobody's name.
            text = self._names[int(batch.slot[row])].get(int(number)) if number.is_integer() else None
            if text is not None:
                batch.texts[row] = text
                batch.kind[row] = Kind.NUMBER | Kind.TEXT
