"""What rollups have to be: computed from all readings, in plain Python."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeAlias

import psycopg

# (tag, minute, hour or day since 1970) -> the columns, as text: NaN equals itself then
Rollups: TypeAlias = dict[tuple[int, int], tuple[str, ...]]
WIDTH_S = {"1m": 60, "1h": 3_600, "1d": 86_400}
_COLUMNS = "count, good_count, value_count, sum, min, max, first, last"


async def shown(database: psycopg.AsyncConnection[Any], width: str, kind: str = "readings") -> Rollups:
    """Return what a view (`readings`) or table (`rollups`) has; fails for a bucket that is there twice."""
    cursor = await database.execute(
        f"select tag_id, extract(epoch from bucket)::bigint, {_COLUMNS} from {kind}_{width}".encode()
    )
    rows = await cursor.fetchall()
    found = {(tag, bucket_s // WIDTH_S[width]): _texts(values) for tag, bucket_s, *values in rows}
    assert len(found) == len(rows)
    assert all(bucket_s % WIDTH_S[width] == 0 for _, bucket_s, *_ in rows)
    return found


async def expected(database: psycopg.AsyncConnection[Any], width: str) -> Rollups:
    """Return what it has to have by the readings."""
    cursor = await database.execute(
        b"select tag_id, (extract(epoch from ts) * 1000000)::bigint, status, value from stored_readings"
    )
    buckets = defaultdict(list)
    async for tag_id, ts_us, status, value in cursor:
        buckets[tag_id, ts_us // 1_000_000 // WIDTH_S[width]].append((ts_us, status, value))
    return {key: _rollup(readings) for key, readings in buckets.items()}


def _rollup(readings: list[tuple[int, int, float | None]]) -> tuple[str, ...]:
    numbers = [
        (ts_us, status, value)
        for ts_us, status, value in readings
        if status >= 0 and value is not None and not math.isnan(value)
    ]
    good = sum(0 <= status < 1 << 30 for _, status, _ in readings)
    if not numbers:
        return _texts([len(readings), good, 0, None, None, None, None, None])
    values = [value for _, _, value in numbers]
    bounded = [value if abs(value) <= 1e290 else math.copysign(math.inf, value) for value in values]
    return _texts(
        [
            len(readings), good, len(numbers), sum(bounded), min(values), max(values),
            min(numbers)[2], max(numbers)[2],
        ]
    )  # fmt: skip


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple("None" if value is None else repr(float(value) + 0.0) for value in values)
