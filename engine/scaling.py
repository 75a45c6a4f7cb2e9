"""Raw value -> engineering units: value * scaling_factor + offset, for a whole batch at once.

Owns the tenant's TagTable: the dense columns that turn a ring's slot into tag_id, factor and offset. Slots are only
ever appended, never reused, so a batch that was decoded before a reload still scales by what it was decoded with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.readings import Batch, RawBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST_CAPACITY = 64


class TagTable:
    """Slot -> (tag_id, scaling_factor, offset), shape (slots,) each."""

    def __init__(self) -> None:
        self._tag_id: NDArray[np.int32] = np.zeros(_FIRST_CAPACITY, np.int32)
        self._factor: NDArray[np.float64] = np.ones(_FIRST_CAPACITY, np.float64)
        self._offset: NDArray[np.float64] = np.zeros(_FIRST_CAPACITY, np.float64)
        self._slot_of: dict[tuple[int, float, float], int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def slot(self, tag_id: int, *, scaling_factor: float = 1.0, offset: float = 0.0) -> int:
        """Return the slot of a tag with this scaling, a new one if there is none yet."""
        key = (tag_id, scaling_factor, offset)
        known = self._slot_of.get(key)
        if known is not None:
            return known
        slot = len(self._slot_of)
        if slot == len(self._tag_id):
            self._grow()
        self._tag_id[slot] = tag_id
        self._factor[slot] = scaling_factor
        self._offset[slot] = offset
        self._slot_of[key] = slot
        return slot

    def _grow(self) -> None:
        used = len(self._tag_id)
        for name, fill in (("_tag_id", 0), ("_factor", 1), ("_offset", 0)):
            old = getattr(self, name)
            new = np.full(used * 2, fill, old.dtype)
            new[:used] = old
            setattr(self, name, new)

    def scale(self, raw: RawBatch) -> Batch:
        """Return the batch in engineering units. Infinities and NaN pass through as IEEE 754 computes them."""
        slot = raw.slot
        with np.errstate(over="ignore", invalid="ignore"):
            value = raw.value * self._factor[slot]
            value += self._offset[slot]
        return Batch(
            ts_us=raw.ts_us,
            tag_id=self._tag_id[slot],
            status=raw.status,
            value=value,
            kind=raw.kind,
            texts=raw.texts,
        )
