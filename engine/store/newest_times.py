"""The newest time of each tag in two arrays: 12 bytes a tag, for a million tags as for ten. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.store.ways import UNKNOWN_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 48 MB. A tenant with more has tags that are long gone: what is known of all is forgotten, and asked for again.
_MOST_TAGS = 4_000_000


class NewestTimes:
    """Microseconds since 1970 by tag_id."""

    def __init__(self) -> None:
        self._tag_ids = np.empty(0, np.int32)
        self._newest_us = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._tag_ids)

    def of(self, tag_ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the newest time of each tag, UNKNOWN_US where it is not known."""
        places, known = self._places(tag_ids)
        found = np.full(len(tag_ids), UNKNOWN_US)
        found[known] = self._newest_us[places[known]]
        return found

    def move_up(self, tag_ids: NDArray[np.int32], newest_us: NDArray[np.int64]) -> None:
        """Move known times up to these; tags that are not known stay so. No tag is named twice."""
        places, known = self._places(tag_ids)
        places = places[known]
        self._newest_us[places] = np.maximum(self._newest_us[places], newest_us[known])

    def learn(self, tag_ids: NDArray[np.int32], newest_us: NDArray[np.int64]) -> None:
        """Know these tags from now on, each named once and ascending; a time that is known does not go back."""
        self.move_up(tag_ids, newest_us)
        _, known = self._places(tag_ids)
        new = ~known
        if not new.any():
            return
        if len(self) + np.count_nonzero(new) > _MOST_TAGS:
            self._tag_ids, self._newest_us = self._tag_ids[:0], self._newest_us[:0]
            new[:] = True
        places = np.searchsorted(self._tag_ids, tag_ids[new])
        self._tag_ids = np.insert(self._tag_ids, places, tag_ids[new])
        self._newest_us = np.insert(self._newest_us, places, newest_us[new])

    def _places(self, tag_ids: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return where each tag is, and whether it is there."""
        if not len(self):
            return np.zeros(len(tag_ids), np.intp), np.zeros(len(tag_ids), np.bool_)
        places = np.searchsorted(self._tag_ids, tag_ids)
        places[places == len(self)] = 0
        return places, self._tag_ids[places] == tag_ids
