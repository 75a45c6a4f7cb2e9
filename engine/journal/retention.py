"""Which segments there are, how full the journal is, and which segments may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.journal.segment import Segment

# Alarms, in percent of the quota, and how far below its bound an alarm ends: a level that swings says so once.
ALARMS_PERCENT = (70, 90)
_ALARM_ENDS_BELOW_PERCENT = 10


@dataclass(slots=True)
class Retention:
    """The segments of a journal, oldest first; no I/O."""

    segments: list[Segment]
    quota_bytes: int
    grace_s: float
    trimmed: int = 0
    """The last sequence of what was removed."""
    committed: int = 0
    nbytes: int = 0
    level: int = 0
    """How many alarms are on."""

    def __post_init__(self) -> None:
        self.nbytes = sum(segment.size_bytes for segment in self.segments)

    def grow(self, segment: Segment, nbytes: int) -> None:
        """Count bytes that were added to a segment."""
        segment.size_bytes += nbytes
        self.nbytes += nbytes

    def add(self, segment: Segment) -> None:
        """Take a new segment, the newest."""
        if self.segments:
            self.segments[-1].limit = segment.first
        self.segments.append(segment)
        self.nbytes += segment.size_bytes

    def drop(self, segment: Segment) -> None:
        """Forget a segment whose file is gone."""
        self.segments.remove(segment)
        self.nbytes -= segment.size_bytes

    def remove(self, segments: list[Segment]) -> None:
        """Forget the oldest segments, whose files are removed."""
        for segment in segments:
            self.trimmed = max(self.trimmed, segment.last)
            self.drop(segment)

    def commit(self, sequence: int, now_s: float) -> bool:
        """Take what the database has; return whether it has another segment as a whole, the newest not counted."""
        self.committed = sequence
        more = False
        for segment in self.segments:
            if segment.last > sequence:
                # The database may have lost commits.
                segment.committed_s = None
            elif segment.committed_s is None:
                segment.committed_s = now_s
                more = more or segment is not self.segments[-1]
        return more

    def removable(self, now_s: float, before: int, least_bytes: int = 0) -> list[Segment]:
        """Return the oldest segments whose grace is over, and more if so many bytes must become free.

        All of them are committed, none is the newest that holds frames or a later one, and none has frames behind
        `before`, which somebody reads.
        """
        found: list[Segment] = []
        free_bytes = 0
        for segment in self.segments[: self._newest_with_frames()]:
            if segment.committed_s is None or segment.last > min(self.committed, before):
                break
            if now_s - segment.committed_s < self.grace_s and free_bytes >= least_bytes:
                break
            found.append(segment)
            free_bytes += segment.size_bytes
        return found

    def next_removal_s(self) -> float | None:
        """Return when the oldest segment's grace is over; None while it is not committed or must stay."""
        for segment in self.segments[: min(1, self._newest_with_frames())]:
            return None if segment.committed_s is None else segment.committed_s + self.grace_s
        return None

    def _newest_with_frames(self) -> int:
        """Return its place; it has every subscription's position."""
        for place in range(len(self.segments) - 1, -1, -1):
            if self.segments[place].holds_frames:
                return place
        return max(len(self.segments) - 1, 0)

    def uncommitted_bytes(self) -> int:
        """Return the bytes that cannot be freed before the database has them."""
        held = 0
        for segment in reversed(self.segments):
            if segment.last <= self.committed:
                break
            held += segment.size_bytes
            if segment.index is not None and segment.index.first <= self.committed:
                held -= segment.index.place(self.committed)[0]
        return held

    def alarm(self) -> bool:
        """Bring `level` up to date; return whether it changed."""
        percent = 100 * self.uncommitted_bytes() / self.quota_bytes
        before = self.level
        while self.level < len(ALARMS_PERCENT) and percent >= ALARMS_PERCENT[self.level]:
            self.level += 1
        while self.level and percent < ALARMS_PERCENT[self.level - 1] - _ALARM_ENDS_BELOW_PERCENT:
            self.level -= 1
        return self.level != before
