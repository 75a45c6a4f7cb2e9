"""The newest reading of each tag in a backlog: what the database does not know yet and continuity has to begin with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.readings import Batch, Kind

_BAD = np.uint32(0x8000_0000)
# So many rows are gathered before they are reduced to one a tag: it costs a sort.
_GATHERED_ROWS = 200_000


def _no_rows() -> Batch:
    return Batch(
        ts_us=np.empty(0, np.int64),
        tag_id=np.empty(0, np.int32),
        status=np.empty(0, np.uint32),
        value=np.empty(0, np.float64),
        kind=np.empty(0, np.uint8),
    )


@dataclass(frozen=True, slots=True)
class Newest:
    """One row a tag, ordered by tag_id; without texts."""

    batch: Batch

    def __len__(self) -> int:
        return len(self.batch)

    def laid_over(self, stored: Batch) -> Batch:
        """Return the rows of `stored`, one a tag, with those of this journal in place of older ones."""
        mine = self.batch
        if not len(mine) or not len(stored):
            return stored
        place = np.minimum(np.searchsorted(mine.tag_id, stored.tag_id), len(mine) - 1)
        later = (mine.tag_id[place] == stored.tag_id) & (mine.ts_us[place] >= stored.ts_us)

        def chosen(own: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.generic]:
            return np.where(later, own[place], other).astype(other.dtype, copy=False)

        return Batch(
            ts_us=chosen(mine.ts_us, stored.ts_us),  # type: ignore[arg-type]
            tag_id=stored.tag_id,
            status=chosen(mine.status, stored.status),  # type: ignore[arg-type]
            value=chosen(mine.value, stored.value),  # type: ignore[arg-type]
            kind=chosen(mine.kind, stored.kind),  # type: ignore[arg-type]
        )


class NewestReadings:
    """Takes batches in their order and keeps one row a tag.

    That is the row with the latest source time, of several the last that came. A row without a value and with a Bad
    status is how many servers say "not yet": it counts only where there is no other.
    """

    def __init__(self) -> None:
        self._parts: list[Batch] = [_no_rows()]
        self._gathered = 0

    def take(self, batch: Batch) -> None:
        """Take the next batch."""
        self._parts.append(batch)
        self._gathered += len(batch)
        if self._gathered >= _GATHERED_ROWS:
            self._reduce()

    def all(self) -> Newest:
        """Return one row for each tag that was seen."""
        self._reduce()
        return Newest(self._parts[0])

    def _reduce(self) -> None:
        parts = self._parts
        tag_id = np.concatenate([part.tag_id for part in parts])
        ts_us = np.concatenate([part.ts_us for part in parts])
        status = np.concatenate([part.status for part in parts])
        value = np.concatenate([part.value for part in parts])
        kind = np.concatenate([part.kind for part in parts])
        says = (kind != Kind.NULL) | (status < _BAD)
        # Stable: of rows that are alike the last one that came is the last one here.
        order = np.lexsort((ts_us, says, tag_id))
        tags = tag_id[order]
        rows = order[np.append(tags[1:] != tags[:-1], True)] if len(tags) else order
        self._parts = [Batch(ts_us[rows], tag_id[rows], status[rows], value[rows], kind[rows])]
        self._gathered = 0
