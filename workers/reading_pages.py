"""Pages of readings: what a request selects, and the token that leads from one page to the next.

A token is a checksum of the request that it belongs to (8 hexadecimal digits), and the cursor's own text. It is no
secret and gives no right: whoever makes one up gets readings that they may read anyway.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from uuid import UUID

from engine.errors import InvalidInput
from engine.query import Cursor

PAGE_ROWS_DEFAULT = 1_000
PAGE_ROWS_MOST = 10_000
_CHECKSUM_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tags: those of a well, or these, or (both None) all."""

    well_id: UUID | None
    tag_ids: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Range:
    """A selection and the time from `from_us`, inclusive, to `to_us`, exclusive."""

    selection: Selection
    from_us: int
    to_us: int


def token_of(cursor: Cursor, wanted: Range) -> str:
    """Return the page token for going on after `cursor`."""
    return _checksum(wanted) + cursor.token()


def cursor_of(token: str, wanted: Range) -> Cursor | None:
    """Return where the page before ended; None for an empty token. Raises InvalidInput."""
    if not token:
        return None
    if len(token) <= _CHECKSUM_CHARACTERS:
        raise InvalidInput("page_token", f"{token!r} was not given by this server")
    cursor = Cursor.from_token(token[_CHECKSUM_CHARACTERS:])
    if token[:_CHECKSUM_CHARACTERS] != _checksum(wanted):
        raise InvalidInput("page_token", "belongs to a request for other tags or another time")
    return cursor


def _checksum(wanted: Range) -> str:
    return f"{zlib.crc32(repr(wanted).encode()):0{_CHECKSUM_CHARACTERS}x}"
