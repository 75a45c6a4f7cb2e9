"""One commit: some frames of a stream and all that belongs to them, in one transaction, exactly once.

What the transaction does, in few round trips:

    1  begin, settings, lock the stream's row in ingest_marks           one query
    2  decide by what the row says (`_plan`); pure
    3  COPY the rows that fit; if some are refused, roll back and go from 1 on again, searching for them
    4  quarantine, gaps, holes of the journal                           only where there are some
    5  move the mark and the totals, commit                             one query

What the row says, and what is done; the numbers stand in `_plan`:

    1  a higher epoch than ours         StreamTakenOver: another process owns the stream now
    2  the mark is at the end           nothing: this is done, by an earlier try whose answer never came
    3  no such lane, or a mark that is  MarkMoved: the database has lost commits, and what follows must not be
       lower than it was                stored before what is missing
    4  the mark is where it was, or     the frames behind the mark
       between there and the end

A row that is missing was lost, too: it is as one whose mark is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import DatabaseRejected, StreamTakenOver
from engine.store.copying import copy_all_but_refused
from engine.store.gap_rows import change_gaps, net_changes, record_lost
from engine.store.marks import FIRST_LANE, NOTHING, Lane, MarkMoved, Totals, moved, opened, place_of
from engine.store.modes import StorageMode
from engine.store.quarantine_rows import insert_refused, refused_of
from engine.store.rows import screened
from engine.store.session import BEGIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Frame, Loss
    from engine.store.rows import Refused
    from engine.store.session import Session

# Batches are compressed as they come in, and not sorted once more: they are sorted by segment, then time.
_DIRECT_COMPRESS = (
    "; set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = on"
)


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be stored as a whole."""

    stream: UUID
    epoch: int
    lane: Lane
    """The lane that it moves, as the last answer showed it."""
    frames: Sequence[Frame]
    """In their order, and all behind the lane's mark."""
    end: int
    """The lane's mark afterwards: the sequence of the last frame, or that before the end of a hole behind it."""
    opens: bool = False
    """The lane may be new: then it begins behind `lane.after`."""
    losses: Sequence[Loss] = ()
    """Holes of the journal that the mark moves over."""


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the stream is committed when a commit is done."""

    lanes: tuple[Lane, ...]
    totals: Totals


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of the stream."""

    epoch: int
    lanes: tuple[Lane, ...]
    totals: Totals
    is_missing: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is left to be done of a commit."""

    lanes: tuple[Lane, ...]
    """Afterwards."""
    frames: Sequence[Frame]
    losses: Sequence[Loss]


class Transaction:
    """Makes one commit over one connection."""

    def __init__(
        self, session: Session, mode: StorageMode, *, database_id: UUID | None, ahead_most_s: float
    ) -> None:
        self._session = session
        self._begin = BEGIN + _DIRECT_COMPRESS if mode is StorageMode.COLUMNSTORE else BEGIN
        self._database_id = database_id
        self._ahead_most_s = ahead_most_s

    async def run(self, commit: Commit) -> Committed:
        """Store what is not stored yet; the connection is idle again then. Errors as Store.commit."""
        committed = await self._run(commit, searching=False)
        if committed is None:
            committed = await self._run(commit, searching=True)
        assert committed is not None
        return committed

    async def _run(self, commit: Commit, *, searching: bool) -> Committed | None:
        """Return None, having done nothing, when rows are refused and it is not `searching` for them."""
        # Before the stream is locked: it takes a while, and nearly always all frames are to be stored.
        rows, refused = screened(commit.frames, self._ahead_most_s)
        known = await self._lock(commit.stream, commit.epoch)
        plan = _plan(commit, known)
        if plan is None:
            await self._session.simple("rollback")
            return Committed(known.lanes, known.totals)
        if len(plan.frames) < len(commit.frames):
            rows, refused = screened(plan.frames, self._ahead_most_s)
        rejected: list[Refused] = []
        if searching and len(rows):
            rejected = await copy_all_but_refused(self._session, rows)
        elif len(rows):
            try:
                await self._session.copy(rows.batch)
            except DatabaseRejected as exc:
                if not exc.is_about_rows:
                    raise
                await self._session.simple("rollback")
                return None
        await self._write_beside(commit.stream, plan, [*refused, *rejected])
        totals = Totals(
            known.totals.readings + len(rows) - len(rejected),
            known.totals.quarantined + len(refused) + len(rejected),
        )
        await self._session.commit(_moving(commit, known, plan.lanes, totals))
        return Committed(plan.lanes, totals)

    async def _lock(self, stream: UUID, epoch: int) -> _Known:
        cursor = await self._session.simple(
            f"{self._begin}; select epoch, after, mark, readings, quarantined from ingest_marks"
            f" where stream = '{stream}' for update"
        )
        row = await cursor.fetchone()
        if row is None:
            await self._check_identity()
            return _Known(epoch, (FIRST_LANE,), NOTHING, is_missing=True)
        found, after, mark, readings, quarantined = row
        lanes = tuple(Lane(*each) for each in zip(after, mark, strict=True))
        return _Known(found, lanes, Totals(readings, quarantined))

    async def _check_identity(self) -> None:
        """Make sure that a database which does not know the stream is the one that did."""
        if self._database_id is None:
            return
        row = await (await self._session.simple("select id from database_identity")).fetchone()
        if row is None or row[0] != self._database_id:
            found = "none" if row is None else row[0]
            raise DatabaseRejected(
                f"this is another database than the stream's: its identity is {found}, not {self._database_id}"
            )

    async def _write_beside(self, stream: UUID, plan: _Plan, refused: Sequence[Refused]) -> None:
        if told := [*refused, *map(refused_of, plan.losses)]:
            await insert_refused(self._session, stream, told)
        if changes := net_changes(plan.frames):
            await change_gaps(self._session, changes)
        for loss in plan.losses:
            await record_lost(self._session, loss)


def _plan(commit: Commit, known: _Known) -> _Plan | None:
    """Return what is left to be done; None: nothing is. Cases as in the module's docstring."""
    # 1
    if known.epoch > commit.epoch:
        raise StreamTakenOver(
            f"stream {commit.stream} has been taken over: its epoch is {known.epoch}, ours was {commit.epoch}"
        )
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
    return _Plan(
        lanes=moved(lanes, place, commit.end),
        frames=[frame for frame in commit.frames if frame.sequence > mark],
        # One that the mark is in the midst of has lost what is behind the mark.
        losses=[loss for loss in commit.losses if loss.until - 1 > mark],
    )


def _reaches_into_next(lanes: Sequence[Lane], place: int, end: int) -> bool:
    return place + 1 < len(lanes) and end > lanes[place + 1].after


def _moving(commit: Commit, known: _Known, lanes: Sequence[Lane], totals: Totals) -> str:
    """Return the statement that moves the mark and the totals."""
    after = ",".join(str(lane.after) for lane in lanes)
    mark = ",".join(str(lane.mark) for lane in lanes)
    if known.is_missing:
        return (
            "insert into ingest_marks (stream, epoch, after, mark, readings, quarantined)"
            f" values ('{commit.stream}', {commit.epoch}, '{{{after}}}', '{{{mark}}}',"
            f" {totals.readings}, {totals.quarantined})"
        )
    # The epoch, too: a database that lost commits may have lost our claim.
    return (
        f"update ingest_marks set epoch = {commit.epoch}, after = '{{{after}}}', mark = '{{{mark}}}',"
        f" readings = {totals.readings}, quarantined = {totals.quarantined}, updated_at = now()"
        f" where stream = '{commit.stream}'"
    )
