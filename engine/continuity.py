"""Whether a tag's readings go on without a hole: what was the newest one, what came twice, where some are missing.

Owns, by slot, the newest reading of each tag (time, value, status: 21 bytes) and what is expected next. Owns no I/O:
the pipeline hands over every batch that leaves the ring, and writes the gaps that were found with it.

Rows are counted from the first one that ever went into the ring. Whoever fills the ring says what happens between two
rows (`interrupted`, `resumed`, `late`, `recovered`); each is kept with the row's number and heeded when the rows before
it have left the ring, so that what waits in the ring is judged by what was true when it came.

Rules:
- After `interrupted`, the first row of a tag decides. If it is the newest reading once more (same source time, same
  status, same value; of a text the same time), nothing happened in between: it is dropped as repeated. If it is later,
  the interval between the two is a gap, until a history has filled it.
- After `resumed`, a first row that is the newest reading once more is dropped, too; a later one is no gap. Some servers
  send the last value of each tag again when a session goes on over another connection.
- A row without a value and with a Bad status decides nothing: it is how many servers say "not yet". It is kept, and the
  question stays open.
- A row that a poll brought and that repeats the one before is dropped in the same way. A value without a source time
  has the time of the server or of its arrival, so that it never repeats another.
- The overflow bit (OPC 10000-4, 7.39.1: InfoType DataValue, and Overflow) means that values before this one were
  dropped: the value is kept, and the interval since the row before it is a gap.
- Late rows (from a history) are older than what is known; they change nothing, unless they are newer all the same.
- A tag of which nothing is known yet has no gap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.gaps import NO_GAPS, Cause, GapChanges, Gaps
from engine.readings import Batch, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engine._fastpath import Ring

NEVER_US = np.iinfo(np.int64).min

_FIRST_CAPACITY = 64
# InfoType (bits 10 and 11) is DataValue, and bit 7 is set.
_OVERFLOW_MASK = np.uint32(0x0C80)
_OVERFLOW = np.uint32(0x0480)
# The low half of a StatusCode are info bits; a value told again need not carry those that it had.
_CODE = np.uint32(0xFFFF_0000)
_BAD = np.uint32(0x8000_0000)
_NOBODY = 0
# Beside the causes of gaps: rows may come again, and none is missing.
_RESUMED = 255


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be stored of a batch, and what was found on the way."""

    batch: Batch
    changes: GapChanges
    repeated: int
    """Rows that were left out because they are stored already."""
    overflows: int
    unowned: int
    """Gaps that nobody tries to fill."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Something that is true from a row on."""

    row: int
    slots: NDArray[np.uint32] | None = None
    cause: int = 0
    late: bool | None = None
    recovered: Gaps | None = None
    rest: Gaps = NO_GAPS
    """What is left of `recovered`."""


