"""Where each reading of a tenant is, counted while it moves: received = committed + quarantined + dropped + in flight.

Owns the counters of that identity and the gauges of what waits. In flight is counted where the readings are (rows of
the ring, rows handed to the journal, rows of frames that the database does not have), never worked out from the other
numbers: else the identity would hold whatever was lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.metrics import Counter, DropReason, Gauge

if TYPE_CHECKING:
    from uuid import UUID

    from engine._fastpath import Ring
    from engine.continuity import Taken
    from engine.metrics import TenantSlots
    from engine.pipeline.backlog import Backlog
    from engine.store import Totals


class Accounting:
    """One tenant's readings, counted; each method is one change on the metrics page."""

    def __init__(self, counters: TenantSlots, ring: Ring, backlog: Backlog) -> None:
        self.counters = counters
        # Rows that left the ring and are not durable yet.
        self.appending_rows = 0
        self._ring = ring
        self._backlog = backlog

    @property
    def in_flight_rows(self) -> int:
        """Rows in the ring, on their way into the journal, and in it without being committed."""
        return len(self._ring) + self.appending_rows + self._backlog.rows

    def received(self, rows: int) -> None:
        """Count rows that were put into the ring."""
        with self.counters.together():
            self.counters.count(Counter.RECEIVED, rows)
            self._set_in_flight()

    def drained(self, taken: Taken) -> None:
        """Count what left the ring: rows on their way into the journal, and rows that are only repeated."""
        self.appending_rows += len(taken.batch)
        with self.counters.together():
            self.counters.drop(DropReason.REPEATED, taken.repeated)
            self.counters.count(Counter.OVERFLOWS, taken.overflows)
            self.counters.count(Counter.GAPS, taken.unowned)
            self._set_in_flight()

    def durable(self, rows: int) -> None:
        """Count rows that the journal has, now that the backlog counts them."""
        self.appending_rows -= rows
        with self.counters.together():
            self._set_waiting()

    def committed(self, totals: Totals, *, rows: int, replayed: int, losses: int, seconds: float) -> None:
        """Count what a commit did, by the stream's totals, now that the backlog does not count it any more."""
        counters = self.counters
        with counters.together():
            counters.committed_up_to(totals.readings, totals.quarantined)
            if rows:
                counters.observe_write(rows, seconds)
            counters.count(Counter.REPLAYED, replayed)
            counters.count(Counter.LOST_FRAMES, losses)
            self._set_waiting()

    def moved(self, stream: UUID, totals: Totals, again: int) -> None:
        """Count from other totals: `again` rows that had left the backlog are in it once more."""
        counters = self.counters
        with counters.together():
            counters.committed_up_to(totals.readings, totals.quarantined)
            counters.count_from(stream, readings=totals.readings, quarantined=totals.quarantined)
            counters.count(Counter.RECEIVED, again)
            self._set_waiting()

    def lost(self, rows: int) -> None:
        """Count rows that the journal had and has lost."""
        with self.counters.together():
            self.counters.drop(DropReason.JOURNAL_LOST, rows)
            self._set_waiting()

    def stopped(self, rows: int) -> None:
        """Count rows that will not be stored because the tenant stops; they are not in flight any more."""
        with self.counters.together():
            self.counters.drop(DropReason.STOPPED, rows)
            self.counters.set(Gauge.IN_FLIGHT, self.in_flight_rows - rows)

    def waiting(self) -> None:
        """Set the gauges of what waits for the database."""
        with self.counters.together():
            self._set_waiting()

    def _set_waiting(self) -> None:
        oldest_us = self._backlog.oldest_us
        age_s = max(0.0, time.time() - oldest_us / 1e6) if oldest_us else 0.0
        self.counters.set(Gauge.BACKLOG, self._backlog.rows)
        self.counters.set(Gauge.BACKLOG_AGE_S, age_s)
        self._set_in_flight()

    def _set_in_flight(self) -> None:
        self.counters.set(Gauge.IN_FLIGHT, self.in_flight_rows)
