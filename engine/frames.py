"""What the journal holds: frames, each some readings with what was found beside them. The only Python definition of it.

A frame is what left a tenant's ring at one moment, in engineering units: it is written to the journal as one record and
stored in the database as a whole, with the gaps that were found in it, or not at all.

Frames are numbered. A sequence is one integer that only grows in a stream:

    sequence = epoch << 40 | count

`epoch` is given by the tenant's database to each owner of the stream, in the order in which they took it over;
`count` is 1 for an owner's first frame. So a frame of a later owner is never taken for one of an earlier, whatever
became of the earlier one's last frames. 23 bits of epochs and 40 of frames fit into a bigint.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.gaps import GapChanges
    from engine.readings import Batch

EPOCH_SHIFT = 40
EPOCHS_MOST = (1 << 23) - 1
COUNTS_MOST = (1 << EPOCH_SHIFT) - 1


def sequence_of(epoch: int, count: int) -> int:
    """Return the sequence of an owner's frame; raises ValueError when either number is out of range."""
    if not (0 < epoch <= EPOCHS_MOST and 0 <= count <= COUNTS_MOST):
        raise ValueError(f"there is no frame {count} of epoch {epoch}")
    return epoch << EPOCH_SHIFT | count


def epoch_of(sequence: int) -> int:
    """Return the epoch of the owner that wrote a frame."""
    return sequence >> EPOCH_SHIFT


@dataclass(frozen=True, slots=True)
class Position:
    """How far a subscription's messages have come: this one and all before it are in this frame or an earlier one."""

    connection_id: UUID
    subscription_id: int
    sequence_number: int
    """Of the message (OPC 10000-4, 7.26); not of a frame."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to become a frame."""

    batch: Batch
    gaps: GapChanges
    positions: Sequence[Position] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream. `Gaps.slot` is 0 in a frame that was read from the journal."""

    sequence: int
    previous: int
    """The sequence of the frame before it; 0 for the first of a stream."""
    journaled_us: int
    """When it was written, by this machine's clock: microseconds since 1970."""
    batch: Batch
    gaps: GapChanges
    positions: Sequence[Position]
    nbytes: int
    """Bytes that it takes in the journal."""


class LossReason(StrEnum):
    """Why frames are not in the journal any more; the value is the word in logs, metrics and the quarantine."""

    CORRUPT = "corrupt"  # bytes that are no frame, between frames that are
    MISSING = "missing"  # a segment, or the end of one, is not there
    FOREIGN = "foreign"  # a segment of another stream or tenant lies in its place
    TRIMMED = "trimmed"  # the database lost commits for which the journal was trimmed already


@dataclass(frozen=True, slots=True)
class Loss:
    """A hole in a stream: frames after `after` and before `until` are gone."""

    after: int
    """The sequence of the last frame before the hole; 0: the stream begins with it."""
    until: int
    """The sequence of the first frame behind it, or of the place where the journal goes on."""
    until_us: int
    """When the first frame behind it was written."""
    reason: LossReason
    kept_in: str = ""
    """The file in which the bytes were kept, for a person to look at; empty where there are none."""
