"""A server that keeps to the protocol until a step where a test tells it to do something else.

Speaks UACP without security: answers Hello, OpenSecureChannel, GetEndpoints, CreateSession, ActivateSession and Read as
a server should. `answers[step]` replaces one of these: it gets the Request and yields the bytes to send, or returns
None to say nothing ever again. Every connection begins anew.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from asyncua import ua
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import struct_to_binary

HELLO, OPEN, ENDPOINTS, CREATE, ACTIVATE, READ = "hello", "open", "endpoints", "create", "activate", "read"
STEPS = (HELLO, OPEN, ENDPOINTS, CREATE, ACTIVATE)
# Ids of requests and of the answers to them (OPC 10000-6, annex A).
_REQUESTS = {446: OPEN, 428: ENDPOINTS, 461: CREATE, 467: ACTIVATE, 631: READ}
ANSWER_IDS = {OPEN: 449, ENDPOINTS: 431, CREATE: 464, ACTIVATE: 470, READ: 634}
CHANNEL, TOKEN = 7, 1
_CHUNK = 60_000


@dataclass(frozen=True, slots=True)
class Request:
    """What the client sent, as far as an answer needs it."""

    step: str
    request_id: int
    handle: int
    # Of the next chunk that the server sends.
    sequence: int

    def chunk(
        self, body: bytes, *, kind: bytes = b"MSGF", ahead: int = 0, request_id: int | None = None
    ) -> bytes:
        """Return a chunk; `ahead` counts the chunks that were sent in this answer before."""
        number = self.request_id if request_id is None else request_id
        sequence = struct.pack("<II", self.sequence + ahead, number)
        if self.step == OPEN:
            uri = SecurityPolicyNone.URI.encode()
            security = (
                struct.pack("<I", CHANNEL) + struct.pack("<i", len(uri)) + uri + struct.pack("<ii", -1, -1)
            )
            kind = b"OPN" + kind[3:]
        else:
            security = struct.pack("<II", CHANNEL, TOKEN)
        whole = security + sequence + body
        return kind + struct.pack("<I", 8 + len(whole)) + whole

    def message(self, body: bytes) -> Iterable[bytes]:
        """Yield a message in as many chunks as it takes."""
        parts = [body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK)]
        for ahead, part in enumerate(parts):
            last = ahead == len(parts) - 1
            yield self.chunk(part, kind=b"MSGF" if last else b"MSGC", ahead=ahead)

    def header(self, step: str | None = None, status: int = 0) -> bytes:
        """Return an answer's TypeId and its ResponseHeader up to the string table."""
        type_id = struct.pack("<BBH", 1, 0, ANSWER_IDS.get(step or self.step, 397))
        return type_id + struct.pack("<qIIB", 0, self.handle, status, 0)


Answer = Callable[[Request], "Iterable[bytes] | None"]


class HostileServer:
    """Listens on a free port of 127.0.0.1. `connections` counts who came."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.connections = 0
        self.seen: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ending = asyncio.Event()

    async def __aenter__(self) -> HostileServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"opc.tcp://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        self._ending.set()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        sequence = 1
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                request = await self._receive(reader, sequence)
                self.seen.append(request.step)
                answer = self.answers.get(request.step, self.proper)(request)
                if answer is None:
                    await self._ending.wait()
                    break
                for chunk in answer or ():
                    writer.write(chunk)
                    await writer.drain()
                    sequence += 1
        self._writers.discard(writer)
        writer.close()

    async def _receive(self, reader: asyncio.StreamReader, sequence: int) -> Request:
        kind, size = struct.unpack("<4sI", await reader.readexactly(8))
        body = await reader.readexactly(size - 8)
        if kind == b"HELF":
            return Request(HELLO, 0, 0, 0)
        at = 8
        if kind == b"OPNF":
            at = 4
            for _ in range(3):
                (length,) = struct.unpack_from("<i", body, at)
                at += 4 + max(length, 0)
        _, request_id = struct.unpack_from("<II", body, at)
        type_id = struct.unpack_from("<H", body, at + 10)[0]
        # Behind the TypeId: the authentication token (two bytes before there is one), the time, the handle.
        token = 2 if body[at + 12] == 0 else 4
        (handle,) = struct.unpack_from("<I", body, at + 12 + token + 8)
        return Request(_REQUESTS.get(type_id, str(type_id)), request_id, handle, sequence)

    def proper(self, request: Request) -> Iterable[bytes]:
        """Yield what a server should answer."""
        if request.step == HELLO:
            yield b"ACKF" + struct.pack("<IIIIII", 28, 0, 65_535, 65_535, 0, 0)
            return
        makes: dict[str, Callable[[], Any]] = {
            OPEN: self._opened,
            ENDPOINTS: lambda: ua.GetEndpointsResponse(Endpoints=[self._endpoint()]),
            CREATE: self._created,
            ACTIVATE: lambda: ua.ActivateSessionResponse(
                Parameters=ua.ActivateSessionResult(ServerNonce=bytes(32))
            ),
        }
        if request.step in makes:
            response = makes[request.step]()
            response.ResponseHeader.RequestHandle = request.handle
            yield from request.message(struct_to_binary(response))

    def _opened(self) -> ua.OpenSecureChannelResponse:
        token = ua.ChannelSecurityToken(
            ChannelId=ua.UInt32(CHANNEL),
            TokenId=ua.UInt32(TOKEN),
            CreatedAt=cast(ua.DateTime, datetime.now(UTC)),
            RevisedLifetime=ua.UInt32(3_600_000),
        )
        return ua.OpenSecureChannelResponse(Parameters=ua.OpenSecureChannelResult(SecurityToken=token))

    def _endpoint(self) -> ua.EndpointDescription:
        return ua.EndpointDescription(
            EndpointUrl=ua.String(self.endpoint),
            SecurityMode=ua.MessageSecurityMode.None_,
            SecurityPolicyUri=ua.String(SecurityPolicyNone.URI),
            UserIdentityTokens=[ua.UserTokenPolicy(PolicyId=ua.String("anonymous"))],
        )

    def _created(self) -> ua.CreateSessionResponse:
        result = ua.CreateSessionResult(
            SessionId=ua.NodeId(ua.Int32(1)),
            AuthenticationToken=ua.NodeId(ua.Int32(300)),
            RevisedSessionTimeout=60_000.0,
            ServerNonce=bytes(32),
            ServerEndpoints=[self._endpoint()],
        )
        return ua.CreateSessionResponse(Parameters=result)
