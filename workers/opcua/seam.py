"""What we take from asyncua's inside; nothing else in this package may touch it. Pinned to asyncua 2.1.0.

Owns the byte stream of one connection: cutting it into chunks, and requests whose answers stay bytes; bounds.py has
the limits on what a server may send. Owns no policy: when to connect, publish or give up is decided in session and
pump.

The seams, each held by a test in tests/workers/opcua/test_seam.py that fails when an update moves it:

 1. `Client.uaclient`, `UaClient.session` and `UaClient._make_protocol()` can be replaced by subclasses.
 2. `UaSession.create_subscription()` starts asyncua's publish loop through `ensure_publish_loop()`: ours does nothing.
 3. `UASocketProtocol.data_received()` accepts any bytes. It gets one whole chunk at a time from us, after its header
    was checked: by itself it buffers whatever size a header claims, and can be sent round in circles by a negative
    string length in an ERR message.
 4. `SecureConnection` leaves its limits to `TransportLimits.update_client_limits()`. The original lets the server
    raise them and swaps the two buffer sizes.
 5. `UASocketProtocol._callbackmap`, `_request_id`, `_request_handle`, `revolve_security_token()` and
    `_connection.message_to_binary()` send a request that we encoded; its future gets a `Buffer` that starts at the
    TypeId of the answer (a ServiceFault, too: nothing is raised), and `bytes(buffer)` does not copy.
 6. `SecureConnection.security_token`, `_sequence_number`, `_peer_sequence_number` and `_incoming_parts` are all the
    state of a channel without security. A publish request, and an answer to one that is a single chunk with the
    numbers that are due, are framed here; whatever else comes is asyncua's to judge. Seams 5 and 6 together make a
    message cost a third of what `send_request()` costs.
 7. `SecureConnection._receive()` returns a `ua.Message` of its chunks, whose body() is what asyncua decodes: ours is a
    `Buffer` that keeps the bounds. `UASocketProtocol._call_callback()` hands an answer to the request that waits;
    `_process_received_message()` sees it before, with the kind of its chunks.

A fresh client per connection: nothing of asyncua is used again after a failure, its reconnect and its watchdog never
start. Its create_session() and activate_session() are not used either (see handshake.py), so its
`certificate_validator` would never be asked.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClient, UASocketProtocol
from asyncua.client.ua_session import UaSession
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import nodeid_to_binary, uatcp_to_binary
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from workers.opcua.bounds import (
    CHUNK_MOST_BYTES,
    DECODED_MOST_BYTES,
    SENT_LEAST_BYTES,
    UNKNOWN_MOST_BYTES,
    BoundedConnection,
    limits,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncua.common.connection import TransportLimits

    from engine.settings import OpcuaSettings

# What a publish request's future gets: asyncua's Buffer, or a view behind the headers of the chunk that came.
Answer = Buffer | memoryview

# At INFO asyncua formats whole requests and results.
logging.getLogger("asyncua").setLevel(logging.WARNING)
# What these say of revised timeouts, faults and what cannot be read, the caller reports, without a traceback.
for _name in ("asyncua.client", "asyncua.uaprotocol"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_HEADER = struct.Struct("<4sI")
# Type and chunk flag -> the fewest bytes such a chunk can have, its header included (Part 6, 6.7.2 and 7.1.2).
_CHUNK_KINDS = {b"MSGF": 24, b"MSGC": 24, b"MSGA": 24, b"OPNF": 32, b"ACKF": 28, b"ERRF": 16}
_ACK_BYTES = 28
# A chunk without security: type and flag, size, channel id, token id, sequence number, request id (Part 6, 6.7.2).
_PLAIN_CHUNK = struct.Struct("<4sIIIII")
_ERROR = struct.Struct("<Ii")

# More than the raw requests that can be outstanding (opcua.publish_requests is at most 16).
_RAW_MOST = 64

_PUBLISH_REQUEST = b"\x01\x00\x3a\x03"  # i=826, PublishRequest_Encoding_DefaultBinary
# Timestamp, RequestHandle, ReturnDiagnostics, AuditEntryId (null), TimeoutHint (none: the pump's watchdog decides),
# AdditionalHeader (null NodeId, no body).
_REQUEST_HEADER = struct.Struct("<qIIiIHB")
_COUNT = struct.Struct("<i")
_ACKNOWLEDGEMENT = struct.Struct("<II")
_EPOCH_1601_TICKS = 116_444_736_000_000_000
_REQUEST_IDS = 0xFFFF_FFFF


def status_name(code: int) -> str:
    """Return the name of a StatusCode, or its number in hexadecimal where Part 6 has none."""
    name = ua.StatusCode(ua.UInt32(code)).name
    return name if code == 0 or name not in {"Good", "Uncertain", "Bad"} else f"StatusCode 0x{code:08X}"


class RawProtocol(UASocketProtocol):
    """The byte stream of one connection. `failure` says why it ended, once it did for a reason we know."""

    failure: ScadaError | None = None

    def __init__(self, timeout_s: float, policy: Any, own_limits: TransportLimits) -> None:
        super().__init__(timeout_s, security_policy=policy, limits=own_limits)
        self._connection = BoundedConnection(policy, self._connection._limits)
        self.closed = asyncio.Event()
        self._parts: list[bytes] = []
        self._have_bytes = 0
        self._need_bytes = 0
        self._token = b""
        self._plain = policy.URI == SecurityPolicyNone.URI
        self._plain_most_bytes = min(own_limits.max_message_size, CHUNK_MOST_BYTES)
        self._raw: set[int] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the transport, or cut it when the connection was given up meanwhile."""
        super().connection_made(transport)
        if self.failure is not None:
            transport.abort()

    async def send_hello(self, url: str, max_messagesize: int = 0, max_chunkcount: int = 0) -> ua.Acknowledge:
        """Say Hello with the sizes of chunks that we take; asyncua's would promise a server 2 GB."""
        hello = ua.Hello(
            ReceiveBufferSize=ua.UInt32(CHUNK_MOST_BYTES),
            SendBufferSize=ua.UInt32(CHUNK_MOST_BYTES),
            MaxMessageSize=ua.UInt32(max_messagesize),
            MaxChunkCount=ua.UInt32(max_chunkcount),
            EndpointUrl=ua.String(url),
        )
        ack: asyncio.Future[ua.Acknowledge] = asyncio.get_running_loop().create_future()
        self._callbackmap[0] = ack
        if self.transport is not None:
            # asyncua declares it as taking a MessageType, whose members are bytes.
            self.transport.write(uatcp_to_binary(ua.MessageType.Hello, hello))  # type: ignore[arg-type]
        async with asyncio.timeout(self.timeout):
            return await ack

    def data_received(self, data: bytes) -> None:
        """Cut the stream into chunks; an incomplete one waits, never longer than the largest that is allowed."""
        if self._parts:
            self._parts.append(data)
            self._have_bytes += len(data)
            if self._have_bytes < self._need_bytes:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        offset = 0
        size = 0
        while len(data) - offset >= _HEADER.size and self.failure is None:
            try:
                size = _chunk_size(data, offset)
            except MalformedMessage as exc:
                self.fail(exc)
                return
            if len(data) - offset < size:
                break
            self._take(data[offset : offset + size])
            offset += size
            size = 0
        if offset < len(data) and self.failure is None:
            self._parts = [data[offset:]]
            self._have_bytes = len(data) - offset
            self._need_bytes = size or _HEADER.size

    def _take(self, chunk: bytes) -> None:
        if self._plain and self._take_plain(chunk):
            return
        if chunk.startswith(b"ERR"):
            self.fail(_server_error(chunk))
            return
        super().data_received(chunk)
        # asyncua logs what it could not read and closes the socket, without telling those who wait.
        if self.failure is None and (self.transport is None or self.transport.is_closing()):
            self.fail(
                MalformedMessage(
                    "a chunk cannot be read, or makes its message larger than opcua.max_message_bytes (before a"
                    f" session is open, {UNKNOWN_MOST_BYTES})",
                    0,
                )
            )

    def _take_plain(self, chunk: bytes) -> bool:
        """Hand over the answer to a publish request if nothing about its chunk is out of the ordinary."""
        if len(chunk) < _PLAIN_CHUNK.size or len(chunk) > self._plain_most_bytes:
            return False
        kind, _, channel_id, token_id, sequence_number, request_id = _PLAIN_CHUNK.unpack_from(chunk)
        connection = self._connection
        token = connection.security_token
        if (
            kind != b"MSGF"
            or request_id not in self._raw
            or channel_id != token.ChannelId
            or token_id != token.TokenId
            or connection._peer_sequence_number is None
            or sequence_number != connection._peer_sequence_number + 1
            or connection._incoming_parts
        ):
            return False
        connection._peer_sequence_number = sequence_number
        self._raw.discard(request_id)
        future = self._callbackmap.pop(request_id, None)
        if future is not None and not future.done():
            future.set_result(memoryview(chunk)[_PLAIN_CHUNK.size :])
        return True

    def _call_callback(self, request_id: int, body: Any) -> None:
        """Hand an answer to the request that waits for it. Raises UaError when none does."""
        future = self._callbackmap.pop(request_id, None)
        if future is None:
            raise UaError(f"an answer to request {request_id}, which was never sent")
        raw = request_id in self._raw
        self._raw.discard(request_id)
        if future.done():
            return  # nobody waits any more
        if not raw and isinstance(body, Buffer) and len(body) > DECODED_MOST_BYTES:
            future.set_exception(
                ConnectionRefused(f"an answer of {len(body)} bytes; at most {DECODED_MOST_BYTES} are read")
            )
        else:
            future.set_result(body)

    def _process_received_message(self, msg: Any) -> None:
        """End the connection with the reason when a channel is refused; asyncua would only fail to read it."""
        if (
            isinstance(msg, ua.Message)
            and msg._chunks[0].MessageHeader.MessageType == ua.MessageType.SecureOpen
        ):
            try:
                self.check_answer(msg.body(), "")  # type: ignore[no-untyped-call]
            except UaStatusCodeError as exc:
                self.fail(
                    ConnectionRefused(f"the server refused the secure channel: {status_name(exc.code)}")
                )
                raise
        super()._process_received_message(msg)

    def expect_messages_of(self, own_limits: TransportLimits) -> None:
        """Let the messages be larger from now on."""
        kept = self._connection._limits
        kept.max_message_size, kept.max_chunk_count = own_limits.max_message_size, own_limits.max_chunk_count

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits for an answer why none will come."""
        if self.failure is None:
            reason = f"the connection was lost: {exc}" if exc else "the server closed the connection"
            self.failure = ConnectionRefused(reason)
        super().connection_lost(self.failure)
        self.closed.set()

    def fail(self, reason: ScadaError) -> None:
        """End the connection now, without a word to the server; the first reason is kept."""
        if self.failure is None:
            self.failure = reason
        self._fail_all_pending(self.failure)
        if self.transport is not None:
            self.transport.abort()

    def publish(self, acks: Sequence[tuple[int, int]]) -> asyncio.Future[Answer]:
        """Send a publish request that acknowledges (subscription id, sequence number) pairs; see `request`."""
        body = _COUNT.pack(len(acks))
        for subscription_id, sequence_number in acks:
            body += _ACKNOWLEDGEMENT.pack(subscription_id, sequence_number)
        return self.request(_PUBLISH_REQUEST, body)

    def request(self, type_id: bytes, body: bytes) -> asyncio.Future[Answer]:
        """Send a request of the session: `body` is what follows the RequestHeader, `type_id` its encoded NodeId.

        The future gets the answer, for `body_of`, or the exception that ended the connection. Raises
        ConnectionRefused when the connection has ended already.
        """
        if self.failure is not None or self.transport is None:
            raise self.failure or ConnectionRefused("the connection is closed")
        if not self._token:
            self._token = nodeid_to_binary(self.authentication_token)
        self.revolve_security_token()
        self._request_handle = self._request_handle % _REQUEST_IDS + 1
        self._request_id = request_id = self._request_id % _REQUEST_IDS + 1
        ticks = time.time_ns() // 1_000 * 10 + _EPOCH_1601_TICKS
        header = _REQUEST_HEADER.pack(ticks, self._request_handle, 0, -1, 0, 0, 0)
        body = type_id + self._token + header + body
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._callbackmap[request_id] = future
        self.transport.write(self._framed(body, request_id))
        return future

    def _framed(self, body: bytes, request_id: int) -> bytes:
        connection = self._connection
        if len(self._raw) > _RAW_MOST:
            # Requests that nobody waited for any more.
            self._raw.intersection_update(self._callbackmap)
        self._raw.add(request_id)
        size = _PLAIN_CHUNK.size + len(body)
        if not self._plain or size > SENT_LEAST_BYTES:
            return connection.message_to_binary(body, request_id=request_id)
        connection._sequence_number = connection._sequence_number % _REQUEST_IDS + 1
        token = connection.security_token
        return (
            _PLAIN_CHUNK.pack(
                b"MSGF", size, token.ChannelId, token.TokenId, connection._sequence_number, request_id
            )
            + body
        )


def body_of(answer: Answer) -> bytes | memoryview:
    """Return the body of an answer, from its TypeId on."""
    return answer if isinstance(answer, memoryview) else bytes(answer)


def _chunk_size(data: bytes, offset: int) -> int:
    """Return the size in bytes that a chunk's header claims. Raises MalformedMessage when it cannot be one."""
    kind, size = _HEADER.unpack_from(data, offset)
    least = _CHUNK_KINDS.get(kind)
    if least is None:
        raise MalformedMessage(f"{kind!r} is no kind of chunk that a server sends", 0)
    if not least <= size <= CHUNK_MOST_BYTES or (kind == b"ACKF" and size != _ACK_BYTES):
        raise MalformedMessage(f"a {kind[:3].decode()} chunk claims {size} bytes", 4)
    return int(size)


