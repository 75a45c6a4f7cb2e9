"""What a gap is: an interval of a tag in which readings are missing, and why. The only Python definition of it.

A gap is (tag_id, from, to, cause), both ends excluded: they are readings that are there. In memory gaps are columns of
equal length, as readings are:

    slot     uint32   the tag's place in the tenant's TagTable
    tag_id   int32    tag_mappings.tag_id
    from_us  int64    the source time of the last reading before, microseconds since 1970
    to_us    int64    the source time of the first reading after
    cause    uint8    a Cause
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Cause(IntEnum):
    """Why readings can be missing. 0 is kept free: no cause."""

    OUTAGE = 1
    """The connection was lost for longer than the server kept what we missed."""
    RESTART = 2
    """Nobody listened: the engine did not run, or the connection was made anew."""
    MISSING_MESSAGE = 3
    """The server sent a message that never came and that it could not send again."""
    OVERFLOW = 4
    """The server's queue for the tag was full, and it said so."""
    JOURNAL = 5
    """Frames of the journal were lost: readings of any tag may have been in them."""

    @property
    def label(self) -> str:
        """The word in the database."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps as columns."""

    slot: NDArray[np.uint32]
    tag_id: NDArray[np.int32]
    from_us: NDArray[np.int64]
    to_us: NDArray[np.int64]
    cause: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.slot)

    def where(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Gaps:
        """Return the gaps that a mask or places select."""
        return Gaps(
            self.slot[which], self.tag_id[which], self.from_us[which], self.to_us[which], self.cause[which]
        )

    @classmethod
    def joined(cls, parts: Sequence[Gaps]) -> Gaps:
        """Return all of them, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([np.empty(0, np.uint32), *(part.slot for part in parts)]),
            np.concatenate([np.empty(0, np.int32), *(part.tag_id for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.from_us for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.to_us for part in parts)]),
            np.concatenate([np.empty(0, np.uint8), *(part.cause for part in parts)]),
        )


NO_GAPS = Gaps.joined(())


@dataclass(frozen=True, slots=True)
class GapChanges:
    """What a batch changes in reading_gaps, in the batch's own transaction."""

    recorded: Gaps = NO_GAPS
    recovered: Gaps = NO_GAPS
    """Recorded before; the server's history has filled them since."""

    def __bool__(self) -> bool:
        return len(self.recorded) > 0 or len(self.recovered) > 0
