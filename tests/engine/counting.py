"""Counting as the pipeline does it: what came or went, and what is in flight, in one change."""

from __future__ import annotations

from engine.metrics import Counter, Gauge, TenantSlots


def received(slots: TenantSlots, rows: int, *, in_flight: int) -> None:
    """Count rows that were decoded into the ring."""
    with slots.together():
        slots.count(Counter.RECEIVED, rows)
        slots.set(Gauge.IN_FLIGHT, in_flight)


def committed(slots: TenantSlots, rows: int, *, in_flight: int) -> None:
    """Count rows that the database has committed."""
    with slots.together():
        slots.count(Counter.COMMITTED, rows)
        slots.set(Gauge.IN_FLIGHT, in_flight)
