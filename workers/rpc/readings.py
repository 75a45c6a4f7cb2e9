"""The ReadingService: each request is checked, given to the caller's tenant's Readings, and answered.

Memory is bounded for each call: one batch of at most BATCH_ROWS is read ahead of the caller, and the next is read only
when gRPC has taken the one before (so a slow caller slows its own query). A call that ends early stops its query.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from engine.query import Cursor, Readings
from engine.readings import quality_of
from scada.v1 import readings_pb2 as pb
from scada.v1.readings_pb2_grpc import ReadingServiceServicer
from workers.reading_pages import cursor_of, token_of
from workers.rpc import requests
from workers.rpc.columns import PART_BYTES, columns_of, parts_of
from workers.rpc.identity import APPLICATION, tenant_of
from workers.rpc.status import Refusal, answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from engine.catalog import Tenant
    from engine.query import Latest, TagName
    from engine.settings import Settings
    from workers.identity import TenantDirectory
    from workers.rpc.status import Call

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# A quarter of a megabyte as a message, and a few milliseconds of a database's time.
BATCH_ROWS = 10_000
# One tenant can use an eighth of the front's calls; the others always find some free.
CALLS_PER_TENANT_MOST = 32
UNARY_MOST_S = 60.0
# A caller that takes no message for so long is gone, or should ask again from where it is.
SILENCE_MOST_S = 60.0

_QUALITIES = (pb.QUALITY_GOOD, pb.QUALITY_UNCERTAIN, pb.QUALITY_BAD)


class ReadingService(ReadingServiceServicer):
    """Answers for all tenants; keeps one Readings for each tenant that was asked for."""

    def __init__(self, directory: TenantDirectory, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._readings: dict[str, Readings] = {}
        self._running: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    async def StreamReadings(self, request: pb.StreamReadingsRequest, context: Context) -> None:  # noqa: N802
        """Send the tags, then every reading of a range."""
        async with self._call(context, "StreamReadings") as (call, readings):
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
        async with self._call(context, "ListReadings") as (call, readings), asyncio.timeout(UNARY_MOST_S):
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
            self._call(context, "GetLatestReadings") as (call, readings),
            asyncio.timeout(UNARY_MOST_S),
        ):
            wanted = requests.selection_of(request)
            found = await readings.latest(tag_ids=wanted.tag_ids, well_id=wanted.well_id)
            call.rows = len(found)
            return pb.GetLatestReadingsResponse(readings=map(_latest, found))
        raise AssertionError  # not reached, as above

    @asynccontextmanager
    async def _call(self, context: Context, method: str) -> AsyncIterator[tuple[Call, Readings]]:
        """Find the caller's tenant and count its calls; what goes wrong inside becomes the call's status."""
        async with answered(context, method) as call:
            tenant = tenant_of(self._directory, context.invocation_metadata() or ())
            call.tenant = tenant.slug
            if self._running[tenant.slug] >= CALLS_PER_TENANT_MOST:
                raise Refusal(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{CALLS_PER_TENANT_MOST} calls of this tenant are running; try again when one has ended",
                )
            self._running[tenant.slug] += 1
            self._idle.clear()
            try:
                yield call, self._readings_of(tenant)
            finally:
                self._running[tenant.slug] -= 1
                self._running += Counter()  # drops the zeros
                if not self._running:
                    self._idle.set()

    def _readings_of(self, tenant: Tenant) -> Readings:
        readings = self._readings.get(tenant.dsn)
        if readings is None:
            readings = self._readings[tenant.dsn] = Readings(tenant.dsn, self._settings, APPLICATION)
        return readings

    async def idle(self) -> None:
        """Wait until no call is running."""
        await self._idle.wait()

    async def forget_all_but(self, dsns: Collection[str]) -> None:
        """Close the connections to all other databases; calls that use them end as they would have."""
        for dsn in self._readings.keys() - dsns:
            await self._readings.pop(dsn).close()

    async def close(self) -> None:
        """Close the connections."""
        await self.forget_all_but(())


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
    seconds, us = divmod(latest.ts_us, 1_000_000)
    return pb.LatestReading(
        tag=_tag(latest.tag),
        time=Timestamp(seconds=seconds, nanos=us * 1_000),
        status=latest.status,
        quality=_QUALITIES[quality_of(latest.status)],
        value=latest.value,
        text_value=latest.text_value,
    )
