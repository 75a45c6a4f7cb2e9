"""One commit: some frames of a stream and all that belongs to them, in one transaction, exactly once.

What the transaction does, in few round trips:

    1  begin, settings, look at the stream's row in ingest_marks        one query
       skip what is done by what it says, or end here                   (plans.py)
    2  COPY the rows that fit, in columnstore mode in up to three ways  (ways.py)
       if some are refused, roll back and go from 1 on again, searching for them
    3  wait for the commit before this one, if it is not made yet       (turns.py)
    4  lock the row, and decide by what it says now                     one query
       see that the right to append is still ours, if we did            (append_order.py)
    5  quarantine, gaps, holes of the journal                           only where there are some
    6  note the changed minutes, move mark and totals, commit           one query

Only 4 decides. What 1 saw may be old by then: it saves work, no more. Where 4 leaves other frames to be stored than 2
has stored, as after an earlier try whose COMMIT was on its way all that time, all is rolled back and begins again at 1.

So the row is locked for a moment only. Two commits copy at once and still are made in their order. A new owner of the
stream does not wait for the last one's COPY, and the last one finds the new epoch at 4, whatever it has copied. When
the commit before is not made, this one is not, either (NotItsTurn): nothing is stored before what is missing.

A row that is missing was lost by the database: it is made anew, with a mark of 0, in the same transaction. Of two tries
that do so at once, the second waits for the first, and then sees its mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from engine.errors import DatabaseRejected
from engine.store.changed_minutes import noted
from engine.store.copying import copy_all_but_refused
from engine.store.gap_rows import change_gaps, net_changes, record_lost
from engine.store.marks import Lane, Totals
from engine.store.plans import Known, foreseen, planned
from engine.store.quarantine_rows import insert_refused, refused_of
from engine.store.rows import screened
from engine.store.session import BEGIN
from engine.store.turns import NotItsTurn, is_in_the_way, its_turn
from engine.store.ways import Way, is_dense, parts_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from uuid import UUID

    from engine.frames import Frame
    from engine.store.append_order import AppendOrder, Decision
    from engine.store.plans import Commit, Plan
    from engine.store.rows import Refused, Rows
    from engine.store.session import Session

_COLUMNS = "epoch, after, mark, readings, quarantined"


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the stream is committed when a commit is done."""

    lanes: tuple[Lane, ...]
    totals: Totals
    late: int = 0
    """Of its readings that are stored now, those that were late when they were journaled."""


class _Again(Enum):
    """Why a try was rolled back, and what the next one does."""

    SEARCHING = auto()  # rows are refused: search for them
    LOOKING = auto()  # the mark has moved meanwhile: look again
    IN_ITS_TURN = auto()  # the commit before this one waits for us: begin when it is made
    IN_NO_ORDER = auto()  # somebody took the right to append: decide again


@dataclass(slots=True)
class _Work:
    """What one try does."""

    frames: Sequence[Frame]
    rows: Rows
    refused: list[Refused]
    """The rows that are not stored: those that were screened, and then those that the database rejected, too."""
    decision: Decision | None = None
    """By which rows of the columnstore go their ways."""
    rejected: int = 0


