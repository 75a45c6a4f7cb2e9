"""The error tree as gRPC statuses, and back. Also what every call has in common: request id, log line, last resort.

    InvalidInput                          INVALID_ARGUMENT, with google.rpc.BadRequest naming the field
      NotFound                            NOT_FOUND, the same
    DatabaseUnavailable, -NotMigrated     UNAVAILABLE; why is in our log, not in the answer
    Refusal                               what it says
    TimeoutError                          DEADLINE_EXCEEDED: our own limit, where the caller set none or a longer one
    anything else                         INTERNAL, logged with its traceback; the caller gets the request id

A call that the caller cancelled, or whose deadline passed, is cancelled here too and gets no status of ours.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from engine.errors import (
    ConnectionRefused,
    DatabaseNotMigrated,
    DatabaseTooNew,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    ScadaError,
)

log = structlog.get_logger(__name__)

# Request metadata: whose readings are meant, and what this request is called in logs.
TENANT = "x-tenant"
REQUEST_ID = "x-request-id"
_REQUEST_ID_MOST_CHARACTERS = 128
# What the engine calls a field, where the API calls it something else.
_API_NAMES = {
    "from": "start_time",
    "from_us": "start_time",
    "to": "end_time",
    "to_us": "end_time",
    "limit": "page_size",
    "after": "page_token",
    "cursor": "page_token",
    "before": "page_token",
    "since": "since_time",
}
# What says: not you, or not now; it is no answer to the request itself.
_NOT_LET_IN = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


class Refusal(Exception):
    """A call is refused for a reason that the error tree does not know: who asks, or how much at once.

    `asked` is what the caller said and is not told again, for the log.
    """

    def __init__(self, code: grpc.StatusCode, message: str, *, asked: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.asked = asked


@dataclass(slots=True)
class Call:
    """One call while it is answered; `tenant` is empty until it is known."""

    method: str
    request_id: str
    peer: str
    tenant: str = ""
    rows: int = 0


@asynccontextmanager
async def answered(context: grpc.aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[Call]:
    """Run the body as the answer to a call; an error in it becomes the call's status."""
    call = Call(method, _request_id(context), str(context.peer()))
    trailing = ((REQUEST_ID, call.request_id),)
    context.set_trailing_metadata(trailing)
    started_s = time.monotonic()
    try:
        yield call
    except Exception as exc:  # noqa: BLE001  (the last resort of every call; _status logs what it does not expect)
        status = rpc_status.to_status(_status(exc, call))
        await context.abort(status.code, status.details or "", (*(status.trailing_metadata or ()), *trailing))
    finally:
        seconds = round(time.monotonic() - started_s, 4)
        log.debug(
            "call", method=method, tenant=call.tenant, request_id=call.request_id, rows=call.rows, s=seconds
        )


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller's id where it is fit to be sent back and logged, else a new one."""
    for key, value in context.invocation_metadata() or ():
        fits = isinstance(value, str) and value.isascii() and value.isprintable()
        if key == REQUEST_ID and fits and 0 < len(value) <= _REQUEST_ID_MOST_CHARACTERS:
            return str(value)
    return uuid.uuid4().hex


def _status(exc: Exception, call: Call) -> Status:
    """Return the status for an error, and log what an operator should know of it."""
    where = {"method": call.method, "tenant": call.tenant, "request_id": call.request_id}
    match exc:
        case InvalidInput():
            code = (
                grpc.StatusCode.NOT_FOUND if isinstance(exc, NotFound) else grpc.StatusCode.INVALID_ARGUMENT
            )
            log.debug("a request does not fit", error=str(exc), **where)
            return _field_violation(code, exc)
        case Refusal():
            asked = {"asked": exc.asked} if exc.asked else {}
            log.warning(
                "a call is refused", code=exc.code.name, error=str(exc), peer=call.peer, **asked, **where
            )
            return _plain(exc.code, str(exc))
        case DatabaseUnavailable() | DatabaseNotMigrated() | DatabaseTooNew():
            log.warning("the tenant's database cannot answer", error=str(exc), **where)
            return _plain(grpc.StatusCode.UNAVAILABLE, "the tenant's database cannot answer now; try again")
        case TimeoutError():
            log.warning("a call took too long", **where)
            return _plain(grpc.StatusCode.DEADLINE_EXCEEDED, "this took too long; ask for a smaller part")
        case _:
            log.error("a call failed", exc_info=exc, **where)
            return _plain(
                grpc.StatusCode.INTERNAL,
                f"the server failed; its log says why, for {REQUEST_ID} {call.request_id}",
            )


def _plain(code: grpc.StatusCode, message: str) -> Status:
    return Status(code=code.value[0], message=message)


def _field_violation(code: grpc.StatusCode, exc: InvalidInput) -> Status:
    field = _API_NAMES.get(exc.field, exc.field)
    said = str(exc).removeprefix(f"{exc.field}: ")
    detail = AnyMessage()
    detail.Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=said)]))
    return Status(code=code.value[0], message=f"{field}: {said}", details=[detail])


def error_of(exc: grpc.RpcError, address: str) -> ScadaError:
    """Return a failed call as an error of ours, in the server's words; for clients."""
    code, said = exc.code(), exc.details() or "no reason given"
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        kind = NotFound if code is grpc.StatusCode.NOT_FOUND else InvalidInput
        status = rpc_status.from_call(exc)
        for detail in status.details if status else ():
            found = BadRequest()
            if detail.Unpack(found) and found.field_violations:
                first = found.field_violations[0]
                return kind(first.field, first.description)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ConnectionRefused(f"the gRPC front at {address} is not available: {said}")
    refused = ConnectionRefused if code in _NOT_LET_IN else ScadaError
    return refused(f"the gRPC front at {address} answered {code.name}: {said}")
