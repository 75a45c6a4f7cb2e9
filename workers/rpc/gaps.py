"""The GapService: intervals in which readings are missing, page by page."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import InvalidInput
from engine.gaps import Cause
from engine.query import GapPlace, list_gaps
from scada.v1 import gaps_pb2 as pb
from scada.v1.gaps_pb2_grpc import GapServiceServicer
from scada.v1.readings_pb2 import Tag
from workers.rpc import requests
from workers.rpc.calls import UNARY_MOST_S
from workers.rpc.page_tokens import numbers_of, token_of

if TYPE_CHECKING:
    from engine.query import ReadingGap
    from engine.settings import Settings
    from workers.reading_pages import Range
    from workers.rpc.calls import Calls, Context

_CAUSES = {
    Cause.OUTAGE.label: pb.GAP_CAUSE_OUTAGE,
    Cause.RESTART.label: pb.GAP_CAUSE_RESTART,
    Cause.MISSING_MESSAGE.label: pb.GAP_CAUSE_MISSING_MESSAGE,
    Cause.OVERFLOW.label: pb.GAP_CAUSE_OVERFLOW,
    Cause.JOURNAL.label: pb.GAP_CAUSE_JOURNAL,
}
_CAUSE_OF = {int(number): label for label, number in _CAUSES.items()}
_TAG_ID_MOST = 2**31 - 1


class GapService(GapServiceServicer):
    """Answers for all tenants."""

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls = calls
        self._settings = settings

    async def ListGaps(  # noqa: N802
        self, request: pb.ListGapsRequest, context: Context
    ) -> pb.ListGapsResponse:
        """Return a page of the gaps of a range."""
        async with self._calls.answer(context, "ListGaps") as (call, tenancy), asyncio.timeout(UNARY_MOST_S):
            wanted = requests.range_of(request, most_days=self._settings.max_query_days, all_tags=True)
            page_rows = requests.page_rows_of(request)
            after = _place(request.page_token, wanted)
            chosen = wanted.selection
            if chosen.well_id is not None or chosen.tag_ids is not None:
                # Says so when there is no such well or tag.
                await tenancy.readings.tags(tag_ids=chosen.tag_ids, well_id=chosen.well_id)
            async with tenancy.others.use() as database:
                # One more than asked for: it tells whether there is a next page.
                found = await list_gaps(
                    database,
                    from_us=wanted.from_us,
                    to_us=wanted.to_us,
                    tag_ids=chosen.tag_ids,
                    well_id=chosen.well_id,
                    limit=page_rows + 1,
                    after=after,
                    most_days=self._settings.max_query_days,
                )
            page = found[:page_rows]
            call.rows = len(page)
            return pb.ListGapsResponse(
                gaps=map(_gap, page),
                next_page_token=_token(page[-1].place, wanted) if len(found) > len(page) else "",
            )
        raise AssertionError  # not reached: an error in the block has become the status of the call


def _token(place: GapPlace, wanted: Range) -> str:
    return token_of(f"gaps {wanted!r}", place.from_us, place.tag_id, place.to_us, _CAUSES[place.cause])


def _place(token: str, wanted: Range) -> GapPlace | None:
    numbers = numbers_of(token, f"gaps {wanted!r}", 4)
    if numbers is None:
        return None
    from_us, tag_id, to_us, cause = numbers
    is_one = (
        1 <= tag_id <= _TAG_ID_MOST
        and cause in _CAUSE_OF
        and from_us < wanted.to_us
        and to_us > wanted.from_us
    )
    if not is_one or not requests.is_stored_time(from_us) or not requests.is_stored_time(to_us):
        raise InvalidInput("page_token", f"{token!r} was not given by this server")
    return GapPlace(from_us, tag_id, to_us, _CAUSE_OF[cause])


def _gap(gap: ReadingGap) -> pb.Gap:
    tag = Tag(
        tag_id=gap.tag_id,
        tag_name=gap.tag_name,
        opc_node_id=gap.opc_node_id,
        well_id=str(gap.well_id),
        well_name=gap.well_name,
    )
    recorded = Timestamp()
    recorded.FromDatetime(gap.recorded_at)
    return pb.Gap(
        tag=tag,
        start_time=requests.timestamp_of(gap.from_us),
        end_time=requests.timestamp_of(gap.to_us),
        cause=_CAUSES[gap.cause],
        recorded_time=recorded,
    )
