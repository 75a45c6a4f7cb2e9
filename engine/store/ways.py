"""The ways of readings into the columnstore: which rows of a batch are compressed as they come in, and how. Pure.

    append    newer than all that the database has of the tag: compressed as they come. Batches of a tag do not overlap
              in time, so queries take them one after the other.
    backlog   older, and many: compressed as well. Batches overlap, and the chunk is marked so: queries sort the tag's
              batches until the chunk is compressed anew.
    rows      the rest: rows with an index, which queries merge with the batches. They are compressed later.

A batch of few rows costs as much as one of many (measured: 1 row a tag 327 bytes and 8 us, 20 rows 25 bytes and 1 us
each, while rows by themselves cost 90 bytes and 2 to 3 us), so fewer than eight rows of a tag are not compressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE_ROWS = 8
# What a tag's newest reading is where it is not known: then all its rows count as older.
UNKNOWN_US = np.iinfo(np.int64).max

_OFF = "set local timescaledb.enable_direct_compress_copy = off"
_ON = (
    "set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_sort_batches = off"  # they are sorted
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = "
)


class Way(Enum):
    """How rows are copied; the value sets it for the rest of a transaction."""

    APPEND = _ON + "on"
    BACKLOG = _ON + "off"
    ROWS = _OFF


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that go one way: the ranges starts[i]:ends[i] of the sorted rows, none of them empty."""

    way: Way
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]


class Runs(Protocol):
    """What is asked of sorted rows; a run is the rows of one tag, as in SortedReadings."""

    @property
    def start(self) -> NDArray[np.intp]:
        """Of each run its first row, and the number of rows behind them."""

    def cut(self, newest_us: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return of each run the first row that is later than newest_us[run], or the run's end."""


def is_dense(runs: Runs) -> NDArray[np.bool_]:
    """Return of each run whether any of it may be compressed as it comes."""
    return np.diff(runs.start) >= DENSE_ROWS


def parts_of(runs: Runs, newest_us: NDArray[np.int64]) -> list[Part]:
    """Return which rows go which way; together they are all rows, each once.

    `newest_us`: of each run the newest reading that the database has of its tag, or UNKNOWN_US.
    """
    first, end, cut = runs.start[:-1], runs.start[1:], runs.cut(newest_us)
    appends = end - cut >= DENSE_ROWS
    goes_back = cut - first >= DENSE_ROWS
    # Of what is left of a run, the newer rows follow on the older ones.
    starts = np.where(goes_back, cut, first)
    ends = np.where(appends, cut, end)
    parts = [
        Part(Way.APPEND, cut[appends], end[appends]),
        Part(Way.BACKLOG, first[goes_back], cut[goes_back]),
        Part(Way.ROWS, starts, ends),
    ]
    return [_without_empty(part) for part in parts if (part.starts < part.ends).any()]


def _without_empty(part: Part) -> Part:
    held = part.starts < part.ends
    return part if held.all() else Part(part.way, part.starts[held], part.ends[held])
