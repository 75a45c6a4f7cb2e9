"""What every request passes on its way in and out: its id, whose name it calls us, how many run at once, how large it
may be, how long it may take, a log line.

Sits before FastAPI, so that nothing of a request is read which will not be answered.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from workers.loopback import names_this_machine
from workers.rest.answers import JSON, REQUEST_ID, Problem, problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

# Beyond these at once, a caller is asked to come again. A page of readings takes up to 3 MB as JSON.
REQUESTS_MOST = 64
REQUEST_MOST_S = 60.0
# Some thousand tags.
BODY_MOST_BYTES = 1 << 20
_REQUEST_ID_MOST_CHARACTERS = 128


class Gate:
    """An ASGI application around another one."""

    def __init__(
        self, app: ASGIApp, *, most: int = REQUESTS_MOST, request_most_s: float = REQUEST_MOST_S
    ) -> None:
        self._app = app
        self._most = most
        self._request_most_s = request_most_s
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an error in it becomes its answer, here at the latest."""
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        received_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > BODY_MOST_BYTES:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"has more than {BODY_MOST_BYTES} bytes"
                )
            return message

        started_s = time.monotonic()
        self._running += 1
        try:
            if (refusal := self._refusal(headers)) is not None:
                await _answer(refusal, send_with_id)
                return
            async with asyncio.timeout(self._request_most_s):
                await self._app(scope, receive_bounded, send_with_id)
        except TimeoutError as exc:
            log.warning("a request took too long", path=scope["path"], request_id=request_id)
            if not status:
                await _answer(problem_of(exc, request_id), send_with_id)
        except Exception as exc:
            # FastAPI has sent and logged its answer to this one, and raises it again for servers that want to know.
            if not status:
                log.error("a request failed", exc_info=exc, path=scope["path"], request_id=request_id)
                await _answer(problem_of(exc, request_id), send_with_id)
        finally:
            self._running -= 1
            log.debug(
                "request",
                method=scope["method"],
                path=scope["path"],
                tenant=state.get("tenant", ""),
                status=status,
                request_id=request_id,
                s=round(time.monotonic() - started_s, 4),
            )

    def _refusal(self, headers: Headers) -> Problem | None:
        """Return why this request is not let in; None when it is. It is counted as running already."""
        if not names_this_machine(headers.get("host", "")):
            return Problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the header Host does not name this machine; this port is open to this machine only",
            )
        if self._running > self._most:
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._most} requests are running; try again when one has ended",
                headers={"Retry-After": "1"},
            )
        return None


async def _answer(problem: Problem, send: Send) -> None:
    body = problem.body()
    headers = {"Content-Type": JSON, "Content-Length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status.value, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _request_id(headers: Headers) -> str:
    """The caller's id where it is fit to be sent back and logged, else a new one."""
    given = headers.get(REQUEST_ID, "")
    fits = given.isascii() and given.isprintable() and 0 < len(given) <= _REQUEST_ID_MOST_CHARACTERS
    return given if fits else uuid.uuid4().hex
