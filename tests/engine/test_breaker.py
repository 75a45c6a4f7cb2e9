"""engine.breaker: when a database is taken to be away, who may ask whether it is back, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from engine.breaker import FIRST_BACKOFF_S, Breaker, opens
from engine.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseRejected,
    DatabaseUnavailable,
)


class Clock:
    """A monotonic clock that stands still until it is told otherwise."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def made(most_s: float = 30.0, jitter: Callable[[], float] = lambda: 1.0) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(most_s, now_s=clock, jitter=jitter), clock


def away(state: str | None = None) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"cannot reach it: {state}", state)


def call(breaker: Breaker, error: BaseException | None = None, *, writes: bool = True) -> None:
    with breaker.call(writes=writes):
        if error is not None:
            raise error


def fail(breaker: Breaker, error: BaseException, *, writes: bool = True) -> None:
    with pytest.raises(type(error)) as caught:
        call(breaker, error, writes=writes)
    assert caught.value is error


@pytest.mark.parametrize(
    "state", [None, "08006", "57P01", "57P03", "53100", "53300", "28P01", "3D000", "25006"]
)
def test_an_error_of_a_database_that_is_away_opens_it(state: str | None) -> None:
    breaker, _ = made()
    fail(breaker, away(state))
    assert breaker.is_open
    assert breaker.error is not None
    assert breaker.error.sqlstate == state


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailable("deadlock", "40P01"),
        DatabaseUnavailable("lock timeout", "55P03"),
        DatabaseUnavailable("statement timeout", "57014"),
        DatabaseRejected("a row", "22003"),
        DatabaseRejected("our own defect"),
        DatabaseNotMigrated("no table", "42P01"),
        ConfigurationError("a bad DSN"),
        ValueError("x"),
    ],
)
def test_an_error_of_a_database_that_answers_does_not(error: Exception) -> None:
    assert not opens(error)
    breaker, _ = made()
    fail(breaker, error)
    assert not breaker.is_open


def test_while_it_is_open_calls_are_refused_with_the_error_that_was_the_reason() -> None:
    breaker, _ = made()
    error = away("57P03")
    fail(breaker, error)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="cannot reach it: 57P03") as caught:
            call(breaker)
        assert caught.value.sqlstate == "57P03"
        assert caught.value is not error


def test_the_back_off_doubles_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    breaker, clock = made(most_s=3.0)
    seen = []
    for _ in range(6):
        fail(breaker, away())
        seen.append(breaker.seconds_to_probe)
        clock.now_s += breaker.seconds_to_probe
    assert seen == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]
    call(breaker)
    assert not breaker.is_open
    assert breaker.seconds_to_probe == 0
    fail(breaker, away())
    assert breaker.seconds_to_probe == FIRST_BACKOFF_S


def test_the_back_off_is_any_part_of_the_ceiling() -> None:
    for part in (0.0, 0.3, 0.99):
        breaker, clock = made(jitter=lambda part=part: part)  # type: ignore[misc]
        fail(breaker, away())
        assert breaker.seconds_to_probe == pytest.approx(part * 0.25)
        clock.now_s += breaker.seconds_to_probe
        fail(breaker, away())
        assert breaker.seconds_to_probe == pytest.approx(part * 0.5)


def test_exactly_one_call_asks_whether_the_database_is_back() -> None:
    breaker, clock = made()
    fail(breaker, away())
    clock.now_s += 0.25
    with breaker.call(writes=True):
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                call(breaker)
    call(breaker)
    assert not breaker.is_open


def test_a_probe_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    breaker, clock = made()
    fail(breaker, away())
    clock.now_s += 0.25
    fail(breaker, asyncio.CancelledError())
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


def test_a_probe_that_the_database_refuses_has_been_answered() -> None:
    breaker, clock = made()
    fail(breaker, away())
    clock.now_s += 0.25
    fail(breaker, DatabaseRejected("a row", "22003"))
    assert not breaker.is_open


def test_calls_that_fail_together_count_once() -> None:
    breaker, _ = made()
    with pytest.raises(DatabaseError), breaker.call(writes=True):  # noqa: SIM117
        with breaker.call(writes=False):
            raise away()
    assert breaker.seconds_to_probe == 0.25


@pytest.mark.parametrize("state", ["53100", "25006"])
def test_a_database_that_takes_no_writes_is_still_read_and_only_a_write_closes_it(state: str) -> None:
    breaker, clock = made()
    fail(breaker, away(state))
    call(breaker, writes=False)
    assert breaker.is_open
    with pytest.raises(DatabaseUnavailable):
        call(breaker)
    clock.now_s += 0.25
    call(breaker, writes=False)
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


def test_without_a_longest_back_off_nothing_is_ever_refused() -> None:
    breaker, _ = made(most_s=0)
    for _ in range(3):
        fail(breaker, away())
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


async def test_a_committer_waits_until_the_back_off_is_over() -> None:
    breaker = Breaker(0.05, jitter=lambda: 1.0)
    await asyncio.wait_for(breaker.wait(), 20)
    fail(breaker, away())
    await asyncio.wait_for(breaker.wait(), 20)
    assert breaker.is_open
    assert breaker.seconds_to_probe == 0
    call(breaker)


async def test_a_committer_that_waits_goes_on_as_soon_as_something_changes() -> None:
    for change in ("a new password", "a probe that works"):
        breaker, clock = made()
        fail(breaker, away())
        if change == "a probe that works":
            clock.now_s += 0.25
            with breaker.call(writes=True):
                waiting = asyncio.create_task(breaker.wait())
                await asyncio.sleep(0)
                assert not waiting.done()
        else:
            waiting = asyncio.create_task(breaker.wait())
            await asyncio.sleep(0)
            assert not waiting.done()
            breaker.retry_now()
        await asyncio.wait_for(waiting, 20)
