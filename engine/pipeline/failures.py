"""How often one batch has failed, what is said of it, and how long to wait before it is tried again."""

from __future__ import annotations

import random

import structlog

from engine.errors import ScadaError

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.25
_FIRST_HELD_S = 2.0
_CONFLICTS_AT_ONCE = 3
# From then on a database is away for long: hundreds of tenants may be on one server, and the journal has it all.
_FAILURES_OF_AN_OUTAGE = 4


class Failures:
    """The failures of one batch; says so each time that their number has doubled."""

    def __init__(self, most_s: float) -> None:
        """`most_s` is the longest wait."""
        self.count = 0
        self._conflicts = 0
        self._most_s = most_s

    @property
    def begins_outage(self) -> bool:
        """True at the failure from which on the database is taken to be away for long."""
        return self.count == _FAILURES_OF_AN_OUTAGE

    def report(self, exc: Exception, rows: int, *, held: bool) -> None:
        """Count a failure; a database that is away mends itself, all else needs a person."""
        self.count += 1
        if self.count & (self.count - 1):
            return
        foreseen = isinstance(exc, ScadaError)
        (log.error if held else log.warning)(
            "the stream is held: the database refuses a batch"
            if held
            else "the database does not take a batch",
            error=str(exc) if foreseen else repr(exc),
            sqlstate=getattr(exc, "sqlstate", None),
            rows=rows,
            attempts=self.count,
            will_retry=True,
            exc_info=None if foreseen else exc,
        )

    def is_again_at_once(self) -> bool:
        """Tell whether to try once more at once after a conflict; a few times only."""
        self._conflicts += 1
        return self._conflicts <= _CONFLICTS_AT_ONCE

    def next_wait_s(self, *, held: bool) -> float:
        """Return how long to wait: full jitter, so that tenants on one server do not come back in step."""
        first_s = _FIRST_HELD_S if held else _FIRST_RETRY_S
        return random.uniform(0.0, min(self._most_s, first_s * 2 ** min(self.count, 16)))