def _server_error(chunk: bytes) -> ConnectionRefused:
    status, length = _ERROR.unpack_from(chunk, _HEADER.size)
    start = _HEADER.size + _ERROR.size
    # Part 6, 7.1.2.5: at most 4096 bytes; here what a log line can carry.
    reason = chunk[start : start + min(max(length, 0), 200)].decode("utf-8", "replace")
    return ConnectionRefused(f"the server closed the connection: {status_name(status)} {reason}".rstrip())


class _Session(UaSession):
    def ensure_publish_loop(self) -> None:
        """Do nothing: the pump publishes."""


class _Transport(UaClient):
    def __init__(self, timeout_s: float, own_limits: TransportLimits) -> None:
        super().__init__(timeout_s)
        self._own_limits = own_limits
        self.session = _Session(self)

    def _make_protocol(self) -> RawProtocol:
        self.protocol = protocol = RawProtocol(self._timeout, self.security_policy, self._own_limits)
        protocol.on_connection_lost = self._on_transport_lost
        protocol.is_session_closing = self._is_session_closing
        return protocol


class RawClient(Client):
    """asyncua's client with our transport. Never call its connect(): that starts its own supervisor."""

    def __init__(self, url: str, settings: OpcuaSettings) -> None:
        super().__init__(url, timeout=settings.request_timeout_s, auto_reconnect=False)
        self.uaclient = _Transport(
            settings.request_timeout_s, limits(min(UNKNOWN_MOST_BYTES, settings.max_message_bytes))
        )
        self.max_messagesize = settings.max_message_bytes
        self._active_limits = limits(settings.max_message_bytes)
        self.max_chunkcount = self._active_limits.max_chunk_count
        self.session_timeout = int(settings.session_timeout_s * 1_000)

    @property
    def protocol(self) -> RawProtocol | None:
        """The byte stream, once connect_socket() was called."""
        protocol = self.uaclient.protocol
        return protocol if isinstance(protocol, RawProtocol) else None

    def session_is_active(self) -> None:
        """Take messages as large as the settings say: the server has let us in, and we it."""
        if self.protocol is not None:
            self.protocol.expect_messages_of(self._active_limits)

    def use_ciphers(self, policy: Any) -> None:
        """Open the channel with this policy object; call it before connect_socket()."""
        self.security_policy = policy
        self.uaclient.set_security(policy)
