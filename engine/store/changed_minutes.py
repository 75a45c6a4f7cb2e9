"""Which minutes a commit changes, as rollup_changes keeps them: rollups of these are to be computed anew. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Live readings are of a minute or two. A backlog of single readings, hours apart, would make a row as long as itself.
_MOST_RANGES = 256


def noted(minutes: NDArray[np.int64]) -> str:
    """Return the statement that notes minutes since 1970, ascending and at least one.

    Where they lie in more than 256 ranges, the smallest gaps are counted as changed, too.
    """
    gaps = np.diff(minutes)
    holes = np.flatnonzero(gaps > 1)
    if len(holes) >= _MOST_RANGES:
        widest = np.argpartition(gaps[holes], -(_MOST_RANGES - 1))[-(_MOST_RANGES - 1) :]
        holes = np.sort(holes[widest])
    first = minutes[np.concatenate([[0], holes + 1])]
    last = minutes[np.concatenate([holes, [len(minutes) - 1]])]
    ranges = ",".join(f"[{low},{high + 1})" for low, high in zip(first.tolist(), last.tolist(), strict=True))
    return f"insert into rollup_changes (minutes) values ('{{{ranges}}}')"
