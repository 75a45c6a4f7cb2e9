"""A small HTTP/1.1 server for a few read-only pages, on asyncio. Owns the sockets and their limits, not the pages.

Each connection carries one request. What a client can take is bounded, so that a slow or hostile one does not stop a
scrape: 8 KiB for the head of a request, 5 s to send it, 10 s to take the answer, 64 connections; when those are in use,
a new connection closes the oldest one.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import http.client
import io
import socket
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from email.message import Message

_HEAD_MOST_BYTES = 8 * 1024
_HEAD_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 1.0
_MOST_CONNECTIONS = 64
# Small answers gain nothing; the fastest level does: 9 times smaller text in a millisecond.
_GZIP_FROM_BYTES = 1_024
_GZIP_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says; `body` is sent as it is, or compressed when the client takes that."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


class PlainHttp:
    """Serves `pages`: path -> a coroutine that gets the request's headers and returns the Answer."""

    def __init__(self, pages: dict[str, Callable[[Message], Awaitable[Answer]]]) -> None:
        self._pages = pages
        # A task for each connection, in the order of their arrival, which is the order of a dict.
        self._open: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, setting: str) -> int:
        """Listen, and return the port (another one than asked for if that was 0).

        Raises ConfigurationError naming `setting` when the address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=_HEAD_MOST_BYTES)
        except OSError as exc:
            raise ConfigurationError(f"{setting}: cannot listen on {host}:{port}: {_reason(exc)}") from exc
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening and cut off who is still connected."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=_STOP_TIMEOUT_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._serve(reader, writer))
        self._open[task] = None
        task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client's troubles are its own: it went away, or was too slow.
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            try:
                async with asyncio.timeout(_HEAD_TIMEOUT_S):
                    response = await self._respond(reader)
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    writer.write(response)
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            finally:
                writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        """Return the whole response: 1. not HTTP, or too long; 2. a wrong method; 3. no such page; 4. the page."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            headers = http.client.parse_headers(io.BytesIO(head.split(b"\r\n", 1)[1]))
        except (asyncio.LimitOverrunError, ValueError, http.client.HTTPException):
            return _encode(
                Answer(b"this is not an HTTP request that we take\n", status=HTTPStatus.BAD_REQUEST)
            )
        if not version.startswith("HTTP/1."):
            answer = Answer(b"only HTTP/1.1\n", status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif method not in {"GET", "HEAD"}:
            answer = Answer(b"only GET and HEAD\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
        elif (page := self._pages.get(target.partition("?")[0])) is None:
            known = " ".join(self._pages)
            answer = Answer(
                f"there is no such page; there are {known}\n".encode(), status=HTTPStatus.NOT_FOUND
            )
        else:
            answer = await page(headers)
        return _encode(answer, with_body=method != "HEAD", gzipped=_takes_gzip(headers))


def _encode(answer: Answer, *, with_body: bool = True, gzipped: bool = False) -> bytes:
    body, extra = (
        answer.body,
        "Allow: GET, HEAD\r\n" if answer.status == HTTPStatus.METHOD_NOT_ALLOWED else "",
    )
    if gzipped and len(body) >= _GZIP_FROM_BYTES:
        body, extra = gzip.compress(body, _GZIP_LEVEL), extra + "Content-Encoding: gzip\r\n"
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{extra}Vary: Accept-Encoding\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return head + body if with_body else head


def _takes_gzip(headers: Message) -> bool:
    for coding in headers.get("Accept-Encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _reason(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "another process uses this port"
    if isinstance(exc, socket.gaierror):
        return "this host name cannot be resolved"
    if exc.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return exc.strerror or str(exc)
