"""What a request asks for, checked: each error names the field as the .proto file does, and shows the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import InvalidInput
from workers.reading_pages import PAGE_ROWS_DEFAULT, PAGE_ROWS_MOST, Range, Selection

if TYPE_CHECKING:
    from scada.v1.gaps_pb2 import ListGapsRequest
    from scada.v1.readings_pb2 import GetLatestReadingsRequest, ListReadingsRequest, StreamReadingsRequest

    _RangeRequest: TypeAlias = StreamReadingsRequest | ListReadingsRequest | ListGapsRequest
    _Request: TypeAlias = GetLatestReadingsRequest | _RangeRequest

# 0001-01-01 to 9999-12-31, what google.protobuf.Timestamp allows.
_SECONDS_LEAST, _SECONDS_MOST = -62_135_596_800, 253_402_300_799
_DAY_US = 86_400_000_000


def selection_of(request: _Request) -> Selection:
    """Return the tags that a request names; raises InvalidInput."""
    if request.well_id and request.tag_ids:
        raise InvalidInput("tag_ids", "give well_id or tag_ids, not both")
    # The tag ids themselves are checked where they are used, by engine.query.
    return Selection(well_id_of(request.well_id), tuple(request.tag_ids) or None)


def range_of(request: _RangeRequest, *, most_days: int, all_tags: bool = False) -> Range:
    """Return the tags and the time that a request names; raises InvalidInput. With `all_tags`, none named means all."""
    if not all_tags and not request.well_id and not request.tag_ids:
        raise InvalidInput("well_id", "is required, unless tag_ids are given")
    selection = selection_of(request)
    from_us = _required("start_time", request.start_time if request.HasField("start_time") else None)
    to_us = _required("end_time", request.end_time if request.HasField("end_time") else None)
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


def page_rows_of(request: ListReadingsRequest | ListGapsRequest) -> int:
    """Return how many readings a page may have; raises InvalidInput."""
    if not 0 <= request.page_size <= PAGE_ROWS_MOST:
        raise InvalidInput("page_size", f"{request.page_size} is not between 0 and {PAGE_ROWS_MOST}")
    return request.page_size or PAGE_ROWS_DEFAULT


def well_id_of(text: str) -> UUID | None:
    """Return the well that a field names; None where it is empty. Raises InvalidInput."""
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError as exc:
        raise InvalidInput("well_id", f"{text[:80]!r} is not a UUID") from exc


def moment_of(field: str, moment: Timestamp | None) -> int | None:
    """Return microseconds since 1970, what is finer is cut off; None for None. Raises InvalidInput."""
    if moment is None:
        return None
    if not (_SECONDS_LEAST <= moment.seconds <= _SECONDS_MOST and 0 <= moment.nanos < 1_000_000_000):
        raise InvalidInput(
            field,
            f"{moment.seconds} seconds and {moment.nanos} nanoseconds are not between the years 1 and 9999",
        )
    return moment.seconds * 1_000_000 + moment.nanos // 1_000


def is_stored_time(us: int) -> bool:
    """Tell whether a timestamptz of the years from 1 on can be so many microseconds after 1970."""
    return _SECONDS_LEAST * 1_000_000 <= us < 2**63


def timestamp_of(us: int) -> Timestamp:
    """Return microseconds since 1970 as the API has them."""
    seconds, rest_us = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest_us * 1_000)


def _required(field: str, moment: Timestamp | None) -> int:
    us = moment_of(field, moment)
    if us is None:
        raise InvalidInput(field, "is required")
    return us


def _shown(moment: Timestamp) -> str:
    return moment.ToJsonString()
