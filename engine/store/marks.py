"""How far a stream is committed: its lanes and totals, as they are in ingest_marks. Pure; no I/O.

A lane is a stretch of a stream that is committed in its order: the frames behind `after`, of which those up to `mark`
are in the database. A stream's lanes do not overlap, and what they leave out between them is what is still to come:

    sequence   1 ................ 500 501 .............. 900 901 ....... 950 951 ...
    lanes      after 0        mark 500                   after 900    mark 950
               (the backlog: 501 to 900 are still to come)  (live frames, beside it)

When a lane's mark reaches the next lane's `after`, the two are one. One lane is the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Lane:
    """The frames behind `after`, of which those up to `mark` are committed."""

    after: int
    mark: int


@dataclass(frozen=True, slots=True)
class Totals:
    """How many readings of a stream were stored and quarantined since it began."""

    readings: int
    quarantined: int


FIRST_LANE = Lane(0, 0)
NOTHING = Totals(0, 0)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the database says to whoever has just become the owner of a stream."""

    epoch: int
    database_id: UUID
    lanes: tuple[Lane, ...]
    totals: Totals
    known: bool
    """False: the database had never heard of the stream."""


class MarkMoved(DatabaseError):
    """The database does not have what its mark said before: it lost commits, in a failover perhaps.

    `lanes` and `totals` are what it has now; what is behind its marks is to be committed again, from the journal.
    """

    def __init__(self, message: str, lanes: tuple[Lane, ...], totals: Totals) -> None:
        super().__init__(message)
        self.lanes = lanes
        self.totals = totals


def place_of(lanes: Sequence[Lane], after: int) -> int | None:
    """Return the place of the lane that goes on behind `after`; None when there is none.

    It is the lane that begins there, or one that has come past that point: then the two have been merged.
    """
    place = sum(lane.after <= after for lane in lanes) - 1
    if place >= 0 and (lanes[place].after == after or lanes[place].mark >= after):
        return place
    return None


def opened(lanes: Sequence[Lane], after: int) -> tuple[Lane, ...]:
    """Return the lanes with a new one that begins behind `after`, where no lane is."""
    return tuple(sorted((*lanes, Lane(after, after)), key=lambda lane: lane.after))


def moved(lanes: Sequence[Lane], place: int, mark: int) -> tuple[Lane, ...]:
    """Return the lanes with one's mark moved; those that meet are one."""
    merged: list[Lane] = []
    for number, lane in enumerate(lanes):
        reached = max(lane.mark, mark) if number == place else lane.mark
        if merged and merged[-1].mark >= lane.after:
            merged[-1] = Lane(merged[-1].after, max(merged[-1].mark, reached))
        else:
            merged.append(Lane(lane.after, reached))
    return tuple(merged)
