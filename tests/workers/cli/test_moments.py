"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import InvalidInput
from workers.cli.moments import iso_us, parse_moment, to_us

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-15m", NOW - timedelta(minutes=15)),
        ("-1.5h", NOW - timedelta(minutes=90)),
        ("-7d", NOW - timedelta(days=7)),
        ("-1w", NOW - timedelta(days=7)),
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23T14:00", datetime(2026, 11, 23, 14, tzinfo=UTC)),
        ("2026-11-23T14:00Z", datetime(2026, 11, 23, 14, tzinfo=UTC)),
        ("2026-11-23T14:00:00.25+02:00", datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_moment_is_understood(text: str, moment: datetime) -> None:
    assert parse_moment("--from", text, now=NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "15m", "-15", "-15y", "-m", "yesterday", "2026-13-01", "-999999999w", "-1e9d"]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--from: .* is not a time"):
        parse_moment("--from", text, now=NOW)


def test_microseconds_are_exact_both_ways() -> None:
    moment = datetime(2026, 11, 23, 14, 30, 0, 123_457, tzinfo=UTC)
    assert to_us(moment) == 1_795_444_200_123_457
    assert iso_us(to_us(moment)) == "2026-11-23T14:30:00.123457Z"


def test_times_beyond_pythons_calendar_are_still_shown() -> None:
    assert iso_us(2**62) == "148108-07-06T14:00:27.387904Z"
    assert iso_us(-(2**55)) == "0828-04-17T00:49:41.036032Z"
