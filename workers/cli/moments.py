"""Moments as people write them on a command line: `-15m`, `now`, `2026-11-23T14:00`, `2026-11-23`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

from engine.errors import InvalidInput

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_RELATIVE = re.compile(r"-(\d{1,9}(?:\.\d{1,9})?)([smhdw])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_moment(field: str, text: str, *, now: datetime) -> datetime:
    """Return the moment that the text means; ISO times without an offset are UTC.

    Raises InvalidInput, naming `field`.
    """
    if text == "now":
        return now
    try:
        if relative := _RELATIVE.fullmatch(text):
            return now - float(relative[1]) * _UNITS[relative[2]]
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidInput(
            field,
            f"{text!r} is not a time: write -15m (s, m, h, d, w), now, or ISO 8601 such as 2026-11-23T14:00Z",
        ) from exc


def to_us(moment: datetime) -> int:
    """Return microseconds since 1970, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def iso_us(time_us: int) -> str:
    """Return a reading's time as ISO 8601 in UTC, to the microsecond."""
    # Not datetime: devices with a broken clock send years beyond 9999.
    return f"{np.datetime64(time_us, 'us')}Z"
