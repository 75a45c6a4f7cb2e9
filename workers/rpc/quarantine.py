"""The QuarantineService: rows are listed page by page, tried again and dropped some thousand a call.

A call that changes something does so in transactions of its own, so that what was done stays done when it is cancelled,
and its page token says where the next one goes on. What comes into the quarantine meanwhile is not touched.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from engine import quarantine
from engine.errors import InvalidInput
from engine.quarantine import Caller, Place, Reason, RetryRules, Selection
from scada.v1 import quarantine_pb2 as pb
from scada.v1.quarantine_pb2_grpc import QuarantineServiceServicer
from workers.rpc import requests
from workers.rpc.calls import UNARY_MOST_S
from workers.rpc.page_tokens import numbers_of, token_of

if TYPE_CHECKING:
    from engine.quarantine import Quarantined
    from engine.settings import Settings
    from workers.rpc.calls import Calls, Context, Tenancy
    from workers.rpc.status import Call

log = structlog.get_logger(__name__)

PAGE_ROWS_DEFAULT = 100
# A page of rows with all that they may hold stays well below the 4 MiB that a client takes.
PAGE_ROWS_MOST = 1_000
RETRIED_ROWS_MOST = 10_000
DROPPED_ROWS_MOST = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REASONS = {
    Reason.TIMESTAMP: pb.QUARANTINE_REASON_TIMESTAMP,
    Reason.TEXT: pb.QUARANTINE_REASON_TEXT,
    Reason.REJECTED: pb.QUARANTINE_REASON_REJECTED,
    Reason.JOURNAL: pb.QUARANTINE_REASON_JOURNAL,
}
_REASON_OF = {number: reason for reason, number in _REASONS.items()}


class QuarantineService(QuarantineServiceServicer):
    """Answers for all tenants."""

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls = calls
        self._settings = settings

    async def ListQuarantined(  # noqa: N802
        self, request: pb.ListQuarantinedRequest, context: Context
    ) -> pb.ListQuarantinedResponse:
        """Return a page of the rows of a filter."""
        async with (
            self._calls.answer(context, "ListQuarantined") as (call, tenancy),
            asyncio.timeout(UNARY_MOST_S),
        ):
            selection = await _selection(request.filter, tenancy)
            if not 0 <= request.page_size <= PAGE_ROWS_MOST:
                raise InvalidInput("page_size", f"{request.page_size} is not between 0 and {PAGE_ROWS_MOST}")
            page_rows = request.page_size or PAGE_ROWS_DEFAULT
            (before,) = numbers_of(request.page_token, _key("list", selection), 1) or (None,)
            async with tenancy.others.use() as database:
                # One more than asked for: it tells whether there is a next page.
                found = await quarantine.list_quarantined(
                    database, selection, limit=page_rows + 1, before=before
                )
            page = found[:page_rows]
            call.rows = len(page)
            return pb.ListQuarantinedResponse(
                rows=map(_row, page),
                next_page_token=token_of(_key("list", selection), page[-1].id)
                if len(found) > len(page)
                else "",
            )
        raise AssertionError  # not reached: an error in the block has become the status of the call

    async def RetryQuarantined(  # noqa: N802
        self, request: pb.RetryQuarantinedRequest, context: Context
    ) -> pb.RetryQuarantinedResponse:
        """Store rows that can be stored now."""
        async with (
            self._calls.answer(context, "RetryQuarantined") as (call, tenancy),
            asyncio.timeout(UNARY_MOST_S),
        ):
            selection = await _selection(request.filter, tenancy)
            key = _key("retry", selection)
            place = _place(request.page_token, key)
            rules = RetryRules(
                latest_us=time.time_ns() // 1_000 + int(self._settings.reading_ahead_most_s * 1e6),
                any_time=request.any_time,
                replace_invalid=request.replace_invalid,
            )
            async with tenancy.others.use() as database:
                done = await quarantine.retry(
                    database, selection, rules, place=place, most_rows=RETRIED_ROWS_MOST
                )
            call.rows = done.stored
            log.info(
                "quarantined readings were tried again", tenant=call.tenant, who=_who(call),
                stored=done.stored, kept=done.kept.total(), chosen=str(selection),
            )  # fmt: skip
            return pb.RetryQuarantinedResponse(
                stored=done.stored,
                kept=[
                    pb.QuarantineCount(reason=_REASONS[reason], rows=rows)
                    for reason, rows in done.kept.items()
                ],
                next_page_token=_token(key, done.place),
            )
        raise AssertionError  # not reached, as above

    async def DropQuarantined(  # noqa: N802
        self, request: pb.DropQuarantinedRequest, context: Context
    ) -> pb.DropQuarantinedResponse:
        """Delete rows for good."""
        async with (
            self._calls.answer(context, "DropQuarantined") as (call, tenancy),
            asyncio.timeout(UNARY_MOST_S),
        ):
            selection = await _selection(request.filter, tenancy)
            if selection.is_everything() and not request.everything:
                raise InvalidInput("filter", "chooses nothing; to drop all rows, set everything")
            if request.everything and not selection.is_everything():
                raise InvalidInput("everything", "excludes a filter")
            key = _key("drop", selection)
            async with tenancy.others.use() as database:
                done = await quarantine.drop(
                    database,
                    selection,
                    caller=Caller(call.tenant, _who(call)),
                    place=_place(request.page_token, key),
                    most_rows=DROPPED_ROWS_MOST,
                )
            call.rows = done.rows
            return pb.DropQuarantinedResponse(dropped=done.rows, next_page_token=_token(key, done.place))
        raise AssertionError  # not reached, as above


async def _selection(wanted: pb.QuarantineFilter, tenancy: Tenancy) -> Selection:
    """Return what a filter means; raises InvalidInput, and NotFound for a well that does not exist."""
    if wanted.reason and wanted.reason not in _REASON_OF:
        raise InvalidInput("reason", f"{wanted.reason} is not a QuarantineReason")
    since_us = requests.moment_of("since_time", wanted.since_time if wanted.HasField("since_time") else None)
    until_us = requests.moment_of("until_time", wanted.until_time if wanted.HasField("until_time") else None)
    selection = Selection(
        ids=tuple(wanted.ids) or None,
        tag_ids=tuple(wanted.tag_ids) or None,
        well_id=requests.well_id_of(wanted.well_id),
        reason=_REASON_OF.get(wanted.reason),
        since=None if since_us is None else _EPOCH + timedelta(microseconds=since_us),
        until=None if until_us is None else _EPOCH + timedelta(microseconds=until_us),
    )
    selection.parameters()  # refuses what does not fit before anything is asked
    if selection.well_id is not None:
        await tenancy.readings.tags(well_id=selection.well_id)
    return selection


def _key(method: str, selection: Selection) -> str:
    return f"{method} {selection!r}"


def _place(token: str, key: str) -> Place | None:
    numbers = numbers_of(token, key, 2)
    return None if numbers is None else Place(*numbers)


def _token(key: str, place: Place | None) -> str:
    return "" if place is None else token_of(key, place.after, place.last)


def _who(call: Call) -> str:
    return f"gRPC {call.peer}, request {call.request_id}"


def _row(row: Quarantined) -> pb.QuarantinedReading:
    quarantined = Timestamp()
    quarantined.FromDatetime(row.quarantined_at)
    return pb.QuarantinedReading(
        id=row.id,
        quarantined_time=quarantined,
        reason=_REASONS[Reason(row.reason)],
        sqlstate=row.sqlstate or "",
        detail=row.detail,
        tag_id=row.tag_id or 0,
        tag_name=row.tag_name or "",
        opc_node_id=row.opc_node_id or "",
        well_id="" if row.well_id is None else str(row.well_id),
        well_name=row.well_name or "",
        time_us=row.ts_us,
        status=None if row.status is None else row.status & 0xFFFF_FFFF,
        value=row.value,
        text_begin=row.text_begin,
        text_size=row.text_nbytes or 0,
        stream=str(row.stream),
        sequence=row.sequence,
        place=row.place,
    )
