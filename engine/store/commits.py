"""One commit: some frames of a stream and all that belongs to them, in one transaction, exactly once.

What the transaction does, in few round trips:

    1  begin, settings, look at the stream's row in ingest_marks        one query
       skip what is done by what it says, or end here                   (plans.py)
    2  COPY the rows that fit; if some are refused, roll back and go from 1 on again, searching for them
    3  wait for the commit before this one, if it is not made yet       (turns.py)
    4  lock the row, and decide by what it says now                     one query
    5  quarantine, gaps, holes of the journal                           only where there are some
    6  move the mark and the totals, commit                             one query

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
from engine.store.copying import copy_all_but_refused
from engine.store.gap_rows import change_gaps, net_changes, record_lost
from engine.store.marks import Lane, Totals
from engine.store.modes import StorageMode
from engine.store.plans import Known, foreseen, planned
from engine.store.quarantine_rows import insert_refused, refused_of
from engine.store.rows import screened
from engine.store.session import BEGIN
from engine.store.turns import NotItsTurn, is_in_the_way, its_turn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from uuid import UUID

    from engine.store.plans import Commit, Plan
    from engine.store.rows import Refused
    from engine.store.session import Session

# Batches are compressed as they come in, and not sorted once more: they are sorted by segment, then time.
_DIRECT_COMPRESS = (
    "; set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = on"
)
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


class Transaction:
    """Makes one commit over one connection."""

    def __init__(
        self,
        session: Session,
        mode: StorageMode,
        *,
        database_id: UUID | None,
        ahead_most_s: float,
        late_after_s: float,
        running: set[int],
    ) -> None:
        """`running`: the server's processes that make commits of the same store; ours is in it while it does."""
        self._session = session
        self._begin = BEGIN + _DIRECT_COMPRESS if mode is StorageMode.COLUMNSTORE else BEGIN
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
        rejected: list[Refused] = []
        if searching and len(rows):
            rejected = await copy_all_but_refused(self._session, rows)
        elif len(rows):
            try:
                await self._session.copy(rows.encoded(0, len(rows)))
            except DatabaseRejected as exc:
                if not exc.is_about_rows:
                    raise
                await self._session.simple("rollback")
                return _Again.SEARCHING
        if before is not None and await is_in_the_way(self._session, before, self._running):
            await self._session.simple("rollback")
            return _Again.IN_ITS_TURN
        known = await self._lock(commit)
        plan = planned(commit, known)
        if plan is None or len(plan.frames) != len(frames):
            await self._session.simple("rollback")
            return Committed(known.lanes, known.totals, rows.sorted.late) if plan is None else _Again.LOOKING
        await self._write_beside(commit.stream, plan, [*refused, *rejected])
        totals = Totals(
            known.totals.readings + len(rows) - len(rejected),
            known.totals.quarantined + len(refused) + len(rejected),
        )
        await self._session.commit(_moving(commit, plan.lanes, totals))
        return Committed(plan.lanes, totals, rows.sorted.late)

    async def _look(self, commit: Commit) -> tuple[int, Known]:
        """Begin; return the server's process that makes the commit, and what it says of the stream."""
        cursor = await self._session.simple(
            f"{self._begin}; select pg_backend_pid(), {_COLUMNS} from (select) as always"
            f" left join ingest_marks on stream = '{commit.stream}'"
        )
        row = await cursor.fetchone()
        assert row is not None
        pid, *columns = row
        return pid, _known(columns) if columns[0] is not None else Known(commit.epoch)

    async def _lock(self, commit: Commit) -> Known:
        lock = f"select {_COLUMNS} from ingest_marks where stream = '{commit.stream}' for update"
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
        return _known(row)

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