class Transaction:
    """Makes one commit over one connection."""

    def __init__(
        self,
        session: Session,
        *,
        append_order: AppendOrder | None,
        database_id: UUID | None,
        ahead_most_s: float,
        late_after_s: float,
        running: set[int],
    ) -> None:
        """Of one store: its `append_order` in columnstore mode, else None; the others as Store has them.

        `running`: the server's processes that make its commits; ours is among them while it does.
        """
        self._session = session
        self._append_order = append_order
        self._database_id = database_id
        self._ahead_most_s = ahead_most_s
        self._late_after_s = late_after_s
        self._running = running

    async def run(self, commit: Commit, before: asyncio.Future[None] | None) -> Committed:
        """Store what is not stored yet; the connection is idle again then. Errors as Store.commit.

        Also when it is not our turn, and NotItsTurn is raised, the connection is idle.
        """
        searching = False
        while True:
            done = await self._try(commit, before, searching=searching)
            if isinstance(done, Committed):
                return done
            searching |= done is _Again.SEARCHING
            if done is _Again.IN_ITS_TURN and before is not None:
                await its_turn(before)

    async def _try(
        self, commit: Commit, before: asyncio.Future[None] | None, *, searching: bool
    ) -> Committed | _Again:
        # Asked before the look: what that sees may be from before the other one was made.
        follows = before is not None and not before.done()
        if before is not None and not follows:
            await its_turn(before)
        if self._append_order is not None:
            await self._append_order.take(self._session, commit.stream)
        pid, known = await self._look(commit)
        self._running.add(pid)
        try:
            return await self._make(commit, known, before if follows else None, searching=searching)
        except NotItsTurn:
            await self._session.simple("rollback")
            raise
        finally:
            self._running.discard(pid)

    async def _make(
        self, commit: Commit, known: Known, before: asyncio.Future[None] | None, *, searching: bool
    ) -> Committed | _Again:
        if before is not None:
            frames = foreseen(commit, known)
        else:
            plan = planned(commit, known)
            frames = () if plan is None else plan.frames
        rows, refused = screened(frames, self._ahead_most_s, self._late_after_s)
        order = self._append_order
        if order is None:
            return await self._store(commit, _Work(frames, rows, refused), before, searching=searching)
        runs = rows.sorted
        decision = await order.decide(self._session, commit.stream, runs.tag_id, runs.last_us, is_dense(runs))
        try:
            work = _Work(frames, rows, refused, decision)
            return await self._store(commit, work, before, searching=searching)
        finally:
            order.end(decision)

    async def _store(
        self, commit: Commit, work: _Work, before: asyncio.Future[None] | None, *, searching: bool
    ) -> Committed | _Again:
        try:
            appends = await self._copy(work, searching=searching)
        except DatabaseRejected as exc:
            if searching or not exc.is_about_rows:
                raise
            return await self._again(_Again.SEARCHING)
        if before is not None and await is_in_the_way(self._session, before, self._running):
            return await self._again(_Again.IN_ITS_TURN)
        known, may_append = await self._lock(commit, work.decision)
        plan = planned(commit, known)
        rows = work.rows
        if plan is None:
            await self._session.simple("rollback")
            return Committed(known.lanes, known.totals, rows.sorted.late)
        if len(plan.frames) != len(work.frames):
            return await self._again(_Again.LOOKING)
        if appends and not may_append and self._append_order is not None:
            self._append_order.lost()
            return await self._again(_Again.IN_NO_ORDER)
        await self._write_beside(commit.stream, plan, work.refused)
        stored = len(rows) - work.rejected
        totals = Totals(known.totals.readings + stored, known.totals.quarantined + len(work.refused))
        moving = _moving(commit, plan.lanes, totals)
        if work.decision is not None:
            work.decision.may_be_stored = True
        await self._session.commit(f"{noted(rows.sorted.minutes)}; {moving}" if stored else moving)
        return Committed(plan.lanes, totals, rows.sorted.late)

    async def _again(self, why: _Again) -> _Again:
        await self._session.simple("rollback")
        return why

    async def _copy(self, work: _Work, *, searching: bool) -> bool:
        """Copy the rows; return whether some of them were appended in order."""
        rows, decision = work.rows, work.decision
        if not len(rows):
            return False
        if searching:
            if decision is not None:
                await self._session.simple(Way.ROWS.value)
            rejected = await copy_all_but_refused(self._session, rows)
            work.refused += rejected
            work.rejected = len(rejected)
            return False
        if decision is None:
            await self._session.copy(rows.encoded(0, len(rows)))
            return False
        parts = parts_of(rows.sorted, decision.newest_us)
        for part in parts:
            await self._session.simple(part.way.value)
            await self._session.copy(rows.sorted.encode(part.starts, part.ends))
        return any(part.way is Way.APPEND for part in parts)

    async def _look(self, commit: Commit) -> tuple[int, Known]:
        """Begin; return the server's process that makes the commit, and what it says of the stream."""
        cursor = await self._session.simple(
            f"{BEGIN}; select pg_backend_pid(), {_COLUMNS} from (select) as always"
            f" left join ingest_marks on stream = '{commit.stream}'"
        )
        row = await cursor.fetchone()
        assert row is not None
        pid, *columns = row
        return pid, _known(columns) if columns[0] is not None else Known(commit.epoch)

    async def _lock(self, commit: Commit, decision: Decision | None) -> tuple[Known, bool]:
        """Lock the stream's row; return what it says, and whether we have the right that was decided by."""
        may_append = "false"
        if decision is not None and decision.turn is not None:
            # Who is taking it has locked it, for longer than anybody should wait.
            may_append = (
                f"exists (select from append_order where stream = '{commit.stream}' and turn = {decision.turn}"
                " for share skip locked)"
            )
        lock = (
            f"select {_COLUMNS}, {may_append} from ingest_marks where stream = '{commit.stream}' for update"
        )
        row = await (await self._session.simple(lock)).fetchone()
        if row is None:
            await self._check_identity()
            row = await (
                await self._session.simple(
                    "insert into ingest_marks (stream, epoch, after, mark)"
                    f" values ('{commit.stream}', {commit.epoch}, '{{0}}', '{{0}}') on conflict do nothing; {lock}"
                )
            ).fetchone()
            assert row is not None
        *columns, found = row
        return _known(columns), found

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

    async def _write_beside(self, stream: UUID, plan: Plan, refused: Sequence[Refused]) -> None:
        if told := [*refused, *map(refused_of, plan.losses)]:
            await insert_refused(self._session, stream, told)
        if changes := net_changes(plan.frames):
            await change_gaps(self._session, changes)
        for loss in plan.losses:
            await record_lost(self._session, loss)


def _known(row: Sequence[Any]) -> Known:
    epoch, after, mark, readings, quarantined = row
    lanes = tuple(Lane(*each) for each in zip(after, mark, strict=True))
    return Known(epoch, lanes, Totals(readings, quarantined))


def _moving(commit: Commit, lanes: Sequence[Lane], totals: Totals) -> str:
    """Return the statement that moves the mark and the totals."""
    after = ",".join(str(lane.after) for lane in lanes)
    mark = ",".join(str(lane.mark) for lane in lanes)
    # The epoch, too: a database that lost commits may have lost our claim.
    return (
        f"update ingest_marks set epoch = {commit.epoch}, after = '{{{after}}}', mark = '{{{mark}}}',"
        f" readings = {totals.readings}, quarantined = {totals.quarantined}, updated_at = now()"
        f" where stream = '{commit.stream}'"
    )
