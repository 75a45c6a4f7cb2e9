"""What the journal has and the database has not: in which lane, where it can be had, and what goes next.

Decides, and does no I/O: the committer (engine/pipeline/committer.py) does what this module says. Frames up to
`live_after` are in the journal only, those behind it in memory, too:

        after0       mark0      after1     mark1         live_after
    ------+------------+-----------+----------+---------------+-----------------> sequence
          | committed  | backlog   | committed| backlog       | live
    lane 0 ------------------------>  lane 1 ------------------ - - - - - - - - ->

Invariants:
- `lanes` is what the database said last. A lane has the frames behind its `after` up to the next lane's; the last one
  has no end. Within a lane, frames are committed in their order.
- Live frames go into the last lane if everything before them in it is committed; else into a lane of their own, which
  the database has from their first commit on. So neither waits for the other.
- What is in memory is bounded. Beyond that, as when the database is away for long, all of it is left to the journal,
  and memory begins anew behind it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from engine.gaps import NO_GAPS, GapChanges, Gaps
from engine.store import Lane
from engine.store.marks import moved, opened, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.frames import Frame, Loss
    from engine.readings import Batch

# What the database allows (engine.store); every start with a backlog may add one.
LANES_MOST = 8
# Two live batches of the largest size that are being written (engine/pipeline/batches.py), or what gathers meanwhile.
MEMORY_MOST_ROWS = 400_000
# Of frames as the journal has them; texts are what can make rows large.
MEMORY_MOST_BYTES = 64 << 20
# Behind every sequence.
_NO_END = (1 << 63) - 1


class Flying(Protocol):
    """What is on its way to the database, and will be committed as a whole before what is planned behind it."""

    @property
    def lane(self) -> Lane:
        """The lane that it moves."""

    @property
    def opens(self) -> bool:
        """Whether the lane begins with it."""

    @property
    def end(self) -> int:
        """The lane's mark then."""

    @property
    def live(self) -> bool:
        """Whether its frames came from memory."""

    @property
    def frames(self) -> Sequence[Frame]:
        """Its frames, in their order."""


@dataclass(frozen=True, slots=True)
class Live:
    """Frames in memory, the oldest first, and the lane they go into; `opens`: the database does not have it yet."""

    lane: Lane
    opens: bool
    frames: Sequence[Frame]
    full: bool
    """They are as many as there may be, in rows or bytes."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of a lane that only the journal has: those behind `lane.mark`, up to `until`."""

    lane: Lane
    until: int


