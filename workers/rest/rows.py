"""A page of readings as the rows of the earlier service's table `scada_readings`, in JSON.

A row is {timestamp, wellId, tagNodeId, value, quality, tagName, unit}, and textValue where there is one. JSON has no
NaN and no infinities: they are null, as a value is that the device did not give. gRPC has them, and the whole status.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from engine.errors import InvalidInput
from engine.readings import Kind, Quality

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.query import TagName
    from engine.readings import Batch

# A page ends here at the latest, after its first row: OPC UA servers may send texts of 16 MiB.
TEXT_MOST_BYTES = 4 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_MS = re.compile(r"-?\d{1,15}")
_QUALITIES = np.array([Quality.GOOD.label, Quality.UNCERTAIN.label, Quality.BAD.label, Quality.BAD.label])


def encoded(batch: Batch, rows: int, tags: Iterable[TagName]) -> bytes:
    """Return the first `rows` readings as a JSON array."""
    names = {tag.tag_id: (str(tag.well_id), tag.opc_node_id, tag.tag_name, tag.unit) for tag in tags}
    # Not datetime: devices with a broken clock send years beyond 9999.
    moments = np.datetime_as_string(batch.ts_us[:rows].view("datetime64[us]"), unit="us", timezone="UTC")
    has_number = (batch.kind[:rows] & Kind.NUMBER) != 0
    values = np.where(has_number, batch.value[:rows], np.nan)  # orjson writes NaN as null
    qualities = _QUALITIES[batch.status[:rows] >> 30]
    page: list[dict[str, Any]] = [
        {
            "timestamp": moment,
            "wellId": well_id,
            "tagNodeId": node_id,
            "value": value,
            "quality": quality,
            "tagName": name,
            "unit": unit,
        }
        for moment, value, quality, (well_id, node_id, name, unit) in zip(
            moments.tolist(),
            values.tolist(),
            qualities.tolist(),
            map(names.__getitem__, batch.tag_id[:rows].tolist()),
            strict=True,
        )
    ]
    for row, text in batch.texts.items():
        if row < rows:
            page[row]["textValue"] = text
    return orjson.dumps(page)


def fitting(batch: Batch, most_rows: int) -> int:
    """Return how many of the first `most_rows` readings make a page: all, unless their texts are too long."""
    used_bytes = 0
    for row in sorted(batch.texts):
        used_bytes += len(batch.texts[row].encode())
        if used_bytes > TEXT_MOST_BYTES and 0 < row < most_rows:
            return row
    return min(most_rows, len(batch))


def moment_us(field: str, text: str) -> int:
    """Return the microseconds since 1970 of an ISO 8601 time or of milliseconds since 1970; raises InvalidInput.

    A time without an offset is UTC.
    """
    if _EPOCH_MS.fullmatch(text):
        return int(text) * 1_000
    try:
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(
            microseconds=1
        )
    except (ValueError, OverflowError) as exc:
        hint = "; write the + of an offset as %2B" if " " in text else ""
        raise InvalidInput(
            field,
            f"{text[:80]!r} is neither ISO 8601, such as 2026-11-23T14:00:00Z, nor milliseconds since 1970{hint}",
        ) from exc