class Continuity:
    """The newest reading of each slot of one tenant; single event loop, no locks."""

    def __init__(self, ring: Ring, *, wake: Callable[[], None] | None = None) -> None:
        """`wake` is called when there is something to heed although no row may follow."""
        self._ring = ring
        self._wake = wake
        self._taken = 0
        self._marks: deque[_Mark] = deque()
        self._late = False
        self._waiting = 0
        self._polls = False
        self._owners: dict[int, Callable[[Gaps], None]] = {}
        self._last_owner = _NOBODY
        self._newest_us = np.full(_FIRST_CAPACITY, NEVER_US, np.int64)
        self._value = np.zeros(_FIRST_CAPACITY, np.float64)
        self._status = np.zeros(_FIRST_CAPACITY, np.uint32)
        self._kind = np.zeros(_FIRST_CAPACITY, np.uint8)
        self._cause = np.zeros(_FIRST_CAPACITY, np.uint8)
        self._polled = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._owner = np.zeros(_FIRST_CAPACITY, np.int32)

    # What whoever fills the ring says.

    @property
    def row(self) -> int:
        """The number of the next row that goes into the ring."""
        return self._taken + len(self._ring)

    @property
    def pending(self) -> bool:
        """True when there is something to heed although no row may follow."""
        return any(mark.recovered is not None for mark in self._marks)

    def interrupted(self, slots: NDArray[np.uint32], cause: Cause) -> None:
        """Say that from here on rows of these slots may be missing, or may come again."""
        self._expect(slots, cause)

    def resumed(self, slots: NDArray[np.uint32]) -> None:
        """Say that from here on rows of these slots may come again; none is missing."""
        self._expect(slots, _RESUMED)

    def _expect(self, slots: NDArray[np.uint32], cause: int) -> None:
        if len(slots) == 0:
            return
        for mark in reversed(self._marks):
            if mark.row != self.row:
                break
            if mark.slots is slots and (mark.cause != _RESUMED or cause == _RESUMED):
                return  # a server that comes and goes while no row does
        self._marks.append(_Mark(self.row, slots=slots, cause=cause))

    def late(self, first: int, end: int) -> None:
        """Say that the rows `first` up to `end`, the last ones in the ring, are older than what is known."""
        if end > first:
            self._marks.append(_Mark(first, late=True))
            self._marks.append(_Mark(end, late=False))

    def recovered(self, gaps: Gaps, rest: Gaps = NO_GAPS) -> None:
        """Say that the rows before this moment fill these gaps, which were recorded before, but for the `rest`."""
        if len(gaps):
            self._marks.append(_Mark(self.row, recovered=gaps, rest=rest))
            if self._wake is not None:
                self._wake()

    def polled(self, slots: NDArray[np.uint32]) -> None:
        """Say that these slots are read again and again, changed or not."""
        self._reach(slots)
        self._polled[slots] = True
        self._polls = self._polls or len(slots) > 0

    def subscribed(self, slots: NDArray[np.uint32]) -> None:
        """Say that these slots are told by the server when they change."""
        self._reach(slots)
        self._polled[slots] = False

    def attach(self, slots: NDArray[np.uint32], fill: Callable[[Gaps], None]) -> int:
        """Let `fill` have the gaps of these slots; return the number for `detach`. It must not wait."""
        self._reach(slots)
        self._last_owner += 1
        self._owners[self._last_owner] = fill
        self._owner[slots] = self._last_owner
        return self._last_owner

    def detach(self, number: int) -> None:
        """Let nobody have the gaps of these slots any more."""
        if self._owners.pop(number, None) is not None:
            self._owner[self._owner == number] = _NOBODY

    # What is known.

    def snapshot(self, slots: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the source time of the newest row of each slot that left the ring; NEVER_US where there is none."""
        self._reach(slots)
        return self._newest_us[slots]

    def know(self, slots: NDArray[np.uint32], newest: Batch) -> None:
        """Take the newest stored reading of each slot, in engineering units; what is known already stays."""
        self._reach(slots)
        fresh = self._newest_us[slots] == NEVER_US
        slots = slots[fresh]
        self._newest_us[slots] = newest.ts_us[fresh]
        self._value[slots] = newest.value[fresh]
        self._status[slots] = newest.status[fresh]
        self._kind[slots] = newest.kind[fresh]

    # What the pipeline hands over.

    def take(self, slot: NDArray[np.uint32], batch: Batch) -> Taken:
        """Judge the oldest rows of the ring, which were just drained, and return what is to be stored of them."""
        self._reach(slot)
        first = self._taken
        end = self._taken = first + len(batch)
        judged = _Judged(np.ones(len(batch), np.bool_))
        begin = first
        while self._marks and self._marks[0].row <= end:
            mark = self._marks.popleft()
            self._judge(slot, batch, begin - first, mark.row - first, judged)
            begin = mark.row
            self._heed(mark, judged)
        self._judge(slot, batch, begin - first, end - first, judged)
        opened = Gaps.joined(judged.opened) if judged.opened else NO_GAPS
        recovered = Gaps.joined(judged.recovered) if judged.recovered else NO_GAPS
        repeated = len(batch) - int(np.count_nonzero(judged.keep))
        return Taken(
            batch=_kept(batch, judged.keep) if repeated else batch,
            changes=GapChanges(Gaps.joined([opened, *judged.rests]), recovered),
            repeated=repeated,
            overflows=judged.overflows,
            unowned=self._hand_out(opened),
        )

    def _heed(self, mark: _Mark, judged: _Judged) -> None:
        if mark.late is not None:
            self._late = mark.late
        if mark.recovered is not None:
            judged.recovered.append(mark.recovered)
            if len(mark.rest):
                judged.rests.append(mark.rest)
        if mark.slots is not None:
            self._reach(mark.slots)
            fresh = self._cause[mark.slots] == 0
            self._waiting += int(np.count_nonzero(fresh))
            # Where rows may be missing already, they may still be.
            self._cause[mark.slots[fresh] if mark.cause == _RESUMED else mark.slots] = mark.cause

    def _judge(self, slots: NDArray[np.uint32], batch: Batch, begin: int, end: int, judged: _Judged) -> None:
        """Judge the rows from `begin` up to `end`, between which nothing happened."""
        if begin == end:
            return
        slot, part = slots[begin:end], batch.part(begin, end)
        rows: slice | NDArray[np.intp] = slice(None)
        if self._late:
            rows = np.flatnonzero(part.ts_us > self._newest_us[slot])
        else:
            opened = np.zeros(len(slot), np.bool_)
            if self._waiting:
                self._judge_first(slot, part, judged.keep[begin:end], opened, judged)
                rows = np.flatnonzero(self._cause[slot] == 0)
            if self._polls:
                self._judge_polled(slot, part, judged.keep[begin:end])
            self._judge_overflows(slot, part, opened, judged)
        # Of a slot that comes several times numpy keeps the last.
        slot = slot[rows]
        self._newest_us[slot] = part.ts_us[rows]
        self._value[slot] = part.value[rows]
        self._status[slot] = part.status[rows]
        self._kind[slot] = part.kind[rows]

    def _judge_first(
        self,
        slot: NDArray[np.uint32],
        batch: Batch,
        keep: NDArray[np.bool_],
        opened: NDArray[np.bool_],
        judged: _Judged,
    ) -> None:
        """Judge the first row of each slot that was interrupted."""
        candidates = np.flatnonzero(self._cause[slot])
        nothing = (batch.kind[candidates] == Kind.NULL) & (batch.status[candidates] >= _BAD)
        nothing &= self._cause[slot[candidates]] != _RESUMED
        again = batch.ts_us[candidates] == self._newest_us[slot[candidates]]
        candidates = candidates[again | ~nothing]
        if len(candidates) == 0:
            return
        interrupted, place = np.unique(slot[candidates], return_index=True)
        rows = candidates[place]
        before_us = self._newest_us[interrupted]
        before = (
            before_us,
            self._status[interrupted],
            self._value[interrupted],
            self._kind[interrupted],
        )
        same = _same(batch, rows, before)
        keep[rows[same]] = False
        later = (before_us != NEVER_US) & (batch.ts_us[rows] > before_us)
        later &= self._cause[interrupted] != _RESUMED
        opened[rows[later]] = True
        judged.open(
            interrupted[later],
            batch.tag_id[rows[later]],
            before_us[later],
            batch.ts_us[rows[later]],
            self._cause[interrupted[later]],
        )
        self._cause[interrupted] = 0
        self._waiting -= len(interrupted)

    def _judge_polled(self, slot: NDArray[np.uint32], batch: Batch, keep: NDArray[np.bool_]) -> None:
        """Leave out the rows of polls that repeat the one before them."""
        rows = np.flatnonzero(self._polled[slot])
        if len(rows):
            rows, before = self._before(slot, batch, rows)
            keep[rows[_same(batch, rows, before)]] = False

    def _judge_overflows(
        self, slot: NDArray[np.uint32], batch: Batch, opened: NDArray[np.bool_], judged: _Judged
    ) -> None:
        """Open a gap before each row that has the overflow bit."""
        overflown = (batch.status & _OVERFLOW_MASK) == _OVERFLOW
        if not overflown.any():
            return
        judged.overflows += int(np.count_nonzero(overflown))
        of_slot = np.zeros(len(self._newest_us), np.bool_)
        of_slot[slot[overflown]] = True
        rows, (before_us, *_) = self._before(slot, batch, np.flatnonzero(of_slot[slot]))
        # A first row after an interruption has the larger gap already, which ends at the same moment.
        found = overflown[rows] & ~opened[rows] & (before_us != NEVER_US) & (batch.ts_us[rows] > before_us)
        rows = rows[found]
        judged.open(
            slot[rows],
            batch.tag_id[rows],
            before_us[found],
            batch.ts_us[rows],
            np.full(len(rows), Cause.OVERFLOW, np.uint8),
        )

    def _before(
        self, slot: NDArray[np.uint32], batch: Batch, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], _Before]:
        """Return the rows ordered by slot, then as they came, with what each one's slot held before it.

        `rows` are all rows of their slots.
        """
        rows = rows[np.argsort(slot[rows], kind="stable")]
        own = slot[rows]
        previous = np.concatenate([rows[:1], rows[:-1]])
        first = np.ones(len(rows), np.bool_)
        first[1:] = own[1:] != own[:-1]
        return rows, (
            np.where(first, self._newest_us[own], batch.ts_us[previous]),
            np.where(first, self._status[own], batch.status[previous]),
            np.where(first, self._value[own], batch.value[previous]),
            np.where(first, self._kind[own], batch.kind[previous]),
        )

    def _hand_out(self, gaps: Gaps) -> int:
        """Give each gap to whoever may fill it; return how many there are that nobody may."""
        if len(gaps) == 0:
            return 0
        owners = self._owner[gaps.slot]
        for owner in np.unique(owners[owners != _NOBODY]):
            self._owners[int(owner)](gaps.where(owners == owner))
        return int(np.count_nonzero(owners == _NOBODY))

    def _reach(self, slots: NDArray[np.uint32]) -> None:
        """Have room for these slots."""
        need = int(slots.max()) + 1 if len(slots) else 0
        have = len(self._newest_us)
        if need <= have:
            return
        # An eighth more than there was: connections come one after the other, and doubling would keep much for nothing.
        size = max(need, have + have // 8)
        for name, fill in (
            ("_newest_us", NEVER_US),
            ("_value", 0),
            ("_status", 0),
            ("_kind", 0),
            ("_cause", 0),
            ("_polled", False),
            ("_owner", _NOBODY),
        ):
            old = getattr(self, name)
            new = np.full(size, fill, old.dtype)
            new[:have] = old
            setattr(self, name, new)


_Before = tuple["NDArray[np.int64]", "NDArray[np.uint32]", "NDArray[np.float64]", "NDArray[np.uint8]"]


class _Judged:
    """What one `take` has found so far."""

    __slots__ = ("keep", "opened", "overflows", "recovered", "rests")

    def __init__(self, keep: NDArray[np.bool_]) -> None:
        self.keep = keep
        self.opened: list[Gaps] = []
        self.recovered: list[Gaps] = []
        # Of gaps that whoever fills them has already.
        self.rests: list[Gaps] = []
        self.overflows = 0

    def open(
        self,
        slot: NDArray[np.uint32],
        tag_id: NDArray[np.int32],
        from_us: NDArray[np.int64],
        to_us: NDArray[np.int64],
        cause: NDArray[np.uint8],
    ) -> None:
        if len(slot):
            self.opened.append(Gaps(slot, tag_id, from_us, to_us, cause))


def _same(batch: Batch, rows: NDArray[np.intp], before: _Before) -> NDArray[np.bool_]:
    """Tell which rows say what was said before; NaN is the same as NaN."""
    ts_us, status, value, kind = before
    of_kind = batch.kind[rows]
    no_number = (of_kind & Kind.NUMBER) == 0
    equal_bits = batch.value[rows].view(np.uint64) == value.view(np.uint64)
    same: NDArray[np.bool_] = (
        (batch.ts_us[rows] == ts_us)
        & ((batch.status[rows] & _CODE) == (status & _CODE))
        & (of_kind == kind)
        & (equal_bits | no_number)
    )
    return same


def _kept(batch: Batch, keep: NDArray[np.bool_]) -> Batch:
    texts = batch.texts
    if texts:
        place = np.cumsum(keep) - 1
        texts = {int(place[row]): text for row, text in texts.items() if keep[row]}
    return Batch(
        ts_us=batch.ts_us[keep],
        tag_id=batch.tag_id[keep],
        status=batch.status[keep],
        value=batch.value[keep],
        kind=batch.kind[keep],
        texts=texts,
    )
