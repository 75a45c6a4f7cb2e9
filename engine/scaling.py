"""Raw value -> engineering units: value * scaling_factor + offset, for a whole batch at once.

Owns the tenant's TagTable: the dense columns that turn a ring's slot into tag_id, factor and offset. Slots are only
ever appended, never reused, so a batch that was decoded before a reload still scales by what it was decoded with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.readings import Batch, RawBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Room for this share more than is needed at each growth: connections come one after the other.
_GROWTH = 0.125


class TagTable:
    """Slot -> (tag_id, scaling_factor, offset), shape (slots,) each; 24 bytes a slot, and the room to grow."""

    def __init__(self) -> None:
        self._slots = 0
        self._tag_id: NDArray[np.int32] = np.zeros(0, np.int32)
        self._factor: NDArray[np.float64] = np.zeros(0, np.float64)
        self._offset: NDArray[np.float64] = np.zeros(0, np.float64)
        # The slots in the order of their tag ids: where a tag's slots are found.
        self._by_tag_id: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return self._slots

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        return sum(column.nbytes for column in (self._tag_id, self._factor, self._offset, self._by_tag_id))

    def slots(
        self,
        tag_id: NDArray[np.int32],
        *,
        scaling_factor: NDArray[np.float64],
        offset: NDArray[np.float64],
    ) -> NDArray[np.uint32]:
        """Return the slot of each tag with its scaling, new ones where there are none yet; shape (tags,)."""
        found = self._find(tag_id, scaling_factor, offset)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            wanted: list[NDArray[Any]] = [tag_id[missing], scaling_factor[missing], offset[missing]]
            order = np.lexsort(wanted[::-1])
            columns = [column[order] for column in wanted]
            # The same tag and scaling twice in one call is one slot.
            is_first = np.ones(len(order), np.bool_)
            is_first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
            found[missing[order]] = self._slots + np.cumsum(is_first) - 1
            self._append(*(column[is_first] for column in columns))
        return found.astype(np.uint32)

    def slot(self, tag_id: int, *, scaling_factor: float = 1.0, offset: float = 0.0) -> int:
        """Return the slot of one tag; `slots` is for many."""
        one = self.slots(
            np.array([tag_id], np.int32), scaling_factor=np.array([scaling_factor]), offset=np.array([offset])
        )
        return int(one[0])

    def _find(
        self, tag_id: NDArray[np.int32], factor: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the slot of each tag with this scaling, -1 where there is none."""
        found = np.full(len(tag_id), -1, np.int64)
        known = self._tag_id[self._by_tag_id]
        first = np.searchsorted(known, tag_id, "left")
        count = np.searchsorted(known, tag_id, "right") - first
        # A tag has one slot for each scaling that it ever had: as many rounds as the most of a tag.
        for nth in range(int(count.max(initial=0))):
            asked = np.flatnonzero((found < 0) & (count > nth))
            slot = self._by_tag_id[first[asked] + nth]
            same = (self._factor[slot] == factor[asked]) & (self._offset[slot] == offset[asked])
            found[asked[same]] = slot[same]
        return found

    def _append(
        self, tag_id: NDArray[np.int32], factor: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> None:
        """Add slots for these; `tag_id` is in ascending order."""
        used, needed = self._slots, self._slots + len(tag_id)
        known = self._tag_id[self._by_tag_id]
        new_slots = np.arange(used, needed, dtype=np.uint32)
        self._by_tag_id = np.insert(self._by_tag_id, np.searchsorted(known, tag_id, "right"), new_slots)
        if needed > len(self._tag_id):
            room = needed + int(used * _GROWTH)
            for name in ("_tag_id", "_factor", "_offset"):
                old = getattr(self, name)
                new = np.zeros(room, old.dtype)
                new[:used] = old[:used]
                setattr(self, name, new)
        self._tag_id[used:needed] = tag_id
        self._factor[used:needed] = factor
        self._offset[used:needed] = offset
        self._slots = needed

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