class Backlog:
    """The uncommitted frames of one stream."""

    def __init__(
        self,
        lanes: tuple[Lane, ...],
        last_sequence: int,
        journal_rows: int,
        *,
        holes: Sequence[Loss] = (),
        most_rows: int = MEMORY_MOST_ROWS,
        most_bytes: int = MEMORY_MOST_BYTES,
    ) -> None:
        """Begin with a journal that ends at `last_sequence` and has so many rows that are not committed."""
        self.lanes = lanes
        # A journal that lost its end may be behind the database.
        self.live_after = max(last_sequence, lanes[-1].mark)
        self.journal_rows = journal_rows
        self.memory_rows = 0
        self._holes = [hole.until - 1 for hole in holes]
        self._memory: deque[tuple[Frame, float]] = deque()
        self._memory_bytes = 0
        self._most_rows = self._all_rows = most_rows
        self._most_bytes = most_bytes
        # When the oldest frame that only the journal has was written, as far as it is known.
        self._journal_oldest_us = 0
        self._filled_gaps: list[Gaps] = []

    @property
    def rows(self) -> int:
        """Rows in the journal that are not committed, counted frame by frame."""
        return self.journal_rows + self.memory_rows

    @property
    def empty(self) -> bool:
        """True when the database has everything that the journal has."""
        return not self._memory and self.stretch() is None

    @property
    def has_holes(self) -> bool:
        """True while the database has not been told of every hole that was found at the start."""
        self._holes = [end for end in self._holes if not _is_committed(self.lanes, end)]
        return len(self._holes) > 0 and self.stretch() is not None

    @property
    def oldest_us(self) -> int | None:
        """When the oldest uncommitted frame was written; None when there is none, 0 if that is not known yet."""
        if self.stretch() is not None:
            return self._journal_oldest_us
        return self._memory[0][0].journaled_us if self._memory else None

    @property
    def live_since_s(self) -> float | None:
        """When the oldest frame in memory came, by the monotonic clock; None when there is none."""
        return self._memory[0][1] if self._memory else None

    @property
    def committed_up_to(self) -> int:
        """The sequence up to which the database has everything."""
        return self.lanes[0].mark

    @property
    def journal_lanes(self) -> tuple[Lane, ...]:
        """The lanes as they are if what is in memory is taken for committed."""
        before = [lane for lane in self.lanes if lane.after < self.live_after]
        return (*before, Lane(self.live_after, _NO_END))

    def hold_at_most(self, rows: int) -> None:
        """Have fewer frames in memory from now on, or as many as ever."""
        self._most_rows = min(rows, self._all_rows)

    def batches_in_memory(self) -> list[Batch]:
        """Return the readings of the frames in memory, oldest first."""
        return [frame.batch for frame, _ in self._memory]

    def add(self, frames: Sequence[Frame]) -> None:
        """Take frames that are durable now; leave all of memory to the journal if they do not fit."""
        now_s = time.monotonic()
        for frame in frames:
            rows = len(frame.batch)
            full = (
                self.memory_rows + rows > self._most_rows
                or self._memory_bytes + frame.nbytes > self._most_bytes
            )
            if full and self._memory:
                self._leave_to_the_journal()
            self._memory.append((frame, now_s))
            self.memory_rows += rows
            self._memory_bytes += frame.nbytes

    def live(self, most_rows: int, most_bytes: int, *flying: Flying) -> Live | None:
        """Return the oldest frames in memory behind what is flying; None when there is none, or no lane for them."""
        lanes, live_after = self._behind(flying)
        waiting = [frame for frame, _ in self._memory if frame.sequence > live_after]
        if not waiting:
            return None
        last = lanes[-1]
        if last.mark >= live_after:
            lane, opens = last, False
        elif len(lanes) < LANES_MOST:
            lane, opens = Lane(live_after, live_after), True
        else:
            return None
        rows = nbytes = 0
        chosen: list[Frame] = []
        for frame in waiting:
            rows += len(frame.batch)
            nbytes += frame.nbytes
            if chosen and (rows > most_rows or nbytes > most_bytes):
                break
            chosen.append(frame)
        return Live(lane, opens, chosen, full=rows >= most_rows or nbytes >= most_bytes)

    def stretch(self, *flying: Flying) -> Stretch | None:
        """Return where the oldest frames are that only the journal has, and that are not flying."""
        lanes, live_after = self._behind(flying)
        ends = [*(lane.after for lane in lanes[1:]), live_after]
        for lane, end in zip(lanes, ends, strict=True):
            if lane.mark < end:
                return Stretch(lane, end)
        return None

    def read(self, frames: Sequence[Frame], *flying: Flying) -> Sequence[Frame]:
        """Take note of frames that were read from the journal; return them as they are to be committed.

        A gap that a live frame said is filled may be recorded in one of these: then it is forgotten with them.
        """
        if not frames:
            return frames
        if not flying:
            self._journal_oldest_us = frames[0].journaled_us
        filled_gaps = [*self._filled_gaps]
        for batch in flying:
            if batch.live:
                filled_gaps += [frame.gaps.recovered for frame in batch.frames if frame.gaps]
        if not filled_gaps:
            return frames
        *before, last = frames
        filled = Gaps.joined([last.gaps.recovered, *filled_gaps])
        return [*before, replace(last, gaps=GapChanges(last.gaps.recorded, filled))]

    def commit(self, frames: Sequence[Frame], lanes: tuple[Lane, ...], *, live: bool) -> int:
        """Take note of a commit of these frames, or of more; return the rows that are not in flight any more."""
        rows = 0
        for frame in frames:
            if not _is_committed(lanes, frame.sequence):
                break
            rows += len(frame.batch)
            if self._memory and self._memory[0][0].sequence == frame.sequence:
                self._forget_oldest()
                self.live_after = frame.sequence
            else:
                self.journal_rows -= len(frame.batch)
            if live:
                self._filled_gaps.append(frame.gaps.recovered)
        if frames and not live:
            self._journal_oldest_us = frames[-1].journaled_us
        self.lanes = lanes
        if self.stretch() is None:
            self._filled_gaps.clear()
        elif live:
            filled = Gaps.joined([NO_GAPS, *self._filled_gaps])
            self._filled_gaps = [filled] if len(filled) else []
        return rows

    def replan(self, lanes: tuple[Lane, ...]) -> None:
        """Begin again at marks that are not those which the last commit left."""
        self.lanes = lanes
        while self._memory and _is_committed(lanes, self._memory[0][0].sequence):
            self.live_after = self._memory[0][0].sequence
            self._forget_oldest()

    def _behind(self, flying: Sequence[Flying]) -> tuple[tuple[Lane, ...], int]:
        """Return the lanes, and `live_after`, as they are when what is flying is committed."""
        lanes, live_after = self.lanes, self.live_after
        for batch in flying:
            place = place_of(lanes, batch.lane.after)
            if place is None:
                lanes = opened(lanes, batch.lane.after)
                place = place_of(lanes, batch.lane.after)
                assert place is not None
            lanes = moved(lanes, place, batch.end)
            if batch.live:
                live_after = max(live_after, batch.end)
        return lanes, live_after

    def _leave_to_the_journal(self) -> None:
        if self.stretch() is None:
            self._journal_oldest_us = self._memory[0][0].journaled_us
        self.live_after = self._memory[-1][0].sequence
        self.journal_rows += self.memory_rows
        self._memory.clear()
        self.memory_rows = self._memory_bytes = 0

    def _forget_oldest(self) -> None:
        frame, _ = self._memory.popleft()
        self.memory_rows -= len(frame.batch)
        self._memory_bytes -= frame.nbytes


def _is_committed(lanes: Sequence[Lane], sequence: int) -> bool:
    """Tell whether the lane that this frame is in has come so far."""
    own = [lane for lane in lanes if lane.after < sequence]
    return bool(own) and sequence <= own[-1].mark
