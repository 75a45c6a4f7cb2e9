"""Delays before a connection is tried again."""

from __future__ import annotations

from workers.opcua.backoff import Backoff


def test_the_ceiling_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first_s=0.5, most_s=3.0, draw=lambda _least, most: most)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_delay_is_drawn_from_nothing_to_the_ceiling() -> None:
    backoff = Backoff(first_s=1.0, most_s=1.0)
    delays = [backoff.next_s() for _ in range(1_000)]
    assert all(0.0 <= delay_s <= 1.0 for delay_s in delays)
    assert min(delays) < 0.1
    assert max(delays) > 0.9


def test_a_reset_starts_from_the_first_delay_again() -> None:
    backoff = Backoff(first_s=0.5, most_s=60.0, draw=lambda _least, most: most)
    for _ in range(9):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_first_delay_above_the_limit_is_the_limit() -> None:
    assert Backoff(first_s=9.0, most_s=2.0, draw=lambda _least, most: most).next_s() == 2.0
