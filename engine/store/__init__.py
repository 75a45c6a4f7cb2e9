"""The write side: one batch = one transaction = one binary COPY into a tenant's readings, and the stream's mark.

    store            the Store: check, newest, claim, commit
    commits          one commit: its transaction
    plans            what is left to be done of a commit, by what the mark says; pure
    turns            commits in flight at once are made in their order
    claims           a new owner of a stream
    marks            lanes and totals; pure
    rows             frames as sorted rows, and which rows cannot be stored; pure
    copying          the search for rows that the database refuses
    gap_rows         reading_gaps
    quarantine_rows  reading_quarantine
    newest           the newest stored reading of each tag
    modes            how the database keeps readings
    session          time limits, and errors as ours

Nothing here retries: the caller has the frames, in the journal, and comes again. A connection whose last use did not
end well is closed. Connections carry no session state (settings are SET LOCAL, nothing is prepared), so a pooler in
transaction mode may stand between.

Exactly once: a commit moves the stream's mark in the transaction of its readings, and stores only what is behind the
mark. Whatever became of an earlier try, the same commit may be sent again.
"""

from engine.store.commits import Committed
from engine.store.marks import Claim, Lane, MarkMoved, Totals
from engine.store.modes import StorageMode
from engine.store.plans import Commit
from engine.store.store import Store
from engine.store.turns import NotItsTurn

__all__ = [
    "Claim",
    "Commit",
    "Committed",
    "Lane",
    "MarkMoved",
    "NotItsTurn",
    "StorageMode",
    "Store",
    "Totals",
]
