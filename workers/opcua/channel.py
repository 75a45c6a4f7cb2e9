"""One connection to one OPC UA server, used once: TCP, secure channel and session, by asyncua's public services.

Owns the translation of everything that asyncua, the socket or the server can throw into engine.errors. Owns no retry.

Invariants: each step ends within the request timeout; `close` ends within its deadline and leaves no socket; after
`abort` every request that waits, and every later one, fails with the reason given.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from asyncua import ua
from asyncua.crypto.security_policies import SecurityPolicyAes128Sha256RsaOaep as Aes128
from asyncua.crypto.security_policies import SecurityPolicyAes256Sha256RsaPss as Aes256
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256 as Basic256
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from engine.errors import ConnectionRefused, ScadaError
from workers.opcua.seam import RawClient, RawProtocol, body_of, status_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncua.client.ua_session import UaSession

    from engine.settings import OpcuaSettings
    from workers.opcua.seam import Answer

log = structlog.get_logger(__name__)

DEFAULT_PORT = 4_840
# A server may revise the session's timeout to anything; more often than this we do not say that we live.
_SESSION_LEAST_S = 1.0
# Part 4, 5.6.2: a client renews the channel's token after 75 percent of its lifetime.
_RENEW_AFTER = 0.75
_MAX_MONITORED_ITEMS_PER_CALL = ua.NodeId(ua.Int32(11_714))
# What asyncua raises when an answer is not what it should be: it checks little, so the interpreter does.
_UNREADABLE = (
    UaError, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    OverflowError, RecursionError,
)  # fmt: skip
# Policies that encrypt a password well enough; Basic128Rsa15 and Basic256 are deprecated for their SHA-1 and RSA 1.5.
_PASSWORD_POLICIES = frozenset({Basic256.URI, Aes128.URI, Aes256.URI})
# A server without this service has answered all the same, and so knows that we live.
_SERVICE_MISSING = frozenset({StatusCodes.BadServiceUnsupported, StatusCodes.BadNotImplemented})


class Channel:
    """A secure channel with an activated session in it."""

    def __init__(self, endpoint_url: str, settings: OpcuaSettings) -> None:
        """Check the address. Raises ConnectionRefused when it is not opc.tcp://host[:port][/path]."""
        self._settings = settings
        self._client = RawClient(_with_port(endpoint_url), settings)
        self._client.name = self._client.description = "scada-engine"
        self._client.application_uri = "urn:scada-engine:client"
        self._client.product_uri = "urn:scada-engine"

    @property
    def protocol(self) -> RawProtocol:
        """The byte stream. Raises ConnectionRefused before `open` and after `close`."""
        protocol = self._client.protocol
        if protocol is None:
            raise ConnectionRefused("the connection is closed")
        return protocol

    @property
    def lost(self) -> bool:
        """True once the connection has ended, whether or not those who wait have been told."""
        protocol = self._client.protocol
        return protocol is None or protocol.failure is not None or protocol.transport is None

    @property
    def session(self) -> UaSession:
        """asyncua's session services; call them inside `translated`."""
        return self._client.uaclient.session

    @property
    def session_timeout_s(self) -> float:
        """How long the server keeps a silent session, as it revised it; known after `open`."""
        return max(self._client.session_timeout / 1_000, _SESSION_LEAST_S)

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn what asyncua and the socket raise into ConnectionRefused; `doing` is what was tried."""
        try:
            yield
        except ScadaError:
            raise
        except Exception as exc:
            protocol = self._client.protocol
            if protocol is not None and protocol.failure is not None:
                # The first cause; what was raised here is only how it reached this request.
                raise protocol.failure from exc
            if isinstance(exc, (OSError, *_UNREADABLE)):
                raise ConnectionRefused(f"{doing}: {_words(exc, self._settings.request_timeout_s)}") from exc
            raise

    async def open(self, *, username: str | None, password: str | None) -> None:
        """Connect and activate a session. Raises ConnectionRefused, saying at which step and why."""
        client = self._client
        try:
            with self.translated("cannot connect"):
                await client.connect_socket()
        finally:
            heed_cancellation()
        with self.translated("no OPC UA answer"):
            await client.send_hello()
        with self.translated("no secure channel"):
            await client.open_secure_channel()
        with self.translated("no session"):
            await client.create_session()
            if username and password:
                self._protect_password()
        with self.translated("session not activated"):
            await client.activate_session(username=username, password=password)

    def _protect_password(self) -> None:
        """Choose a user token policy that encrypts, or refuse: the channel itself does not encrypt.

        It encrypts for the certificate of whoever answers at the address; nothing vouches for that certificate yet.
        """
        offered = self._client.user_name_policies
        if not offered:
            raise ConnectionRefused("the server does not accept user names")
        safe = [policy for policy in offered if policy.SecurityPolicyUri in _PASSWORD_POLICIES]
        if not safe or not self._client.security_policy.peer_certificate:
            raise ConnectionRefused(
                "the password is not sent: security mode is None and the server offers no way to encrypt it"
            )
        self._client.use_policy(safe[0])

    async def items_per_call(self) -> int:
        """Return how many monitored items the server takes in one call; 0 when it does not say."""
        with self.translated("operation limits not read"):
            read = await self.session.read_attributes([_MAX_MONITORED_ITEMS_PER_CALL], AttributeIds.Value)
            value = read[0].Value.Value if read and read[0].Value is not None else 0
        return value if isinstance(value, int) and 0 < value <= 0xFFFF_FFFF else 0

    def publish(self, acks: Sequence[tuple[int, int]]) -> asyncio.Future[Answer]:
        """Send a publish request; see RawProtocol.publish."""
        return self.protocol.publish(acks)

    async def call(self, type_id: int, body: bytes, *, doing: str) -> bytes | memoryview:
        """Send a request of namespace 0 and return its answer, from the TypeId on; nothing of it has been read.

        `type_id` is the id of the request's binary encoding (Part 6, annex A), `body` what follows the RequestHeader,
        `doing` is for the error's text. A ServiceFault is returned like any answer. Raises ConnectionRefused.
        """
        with self.translated(doing):
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    return body_of(
                        await self.protocol.request(b"\x01\x00" + type_id.to_bytes(2, "little"), body)
                    )
            finally:
                heed_cancellation()

    def failed(self, exc: BaseException) -> ScadaError:
        """Return the reason for an exception that a publish request ended with."""
        protocol = self._client.protocol
        if protocol is not None and protocol.failure is not None:
            return protocol.failure
        return exc if isinstance(exc, ScadaError) else ConnectionRefused(f"publish request failed: {exc}")

    async def touch(self, subscription_id: int) -> None:
        """Keep the session and the subscription from expiring while nothing is published.

        A call that names the subscription resets its lifetime counter (Part 4, 5.14.1.1). Raises ConnectionRefused.
        """
        request = ua.SetPublishingModeParameters(PublishingEnabled=True, SubscriptionIds=[subscription_id])
        with self.translated("no sign of life"):
            try:
                results = await self.session.set_publishing_mode(request)
            except UaStatusCodeError as exc:
                if exc.code not in _SERVICE_MISSING:
                    raise
                return
            for status in results:
                status.check()

    async def renew(self) -> None:
        """Renew the channel's token for as long as the channel lives; end the channel when that fails."""
        while True:
            await asyncio.sleep(self._client.secure_channel_timeout / 1_000 * _RENEW_AFTER)
            try:
                with self.translated("channel not renewed"):
                    await self._client.open_secure_channel(renew=True)
                    self._client.uaclient.revolve_security_token()
            except ScadaError as exc:
                self.abort(exc)
                return

    def abort(self, reason: ScadaError) -> None:
        """End the connection now, without a word to the server."""
        if (protocol := self._client.protocol) is not None:
            protocol.fail(reason)

    async def close(self, deadline_s: float) -> None:
        """Close the session with its subscriptions, the channel and the socket; cut the socket at the deadline."""
        protocol = self._client.protocol
        if protocol is None or protocol.transport is None:
            # Never connected, or lost already: nobody will tell us that it is closed.
            self.abort(ConnectionRefused("closed by us"))
            return
        try:
            async with asyncio.timeout(deadline_s):
                if protocol.failure is None:
                    await self._say_goodbye()
                    self._client.disconnect_socket()
                await protocol.closed.wait()
        except TimeoutError:
            log.debug("the server did not let us close the session in time", deadline_s=deadline_s)
        finally:
            protocol.fail(ConnectionRefused("closed by us"))

    async def _say_goodbye(self) -> None:
        # Whatever the server answers to this, the socket is closed next.
        with suppress(ScadaError):
            with self.translated("session not closed"):
                await self._client.uaclient.close_session(delete_subscriptions=True)
            with self.translated("channel not closed"):
                await self._client.close_secure_channel()


def heed_cancellation() -> None:
    """Raise CancelledError when this task was asked to end.

    asyncio.wait_for, in which asyncua connects, loses a cancellation that comes with the result (before Python 3.12).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _with_port(endpoint_url: str) -> str:
    try:
        parts = urlsplit(endpoint_url)
        port = parts.port
    except ValueError as exc:
        raise ConnectionRefused(f"the address {endpoint_url!r} is not a URL: {exc}") from exc
    if parts.scheme != "opc.tcp" or not parts.hostname:
        raise ConnectionRefused("the address has to be opc.tcp://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise ConnectionRefused(
            "the address holds a user name; give it as the connection's user name and password"
        )
    return (
        endpoint_url if port else parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}").geturl()
    )


def _words(exc: Exception, timeout_s: float) -> str:
    """Return the cause in words for an operator."""
    if isinstance(exc, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(exc, socket.gaierror):
        return "the host name is not known"
    if isinstance(exc, OSError):
        return os.strerror(exc.errno).lower() if exc.errno else str(exc)
    if isinstance(exc, UaStatusCodeError):
        return f"{status_name(exc.code)} ({ua.StatusCode(exc.code).doc})"
    return f"the server's answer cannot be read: {exc or type(exc).__name__}"
