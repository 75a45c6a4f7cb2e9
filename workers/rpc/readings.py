"""The ReadingService: each request is checked, given to the caller's tenant's Readings, and answered.

Memory is bounded for each call: one batch of at most BATCH_ROWS is read ahead of the caller, and the next is read only
when gRPC has taken the one before (so a slow caller slows its own query). A call that ends early stops its query.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from engine.query import Cursor
from engine.readings import quality_of
from scada.v1 import readings_pb2 as pb
from scada.v1.readings_pb2_grpc import ReadingServiceServicer
from workers.reading_pages import cursor_of, token_of
from workers.rpc import requests
from workers.rpc.calls import UNARY_MOST_S
from workers.rpc.columns import PART_BYTES, columns_of, parts_of
from workers.rpc.status import Refusal

if TYPE_CHECKING:
    from engine.query import Latest, TagName
    from engine.settings import Settings
    from workers.rpc.calls import Calls, Context

# A quarter of a megabyte as a message, and a few milliseconds of a database's time.
BATCH_ROWS = 10_000
# A caller that takes no message for so long is gone, or should ask again from where it is.
SILENCE_MOST_S = 60.0

_QUALITIES = (pb.QUALITY_GOOD, pb.QUALITY_UNCERTAIN, pb.QUALITY_BAD)


class ReadingService(ReadingServiceServicer):
    """Answers for all tenants."""

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls = calls
        self._settings = settings

    async def StreamReadings(self, request: pb.StreamReadingsRequest, context: Context) -> None:  # noqa: N802
        """Send the tags, then every reading of a range."""
        async with self._calls.answer(context, "StreamReadings") as (call, tenancy):
            readings = tenancy.readings
            wanted = requests.range_of(request, most_days=self._settings.max_query_days)
            well_id, tag_ids = wanted.selection.well_id, wanted.selection.tag_ids
            tags = await readings.tags(tag_ids=tag_ids, well_id=well_id)
            await _send(context, pb.StreamReadingsResponse(tags=map(_tag, tags)))
            async for batch in readings.stream(
                from_us=wanted.from_us,
                to_us=wanted.to_us,
                tag_ids=tag_ids,
                well_id=well_id,
                rows_per_batch=BATCH_ROWS,
            ):
                for part in parts_of(batch, PART_BYTES):
                    await _send(context, pb.StreamReadingsResponse(columns=columns_of(part)))
                    call.rows += len(part)

    async def ListReadings(  # noqa: N802
        self, request: pb.ListReadingsRequest, context: Context
    ) -> pb.ListReadingsResponse:
        """Return a page of a range."""
        async with (
            self._calls.answer(context, "ListReadings") as (call, tenancy),
            asyncio.timeout(UNARY_MOST_S),
        ):
            readings = tenancy.readings
            wanted = requests.range_of(request, most_days=self._settings.max_query_days)
            page_rows = requests.page_rows_of(request)
            after = cursor_of(request.page_token, wanted)
            well_id, tag_ids = wanted.selection.well_id, wanted.selection.tag_ids
            tags = await readings.tags(tag_ids=tag_ids, well_id=well_id)
            # One more than asked for: it tells whether there is a next page.
            batch = await readings.range(
                from_us=wanted.from_us,
                to_us=wanted.to_us,
                tag_ids=tag_ids,
                well_id=well_id,
                limit=page_rows + 1,
                after=after,
            )
            page = next(parts_of(batch.part(0, page_rows), PART_BYTES))
            more = len(page) < len(batch)
            call.rows = len(page)
            return pb.ListReadingsResponse(
                tags=map(_tag, tags),
                columns=columns_of(page),
                next_page_token=token_of(Cursor.after(page, after), wanted) if more else "",
            )
        raise AssertionError  # not reached: an error in the block has become the status of the call

    async def GetLatestReadings(  # noqa: N802
        self, request: pb.GetLatestReadingsRequest, context: Context
    ) -> pb.GetLatestReadingsResponse:
        """Return the newest reading of each tag."""
        async with (
            self._calls.answer(context, "GetLatestReadings") as (call, tenancy),
            asyncio.timeout(UNARY_MOST_S),
        ):
            wanted = requests.selection_of(request)
            found = await tenancy.readings.latest(tag_ids=wanted.tag_ids, well_id=wanted.well_id)
            call.rows = len(found)
            return pb.GetLatestReadingsResponse(readings=map(_latest, found))
        raise AssertionError  # not reached, as above


async def _send(context: Context, message: pb.StreamReadingsResponse) -> None:
    """Send a message when gRPC can take it. Raises Refusal when the caller takes none for too long."""
    try:
        async with asyncio.timeout(SILENCE_MOST_S):
            await context.write(message)
    except TimeoutError as exc:
        raise Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"no message was taken for {SILENCE_MOST_S:g} s; ask again from the last time on",
        ) from exc


def _tag(tag: TagName) -> pb.Tag:
    return pb.Tag(
        tag_id=tag.tag_id,
        tag_name=tag.tag_name,
        opc_node_id=tag.opc_node_id,
        unit=tag.unit or "",
        well_id=str(tag.well_id),
        well_name=tag.well_name,
    )


def _latest(latest: Latest) -> pb.LatestReading:
    return pb.LatestReading(
        tag=_tag(latest.tag),
        time=requests.timestamp_of(latest.ts_us),
        status=latest.status,
        quality=_QUALITIES[quality_of(latest.status)],
        value=latest.value,
        text_value=latest.text_value,
    )
