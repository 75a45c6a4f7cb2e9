"""The readings that all ways of claim `copy` store, as they arrive: nearly in order."""

from __future__ import annotations

import numpy as np

from engine.readings import Batch, Kind

TAGS = 1_000
_FIRST_US = 1_790_812_800_000_000  # 2026-10-01: hours of readings, all of one chunk
_SECOND_US = 1_000_000
# Two servers' messages overtake each other, and a value is sent again: a few in a hundred.
_OVERTAKEN_SHARE = 0.01


class Feed:
    """Each second one value of each tag, at a moment of its own; later ones follow on earlier ones.

    Within a batch one reading in a hundred has changed places with the next one of its tag.
    """

    def __init__(self) -> None:
        self._row = 0
        self._random = np.random.default_rng(seed=1)
        # Tags come as their connections send them: in a scattered order, which stays.
        self._tag_id = self._random.permutation(TAGS).astype(np.int32) + 1
        self._phase_us = self._random.integers(0, _SECOND_US, TAGS)

    def batch(self, rows: int) -> Batch:
        """Return the next rows, in the order of arrival."""
        number = np.arange(self._row, self._row + rows)
        self._row += rows
        overtaken = self._random.choice(
            max(rows - TAGS, 0), int(max(rows - TAGS, 0) * _OVERTAKEN_SHARE), replace=False
        )
        # One after the other: a reading can be overtaken twice, and it stays a permutation.
        for row in overtaken.tolist():
            number[row], number[row + TAGS] = number[row + TAGS], number[row]
        return Batch(
            ts_us=_FIRST_US + number // TAGS * _SECOND_US + self._phase_us[number % TAGS],
            tag_id=self._tag_id[number % TAGS],
            status=np.zeros(rows, np.uint32),
            value=self._random.normal(100, 10, rows),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        )


def parts_of(batch: Batch) -> list[Batch]:
    """Return a batch as the frames' batches that it would have come in, one a second."""
    return [batch.part(first, first + TAGS) for first in range(0, len(batch), TAGS)]


def sorted_by_tag(batch: Batch) -> Batch:
    """Return the batch in the order in which the engine sends it: by tag_id, then ts."""
    order = np.lexsort((batch.ts_us, batch.tag_id))
    return Batch(
        batch.ts_us[order], batch.tag_id[order], batch.status[order], batch.value[order], batch.kind[order]
    )
