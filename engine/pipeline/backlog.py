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
from typing import TYPE_CHECKING

from engine.gaps import NO_GAPS, GapChanges, Gaps
from engine.store import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.frames import Frame, Loss
    from engine.readings import Batch

# What the database allows (engine.store); every start with a backlog may add one.
LANES_MOST = 8
# COPY gains little beyond 50 000 rows, and this bounds the encoded batch to a few megabytes.
BATCH_MOST_ROWS = 50_000
# What takes long with fewer is not their number, but the way to the database and its commit.
BATCH_LEAST_ROWS = 1_000
# A live batch that is being written, and some that gather meanwhile.
MEMORY_MOST_ROWS = 4 * BATCH_MOST_ROWS
# Of frames as the journal has them; texts are what can make rows large.
MEMORY_MOST_BYTES = 64 << 20
# Behind every sequence.
_NO_END = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Live:
    """Frames in memory, the oldest first, and the lane they go into; `opens`: the database does not have it yet."""

    lane: Lane
    opens: bool
    frames: Sequence[Frame]


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

    def live(self, most_rows: int) -> Live | None:
        """Return the oldest frames in memory, one or more; None when there is none or no lane for them."""
        if not self._memory:
            return None
        last = self.lanes[-1]
        if last.mark >= self.live_after:
            lane, opens = last, False
        elif len(self.lanes) < LANES_MOST:
            lane, opens = Lane(self.live_after, self.live_after), True
        else:
            return None
        rows = 0
        chosen: list[Frame] = []
        for frame, _ in self._memory:
            rows += len(frame.batch)
            if chosen and rows > most_rows:
                break
            chosen.append(frame)
        return Live(lane, opens, chosen)

    def stretch(self) -> Stretch | None:
        """Return where the oldest frames are that only the journal has."""
        ends = [*(lane.after for lane in self.lanes[1:]), self.live_after]
        for lane, end in zip(self.lanes, ends, strict=True):
            if lane.mark < end:
                return Stretch(lane, end)
        return None

    def read(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Take note of frames that were read from the journal; return them as they are to be committed.

        A gap that a live frame said is filled may be recorded in one of these: then it is forgotten with them.
        """
        if not frames:
            return frames
        self._journal_oldest_us = frames[0].journaled_us
        if not self._filled_gaps:
            return frames
        *before, last = frames
        filled = Gaps.joined([last.gaps.recovered, *self._filled_gaps])
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


class BatchRows:
    """How many rows a batch may have, so that it takes about `aim_s`: whoever is next does not wait longer."""

    def __init__(self, first: int, *, aim_s: float = 0.4) -> None:
        self.rows = min(first, BATCH_MOST_ROWS)
        self._aim_s = aim_s

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a batch that was committed, if it was of about this size."""
        if 2 * rows >= self.rows:
            fitting = int(rows * self._aim_s / max(seconds, 0.001))
            most = min(2 * self.rows, BATCH_MOST_ROWS)
            self.rows = max(min(self.rows, BATCH_LEAST_ROWS), min(fitting, most))

    def timed_out(self) -> None:
        """Try with half."""
        self.rows = max(1, self.rows // 2)


def _is_committed(lanes: Sequence[Lane], sequence: int) -> bool:
    """Tell whether the lane that this frame is in has come so far."""
    own = [lane for lane in lanes if lane.after < sequence]
    return bool(own) and sequence <= own[-1].mark
