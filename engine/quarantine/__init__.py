"""The quarantine of a tenant: readings that its database could not take. Lists them, tries them again, drops them.

Owns what is done with reading_quarantine after a commit has put rows there (engine.store). A row is one reading with
its raw columns: what is wrong may be any of them. A row of reason `journal` is no reading but a note of lost frames.

    records  a row, what chooses rows, and what became of them
    listing  list and count
    moving   try again, drop

Each row is in one place, always: `retry` takes rows out of the quarantine and puts them into readings in one
transaction, so many at a time, and `drop` deletes in such steps too. After a crash every row is either where it was or
where it should go, and the same call goes on. Two calls at the same time share the rows: each row is locked by one.
Gaps, marks and the totals of a stream stay as they are: a row that is moved was counted when it was quarantined.

Connections are in autocommit mode; `retry` and `drop` make their own transactions.
"""

from engine.quarantine.listing import ROWS_PER_PAGE_MOST, count_quarantined, list_quarantined
from engine.quarantine.moving import drop, retry, rows_now
from engine.quarantine.records import (
    Caller,
    Dropped,
    Place,
    Quarantined,
    Retried,
    RetryRules,
    Selection,
)
from engine.unstorable import LEAST_US, Reason

__all__ = [
    "LEAST_US",
    "ROWS_PER_PAGE_MOST",
    "Caller",
    "Dropped",
    "Place",
    "Quarantined",
    "Reason",
    "Retried",
    "RetryRules",
    "Selection",
    "count_quarantined",
    "drop",
    "list_quarantined",
    "retry",
    "rows_now",
]
