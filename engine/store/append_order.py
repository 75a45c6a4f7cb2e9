"""The right to append to the columnstore in order, and the newest reading of each tag, which it needs.

Compressed batches of a tag that are not marked otherwise must not overlap in time: queries would give its readings in a
wrong order. So who appends such a batch knows that it is newer than anything of its tag that is compressed, now or
later. A store knows the newest reading of a tag when it asked for it, and from then on by what it commits itself.

What it cannot know is what others do:

    another stream appends, too          one stream has the right to append; it is in the table append_order
    readings that others inserted        whoever compresses them takes the right, in the same transaction: what we
    become batches                       know of the newest readings is then forgotten, and asked for again

The right is checked at the end of a commit, by a lock that a taker has to wait for. It is not waited for: a taker may
compress for minutes. Who has lost the right goes on without it, everything counts as older than what is stored, and it
takes the right again when it is free. `turn` tells one time of having it from the next.

Rows of a commit that is under way count as stored, since the next one is made after it or not at all. They are
forgotten when it is rolled back for certain; when nobody knows (the answer to COMMIT was lost), they are stored.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.store.newest import NEWEST_TAGS, newest_times
from engine.store.newest_times import NewestTimes
from engine.store.ways import UNKNOWN_US

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from numpy.typing import NDArray

    from engine.store.session import Session

# Only a stream's first try may take it from another stream; one that lost it to another leaves it there.
_TAKE = """
with old as (
    select stream, turn from append_order
    where stream is null or stream = %s or %s for update skip locked
)
update append_order set stream = %s, turn = old.turn + 1 from old
returning append_order.turn, old.turn, old.stream is null or old.stream = append_order.stream
"""
# Each try is a query, and whoever compresses takes seconds.
_RETAKE_S = 1.0
# Of one commit, so that asking takes seconds at most; of the others everything counts as older until the next one.
_MOST_ASKED = 4 * NEWEST_TAGS


@dataclass(slots=True, eq=False)
class Decision:
    """What a commit goes by, and what it promises to store: the latest time of each tag, ascending ids."""

    tag_ids: NDArray[np.int32]
    last_us: NDArray[np.int64]
    newest_us: NDArray[np.int64]
    """Of each tag the newest reading that the database has, or UNKNOWN_US."""
    turn: int | None
    """That of the right, which still has to be ours when the commit is made; None: nothing may be appended."""
    may_be_stored: bool = False
    """COMMIT was sent."""


class AppendOrder:
    """What one store knows of the newest readings, and whether it may append."""

    def __init__(self) -> None:
        self._turn: int | None = None  # that of our right
        self._stream: UUID | None = None
        self._may_take_over = False
        self._taking = asyncio.Lock()
        self._tried_s = -_RETAKE_S
        self._known = NewestTimes()
        self._known_turn: int | None = None
        self._deciding = asyncio.Lock()
        self._decisions: list[Decision] = []
        # Held while somebody asks the database: the answer may be from before they were stored.
        self._stored: list[Decision] = []
        self._asking = 0

    @property
    def turn(self) -> int | None:
        """Which turn is ours; None when we may not append."""
        return self._turn

    def claimed(self, stream: UUID) -> None:
        """Note that this store has become the owner of a stream, which may take the right from another one."""
        self.forget()
        self._stream = stream
        self._may_take_over = True
        self._tried_s = -_RETAKE_S

    def forget(self) -> None:
        """Give up the right, and what is known: the database may have lost commits, or others have stored more."""
        self._turn = None
        self._known = NewestTimes()
        self._known_turn = None

    def lost(self) -> None:
        """Note that somebody else has taken the right."""
        self.forget()
        self._tried_s = time.monotonic()

    async def take(self, session: Session, stream: UUID) -> None:
        """Become the one who may append, unless somebody else is; `session` is in no transaction."""
        if self._turn is not None or stream != self._stream:
            return
        async with self._taking:
            if self._turn is not None or time.monotonic() - self._tried_s < _RETAKE_S:
                return
            self._tried_s = time.monotonic()
            row = await (await session.execute(_TAKE, [stream, self._may_take_over, stream])).fetchone()
            if row is None:
                return
            turn, last_turn, is_ours = row
            if last_turn != self._known_turn or not is_ours:
                self.forget()
            self._turn = self._known_turn = turn
            self._may_take_over = False

    async def holder(self, session: Session) -> tuple[UUID | None, int] | None:
        """Return which stream has the right, and its turn."""
        row = await (await session.execute("select stream, turn from append_order", [])).fetchone()
        return None if row is None else (row[0], row[1])

    async def decide(
        self,
        session: Session,
        stream: UUID,
        tag_ids: NDArray[np.int32],
        last_us: NDArray[np.int64],
        wanted: NDArray[np.bool_],
    ) -> Decision:
        """Return what a commit of these tags, ascending, up to these times goes by; the caller ends it.

        Asks the database for the newest times that are `wanted` and not known; the others count as unknown.
        """
        # Of two commits at once, the second to decide sees what the first one promises.
        async with self._deciding:
            turn = self._turn if stream == self._stream else None
            decision = Decision(tag_ids, last_us, np.full(len(tag_ids), UNKNOWN_US), turn)
            if turn is not None:
                await self._ask(session, tag_ids[wanted])
            if turn == self._turn and turn is not None:
                newest_us = self._known.of(tag_ids)
                for other in self._decisions:
                    _raise(tag_ids, newest_us, other)
                decision.newest_us[wanted] = newest_us[wanted]
            else:
                decision.turn = None
            self._decisions.append(decision)
            return decision

    def end(self, decision: Decision) -> None:
        """End a decision, whatever became of its commit."""
        self._decisions.remove(decision)
        if decision.may_be_stored:
            self._known.move_up(decision.tag_ids, decision.last_us)
            if self._asking:
                self._stored.append(decision)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Surround a query for newest readings and what is learned from it."""
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._stored.clear()

    def told(
        self, tag_ids: NDArray[np.int32], newest_us: NDArray[np.int64], holder: UUID | None, turn: int
    ) -> None:
        """Learn newest times that were read, while `asking`, when the right was `holder`'s and its turn `turn`."""
        if self._stream is None or holder not in {None, self._stream}:
            return
        if self._turn is None and turn != self._known_turn:
            self._known = NewestTimes()
            self._known_turn = turn
        if turn == self._known_turn:
            self._learn(tag_ids, newest_us)

    async def _ask(self, session: Session, tag_ids: NDArray[np.int32]) -> None:
        """Learn the newest times of tags of which nothing is known."""
        turn = self._turn
        asked = tag_ids[self._known.of(tag_ids) == UNKNOWN_US][:_MOST_ASKED]
        if len(asked):
            with self.asking():
                answer = await newest_times(session, asked)
                if turn == self._turn:
                    self._learn(asked, answer)

    def _learn(self, tag_ids: NDArray[np.int32], newest_us: NDArray[np.int64]) -> None:
        tag_ids, first = np.unique(tag_ids, return_index=True)
        newest_us = newest_us[first]
        for decision in self._stored:
            _raise(tag_ids, newest_us, decision)
        self._known.learn(tag_ids, newest_us)


def _raise(tag_ids: NDArray[np.int32], newest_us: NDArray[np.int64], decision: Decision) -> None:
    """Move times, of tags in ascending order, up to those that a decision is about to store."""
    if not len(tag_ids) or not len(decision.tag_ids):
        return
    places = np.searchsorted(decision.tag_ids, tag_ids)
    places[places == len(decision.tag_ids)] = 0
    same = decision.tag_ids[places] == tag_ids
    newest_us[same] = np.maximum(newest_us[same], decision.last_us[places[same]])
