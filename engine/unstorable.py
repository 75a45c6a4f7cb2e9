"""Why a reading is in the quarantine instead of in `readings`. The only Python definition of it."""

from __future__ import annotations

from enum import StrEnum

# The earliest time that is stored. No OPC UA server has a value from before OPC, which began in 1996; 1601, 1970 and
# 1980 are what a clock that was never set says.
LEAST_US = 631_152_000_000_000  # 1990-01-01


class Reason(StrEnum):
    """Why a row is in the quarantine; the value is the word in the database."""

    TIMESTAMP = "timestamp"
    """Its time is before 1990, or was later than the clock by more than reading_ahead_most_s."""
    TEXT = "text"
    """Its text is not UTF-8, or has a NUL in it."""
    REJECTED = "rejected"
    """The database refused it; sqlstate and detail say why."""
    JOURNAL = "journal"
    """No reading: frames of the journal were lost. Gaps are recorded for them; detail names the bytes that are left."""
