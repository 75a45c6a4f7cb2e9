"""What a query may ask for: the rules of a time range, of tag ids and of a limit, and the cursor between pages. Pure.

A cursor is (ts_us, tag_id, skip): the last reading of the page before, and how many readings with this same time and
tag were already given. So a page goes on exactly where the last one ended, even among duplicates.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidInput
from engine.readings import Batch

# 0001-01-01, and the last microsecond that 64 bits hold (in the year 294247; PostgreSQL ends 30 years later).
FIRST_US = -62_135_596_800_000_000
LAST_US = 2**63 - 1
MOST_TAGS = 10_000
MOST_ROWS = 100_000
_MOST_TAG_ID = 2**31 - 1
_DAY_US = 86_400_000_000
_TOKEN = struct.Struct("<qiI")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place after which a page begins."""

    ts_us: int
    tag_id: int
    skip: int

    @classmethod
    def after(cls, batch: Batch, previous: Cursor | None = None) -> Cursor:
        """Return the place after the last reading of a page that began at `previous`; the page is not empty."""
        ts_us, tag_id = int(batch.ts_us[-1]), int(batch.tag_id[-1])
        differs = np.flatnonzero((batch.ts_us != ts_us) | (batch.tag_id != tag_id))
        skip = len(batch) - 1 - int(differs[-1]) if len(differs) else len(batch)
        if (
            skip == len(batch)
            and previous is not None
            and (previous.ts_us, previous.tag_id) == (ts_us, tag_id)
        ):
            skip += previous.skip
        return cls(ts_us, tag_id, skip)

    def token(self) -> str:
        """Return the cursor as a text that callers hand back and need not understand."""
        packed = _TOKEN.pack(self.ts_us, self.tag_id, self.skip)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def from_token(cls, token: str) -> Cursor:
        """Return the cursor of `token`; raises InvalidInput for any other text."""
        try:
            packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            cursor = cls(*_TOKEN.unpack(packed))
        except (binascii.Error, ValueError, struct.error):
            raise InvalidInput("page_token", f"{token[:80]!r} was not given by this server") from None
        if cursor.tag_id < 1 or cursor.skip < 1 or cursor.ts_us < FIRST_US:
            raise InvalidInput("page_token", f"{token[:80]!r} was not given by this server")
        return cursor


def check_range(from_us: int, to_us: int, *, most_days: int) -> None:
    """Refuse a range that is empty, inverted, longer than `most_days` or outside of what can be stored."""
    for field, value in (("from", from_us), ("to", to_us)):
        if not FIRST_US <= value <= LAST_US:
            raise InvalidInput(
                field, f"{value} microseconds since 1970 is not between the years 1 and 294247"
            )
    if from_us >= to_us:
        raise InvalidInput("from", f"{timestamp(from_us)} is not before `to`, {timestamp(to_us)}")
    if to_us - from_us > most_days * _DAY_US:
        days = (to_us - from_us) / _DAY_US
        raise InvalidInput(
            "to", f"{timestamp(to_us)} is {days:.0f} days after `from`; at most {most_days} are allowed"
        )


def check_tag_ids(tag_ids: Sequence[int] | None) -> None:
    """Refuse an empty or too long list, and numbers that cannot be a tag_id."""
    if tag_ids is None:
        return
    if not 1 <= len(tag_ids) <= MOST_TAGS:
        raise InvalidInput("tag_ids", f"there are {len(tag_ids)}; 1 to {MOST_TAGS} are allowed")
    for tag_id in tag_ids:
        if not 1 <= tag_id <= _MOST_TAG_ID:
            raise InvalidInput("tag_ids", f"{tag_id} is not between 1 and {_MOST_TAG_ID}")


def check_limit(limit: int) -> None:
    """Refuse a number of rows that would be no page, or none that fits in memory."""
    if not 1 <= limit <= MOST_ROWS:
        raise InvalidInput("limit", f"{limit} is not between 1 and {MOST_ROWS}")


def check_cursor(cursor: Cursor | None, from_us: int, to_us: int) -> None:
    """Refuse a cursor that belongs to another range."""
    if cursor is not None and not from_us <= cursor.ts_us < to_us:
        raise InvalidInput("page_token", f"it goes on at {timestamp(cursor.ts_us)}, outside of this range")


def timestamp(us: int) -> str:
    """Return microseconds since 1970 as PostgreSQL and people read them, in UTC."""
    return f"{np.datetime64(us, 'us')}Z"
