"""The reading record: its columns, units, and how a status becomes a quality. The only Python definition of it.

A reading is (ts, tag_id, status, value, text_value). In memory a batch is a set of columns of equal length:

    ts_us   int64    microseconds since 1970-01-01T00:00:00Z (numpy datetime64[us] is the same integer)
    slot    uint32   the tag's place in the tenant's TagTable; before scaling
    tag_id  int32    tag_mappings.tag_id; after scaling
    status  uint32   the full OPC UA StatusCode (OPC 10000-4, 7.39); the database holds the same bits as integer
    value   float64  raw before scaling, engineering units after; undefined where kind says there is none
    kind    uint8    a Kind
    texts   dict[int, str]   row -> text_value, for the rows whose kind has TEXT

Text is rare, so it sits beside the columns: a batch of numbers makes no Python object per reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

READING_COLUMNS = ("ts", "tag_id", "status", "value", "text_value")


class Kind(IntFlag):
    """Which of the two value columns a reading fills; neither means a null value with a status."""

    NULL = 0
    NUMBER = 1
    TEXT = 2


class Quality(IntEnum):
    """Severity of a StatusCode, its top two bits (OPC 10000-4, 7.39.1)."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2

    @property
    def label(self) -> str:
        """The seed's word for it: Good, Uncertain or Bad."""
        return self.name.capitalize()


def quality_of(status: int) -> Quality:
    """Return the quality of a 32-bit StatusCode; the reserved severity 3 counts as Bad, as the seed's view does."""
    return Quality(min((status >> 30) & 0x3, Quality.BAD))


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Readings as they come out of a ring: tags by slot, values not scaled."""

    ts_us: NDArray[np.int64]
    slot: NDArray[np.uint32]
    status: NDArray[np.uint32]
    value: NDArray[np.float64]
    kind: NDArray[np.uint8]
    texts: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts_us)


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings in engineering units, ready to be stored; also what queries return."""

    ts_us: NDArray[np.int64]
    tag_id: NDArray[np.int32]
    status: NDArray[np.uint32]
    value: NDArray[np.float64]
    kind: NDArray[np.uint8]
    texts: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts_us)

    def part(self, first: int, end: int) -> Batch:
        """Return the rows from `first` up to `end`; the arrays are views."""
        if first == 0 and end >= len(self):
            return self
        return Batch(
            ts_us=self.ts_us[first:end],
            tag_id=self.tag_id[first:end],
            status=self.status[first:end],
            value=self.value[first:end],
            kind=self.kind[first:end],
            texts={row - first: text for row, text in self.texts.items() if first <= row < end},
        )
