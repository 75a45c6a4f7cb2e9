"""What sorting and encoding a batch costs: in compiled code, and in numpy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from bench.copy_feed import Feed, parts_of
from bench.report import Progress, interleaved
from engine._fastpath import sort_readings
from engine.readings import Batch

ROWS = 50_000
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
# A row of binary COPY without a text: five fields, each behind its length; -1 is null.
_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("ts_length", ">i4"),
        ("ts", ">i8"),
        ("tag_id_length", ">i4"),
        ("tag_id", ">i4"),
        ("status_length", ">i4"),
        ("status", ">u4"),
        ("value_length", ">i4"),
        ("value", ">f8"),
        ("text_length", ">i4"),
    ]
)
_LENGTHS = {
    "fields": 5,
    "ts_length": 8,
    "tag_id_length": 4,
    "status_length": 4,
    "value_length": 8,
    "text_length": -1,
}
_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01
_LEAST_US = 0
_LATEST_US = np.iinfo(np.int64).max


def measure(rounds: int, progress: Progress) -> dict[str, float]:
    """Return nanoseconds of processor time a row of both, for the frames of one batch as they arrive."""
    feed = Feed()
    parts = parts_of(feed.batch(ROWS))
    if b"".join(_compiled(parts)) != _in_numpy(parts):
        raise RuntimeError("sorted in compiled code and in numpy, the same rows make different bytes")

    def compiled() -> float:
        began_ns = time.thread_time_ns()
        for _ in _compiled(parts):
            pass
        return (time.thread_time_ns() - began_ns) / ROWS

    def in_numpy() -> float:
        began_ns = time.thread_time_ns()
        _in_numpy(parts)
        return (time.thread_time_ns() - began_ns) / ROWS

    by_name = interleaved(rounds, {"ns": compiled, "numpy_ns": in_numpy}, progress)
    return {
        "sort_encode_ns_per_row": statistics.median(by_name["ns"]),
        "sort_encode_numpy_ns_per_row": statistics.median(by_name["numpy_ns"]),
    }


def _compiled(parts: list[Batch]) -> Iterator[bytearray]:
    """Join, screen, sort and encode as the store does."""
    found = sort_readings(
        parts, _LEAST_US, np.full(len(parts), _LATEST_US), np.full(len(parts), _LEAST_US, np.int64)
    )
    return found.encode(np.array([0], np.intp), np.array([found.rows], np.intp))


def _in_numpy(parts: list[Batch]) -> bytes:
    """Join, sort and encode, with the whole columns at a time."""
    ts_us = np.concatenate([part.ts_us for part in parts])
    tag_id = np.concatenate([part.tag_id for part in parts])
    order = np.lexsort((ts_us, tag_id))
    rows = np.empty(len(order), _ROW)
    for name, length in _LENGTHS.items():
        rows[name] = length
    rows["ts"] = ts_us[order] - _POSTGRES_EPOCH_US
    rows["tag_id"] = tag_id[order]
    rows["status"] = np.concatenate([part.status for part in parts])[order]
    rows["value"] = np.concatenate([part.value for part in parts])[order]
    return b"".join((_HEADER, rows.data, _TRAILER))
