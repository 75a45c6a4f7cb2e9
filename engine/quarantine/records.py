"""What the quarantine is made of, and how rows of it are chosen. No SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from engine.errors import InvalidInput
from engine.unstorable import Reason

IDS_MOST = 10_000
# Of a text, so much is listed: enough to see what it is. A server may send one of 16 MiB.
TEXT_SHOWN_BYTES = 1_024
BIGINT_MOST = 2**63 - 1
_INTEGER_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One row. Everything that is wrong is still in it, so nothing of it can be taken for granted."""

    id: int
    stream: UUID
    sequence: int
    place: int
    tag_id: int | None
    tag_name: str | None
    opc_node_id: str | None
    well_id: UUID | None
    well_name: str | None
    ts_us: int | None
    """Microseconds since 1970; may be more than a timestamptz or a datetime holds."""
    status: int | None
    """The 32 bits of the StatusCode, signed."""
    value: float | None
    text_begin: bytes | None
    """As the server sent it, at most TEXT_SHOWN_BYTES; all of it has text_nbytes."""
    text_nbytes: int | None
    reason: str
    sqlstate: str | None
    detail: str
    quarantined_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows are meant: those that fit everything that is given; with nothing given, all."""

    ids: Sequence[int] | None = None
    tag_ids: Sequence[int] | None = None
    well_id: UUID | None = None
    reason: Reason | None = None
    since: datetime | None = None
    """Quarantined at this moment or later; what time the reading has does not count."""
    until: datetime | None = None
    """Quarantined before this moment."""

    def is_everything(self) -> bool:
        """Tell whether nothing limits it."""
        return self == Selection()

    def parameters(self) -> dict[str, Any]:
        """Return what the queries take; raises InvalidInput for what does not fit, naming ids, tag_ids or since."""
        _check_numbers("ids", self.ids, BIGINT_MOST)
        _check_numbers("tag_ids", self.tag_ids, _INTEGER_MOST)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidInput(
                "since", f"{self.since.isoformat()} is not before until, {self.until.isoformat()}"
            )
        return {
            "ids": None if self.ids is None else list(self.ids),
            "tag_ids": None if self.tag_ids is None else list(self.tag_ids),
            "well_id": self.well_id,
            "reason": self.reason and str(self.reason),
            "since": self.since,
            "until": self.until,
        }

    def __str__(self) -> str:
        """Return it for a line of the log."""
        if self.is_everything():
            return "all"
        parts = []
        for name, values in (("ids", self.ids), ("tag_ids", self.tag_ids)):
            if values is not None:
                more = f" and {len(values) - 10} more" if len(values) > 10 else ""
                parts.append(f"{name} {', '.join(map(str, values[:10]))}{more}")
        if self.well_id is not None:
            parts.append(f"well {self.well_id}")
        if self.reason is not None:
            parts.append(f"reason {self.reason}")
        for word, moment in (("since", self.since), ("until", self.until)):
            if moment is not None:
                parts.append(f"{word} {moment.astimezone(UTC).isoformat()}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who changes something, for the log."""

    tenant: str
    who: str


@dataclass(frozen=True, slots=True)
class Place:
    """How far a change has come: rows up to the id `after` are done, and those behind `last` came in meanwhile."""

    after: int
    last: int


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What `retry` takes for storable beside what always is."""

    latest_us: int
    """A reading of a later time stays: its day would get a chunk of its own, for good. So does one before LEAST_US."""
    any_time: bool = False
    """Store those of such a time as well, as far as PostgreSQL can hold them."""
    replace_invalid: bool = False
    """Put U+FFFD in the place of what is no text, instead of leaving the row in the quarantine."""


@dataclass(slots=True)
class Retried:
    """What became of the rows so far."""

    stored: int = 0
    kept: Counter[Reason] = field(default_factory=Counter)
    """Rows that stay, by the reason that they have now."""
    place: Place | None = None
    """Where to go on; None: all are done."""


@dataclass(slots=True)
class Dropped:
    """What became of the rows so far."""

    rows: int = 0
    place: Place | None = None
    """Where to go on; None: all are done."""


def _check_numbers(name: str, numbers: Sequence[int] | None, most: int) -> None:
    if numbers is None:
        return
    if not 1 <= len(numbers) <= IDS_MOST:
        raise InvalidInput(name, f"there are {len(numbers)}; 1 to {IDS_MOST} are allowed")
    for number in numbers:
        if not 1 <= number <= most:
            raise InvalidInput(name, f"{number} is not between 1 and {most}")
