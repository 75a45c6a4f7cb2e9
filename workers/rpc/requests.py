"""What a request asks for, checked: each error names the field as the .proto file does, and shows the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from engine.errors import InvalidInput
from workers.reading_pages import PAGE_ROWS_DEFAULT, PAGE_ROWS_MOST, Range, Selection

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from scada.v1.readings_pb2 import GetLatestReadingsRequest, ListReadingsRequest, StreamReadingsRequest

    _RangeRequest: TypeAlias = StreamReadingsRequest | ListReadingsRequest
    _Request: TypeAlias = GetLatestReadingsRequest | _RangeRequest

# 0001-01-01 to 9999-12-31, what google.protobuf.Timestamp allows.
_SECONDS_LEAST, _SECONDS_MOST = -62_135_596_800, 253_402_300_799
_DAY_US = 86_400_000_000


def selection_of(request: _Request) -> Selection:
    """Return the tags that a request names; raises InvalidInput."""
    if request.well_id and request.tag_ids:
        raise InvalidInput("tag_ids", "give well_id or tag_ids, not both")
    # The tag ids themselves are checked where they are used, by engine.query.
    return Selection(_well_id(request.well_id), tuple(request.tag_ids) or None)


def range_of(request: _RangeRequest, *, most_days: int) -> Range:
    """Return the tags and the time that a request names; raises InvalidInput."""
    if not request.well_id and not request.tag_ids:
        raise InvalidInput("well_id", "is required, unless tag_ids are given")
    selection = selection_of(request)
    from_us = _moment("start_time", request.start_time if request.HasField("start_time") else None)
    to_us = _moment("end_time", request.end_time if request.HasField("end_time") else None)
    if to_us <= from_us:
        raise InvalidInput(
            "end_time", f"{_shown(request.end_time)} is not after start_time, {_shown(request.start_time)}"
        )
    if to_us - from_us > most_days * _DAY_US:
        days = (to_us - from_us) / _DAY_US
        raise InvalidInput(
            "end_time",
            f"{_shown(request.end_time)} is {days:.1f} days after start_time; at most {most_days} are read",
        )
    return Range(selection, from_us, to_us)


def page_rows_of(request: ListReadingsRequest) -> int:
    """Return how many readings a page may have; raises InvalidInput."""
    if not 0 <= request.page_size <= PAGE_ROWS_MOST:
        raise InvalidInput("page_size", f"{request.page_size} is not between 0 and {PAGE_ROWS_MOST}")
    return request.page_size or PAGE_ROWS_DEFAULT


def _well_id(text: str) -> UUID | None:
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError as exc:
        raise InvalidInput("well_id", f"{text[:80]!r} is not a UUID") from exc


def _moment(field: str, moment: Timestamp | None) -> int:
    """Microseconds since 1970; what is finer is cut off."""
    if moment is None:
        raise InvalidInput(field, "is required")
    if not (_SECONDS_LEAST <= moment.seconds <= _SECONDS_MOST and 0 <= moment.nanos < 1_000_000_000):
        raise InvalidInput(
            field,
            f"{moment.seconds} seconds and {moment.nanos} nanoseconds are not between the years 1 and 9999",
        )
    return moment.seconds * 1_000_000 + moment.nanos // 1_000


def _shown(moment: Timestamp) -> str:
    return moment.ToJsonString()
