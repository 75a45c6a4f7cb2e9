"""What is left to be done of a commit, by what the database says of its stream. Pure; no I/O.

What the row of ingest_marks says, and what is done; the numbers stand in `planned`:

    1  a higher epoch than ours         StreamTakenOver: another process owns the stream now
    2  the mark is at the end           nothing: this is done, by an earlier try whose answer never came
    3  no such lane, or a mark that is  MarkMoved: the database has lost commits, and what follows must not be
       lower than it was                stored before what is missing
    4  the mark is where it was, or     the frames behind the mark
       between there and the end
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import StreamTakenOver
from engine.store.marks import FIRST_LANE, NOTHING, Lane, MarkMoved, Totals, moved, opened, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Frame, Loss


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be stored as a whole."""

    stream: UUID
    epoch: int
    lane: Lane
    """The lane that it moves, as the last answer showed it, or as the commit before this one leaves it."""
    frames: Sequence[Frame]
    """In their order, and all behind the lane's mark."""
    end: int
    """The lane's mark afterwards: the sequence of the last frame, or that before the end of a hole behind it."""
    opens: bool = False
    """The lane may be new: then it begins behind `lane.after`."""
    losses: Sequence[Loss] = ()
    """Holes of the journal that the mark moves over."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says of a stream. A row that is missing was lost: it is as one whose mark is 0."""

    epoch: int
    lanes: tuple[Lane, ...] = (FIRST_LANE,)
    totals: Totals = NOTHING


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to be done of a commit."""

    lanes: tuple[Lane, ...]
    """Afterwards."""
    frames: Sequence[Frame]
    losses: Sequence[Loss]


def planned(commit: Commit, known: Known) -> Plan | None:
    """Return what is left to be done; None: nothing is. Cases as in the module's docstring."""
    # 1
    _check_owner(commit, known)
    lanes = known.lanes
    place = place_of(lanes, commit.lane.after)
    if place is None and commit.opens:
        lanes = opened(lanes, commit.lane.after)
        place = place_of(lanes, commit.lane.after)
    # 2
    if place is not None and lanes[place].mark >= commit.end:
        return None
    # 3
    if place is None or lanes[place].mark < commit.lane.mark or _reaches_into_next(lanes, place, commit.end):
        raise MarkMoved(
            f"stream {commit.stream} was committed up to {commit.lane.mark} behind {commit.lane.after},"
            f" and the database has {known.lanes}",
            known.lanes,
            known.totals,
        )
    # 4
    mark = lanes[place].mark
    return Plan(
        lanes=moved(lanes, place, commit.end),
        frames=_behind(commit, mark),
        # One that the mark is in the midst of has lost what is behind the mark.
        losses=[loss for loss in commit.losses if loss.until - 1 > mark],
    )


def foreseen(commit: Commit, known: Known) -> Sequence[Frame]:
    """Return the frames that will be left once the commit before this one is made; raises StreamTakenOver."""
    _check_owner(commit, known)
    place = place_of(known.lanes, commit.lane.after)
    return commit.frames if place is None else _behind(commit, known.lanes[place].mark)


def _check_owner(commit: Commit, known: Known) -> None:
    """Raise StreamTakenOver when somebody else owns the stream now."""
    if known.epoch > commit.epoch:
        raise StreamTakenOver(
            f"stream {commit.stream} has been taken over: its epoch is {known.epoch}, ours was {commit.epoch}"
        )


def _behind(commit: Commit, mark: int) -> Sequence[Frame]:
    return [frame for frame in commit.frames if frame.sequence > mark]


def _reaches_into_next(lanes: Sequence[Lane], place: int, end: int) -> bool:
    return place + 1 < len(lanes) and end > lanes[place + 1].after
