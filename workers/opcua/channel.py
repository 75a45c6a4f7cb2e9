"""One connection to one OPC UA server, used once: TCP, secure channel and session, by asyncua's public services.

Owns the order of the steps, and the session's ticket. Owns no retry. What is offered, chosen, proved and trusted is
decided in endpoints.py, tokens.py, handshake.py and trust.py.

    open():    [GetEndpoints on a channel of its own, choose, trust] -> Hello -> OpenSecureChannel -> CreateSession
               -> ActivateSession
    resume():  [trust] -> Hello -> OpenSecureChannel -> ActivateSession with the old session's token and nonce

Invariants: each step ends within the request timeout; `close` ends within its deadline and leaves no socket; after
`abort` every request that waits, and every later one, fails with the reason given. Certificates, trust lists and keys
are read at each `open` and `resume`: what was changed meanwhile counts.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from engine.errors import ConnectionRefused, ScadaError
from workers.opcua import faults
from workers.opcua.seam import RawClient, RawProtocol, body_of
from workers.opcua.security import handshake
from workers.opcua.security.admission import let_trust_us, own_identity, trusted_certificate
from workers.opcua.security.certificates import leaf_of
from workers.opcua.security.endpoints import Endpoint, choose, listed, url_to_say
from workers.opcua.security.handshake import SessionTicket
from workers.opcua.security.policies import NO_SECURITY, NONE, Credentials, SecurityWanted, ciphers_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncua.client.ua_session import UaSession

    from engine.catalog.connection import Connection
    from engine.settings import OpcuaSettings
    from workers.opcua.seam import Answer
    from workers.opcua.security.pki import Pki
    from workers.opcua.security.policies import Policy
    from workers.opcua.security.tokens import TokenChoice, TokenPolicy
    from workers.opcua.security.trust import Trusted

log = structlog.get_logger(__name__)

DEFAULT_PORT = 4_840
# A server may revise the session's timeout to anything; more often than this we do not say that we live.
_SESSION_LEAST_S = 1.0
# Part 4, 5.6.2: a client renews the channel's token after 75 percent of its lifetime.
_RENEW_AFTER = 0.75
# A server may revise a channel's lifetime to anything, 0 included.
_CHANNEL_LEAST_S = 1.0
# A server without this service has answered all the same, and so knows that we live.
_SERVICE_MISSING = frozenset({StatusCodes.BadServiceUnsupported, StatusCodes.BadNotImplemented})
# The server has no endpoint without security: it lets anyone open a channel to ask for endpoints, and no more.
_NO_SUCH_SECURITY = frozenset({
    StatusCodes.BadSecurityPolicyRejected,
    StatusCodes.BadSecurityModeRejected,
    StatusCodes.BadSecurityModeInsufficient,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChosenEndpoint:
    """How a channel reaches its server, for people."""

    url: str
    mode: str
    policy: str
    token: str


class Channel:
    """A secure channel with an activated session in it."""

    def __init__(
        self,
        endpoint_url: str,
        settings: OpcuaSettings,
        *,
        credentials: Credentials | None = None,
        security: SecurityWanted | None = None,
        pki: Pki | None = None,
        name: str = "",
    ) -> None:
        """Check the address. Raises ConnectionRefused when it is not opc.tcp://host[:port][/path].

        Without `pki` there is neither an own certificate nor any that is trusted: only mode None without a password
        works then. `name` is the connection's, for commands that an error advises.
        """
        self._name = name
        self._settings = settings
        self._address = with_port(endpoint_url)
        self.credentials = credentials or Credentials()
        self.wanted = security or SecurityWanted()
        self._pki = pki
        self._client = self._new_client(self._address)
        self._ticket: SessionTicket | None = None

    @classmethod
    def for_connection(
        cls, connection: Connection, endpoint_url: str, settings: OpcuaSettings, pki: Pki | None
    ) -> Channel:
        """Return a channel to one of a connection's addresses, as the connection is configured."""
        return cls(
            endpoint_url,
            settings,
            credentials=Credentials(
                username=connection.username,
                password=connection.password,
                certificate_pem=connection.user_certificate,
                private_key_pem=connection.user_private_key,
                allow_plain_password=connection.allow_plain_password,
            ),
            security=SecurityWanted(
                connection.security_mode, connection.security_policy, connection.allow_deprecated_policies
            ),
            pki=pki,
            name=connection.name,
        )

    def _new_client(self, url: str) -> RawClient:
        client = RawClient(url, self._settings)
        client.name = client.description = "scada-engine"
        client.application_uri = self._settings.application_uri
        client.product_uri = "urn:scada-engine"
        return client

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

    @property
    def chosen(self) -> ChosenEndpoint:
        """How the server is reached. Raises ConnectionRefused before `open` or `resume` has succeeded."""
        ticket = self.ticket
        endpoint = ticket.endpoint
        return ChosenEndpoint(
            self._client.server_url.geturl(), endpoint.mode, endpoint.policy_name, ticket.token.kind
        )

    @property
    def ticket(self) -> SessionTicket:
        """All that is needed to `resume` the session in another channel; valid also after this one was lost.

        Raises ConnectionRefused before `open` or `resume` has succeeded.
        """
        if self._ticket is None:
            raise ConnectionRefused("there is no session")
        return self._ticket

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn what asyncua and the socket raise into ConnectionRefused; `doing` is what was tried."""
        with faults.translated(self._client, doing, timeout_s=self._settings.request_timeout_s):
            yield

    async def open(self) -> None:
        """Connect and activate a session. Raises ConnectionRefused, saying at which step and why."""
        if self.wanted.nothing:
            # There is nothing to choose: one connection less, and servers work that answer no GetEndpoints.
            endpoint = Endpoint(self._address, NONE, NO_SECURITY.uri, b"", (), "", 0)
        else:
            endpoint = await self.choose_endpoint()
        await self._open_channel(endpoint)
        with self.translated("no session"):
            session = await self._create_session(endpoint)
        if endpoint.mode == NONE:
            endpoint = replace(
                endpoint, certificate=session.certificate, application_uri=session.application_uri
            )
        await self._activate(
            SessionTicket(
                endpoint=endpoint,
                token=self._user_token(session.tokens, endpoint).token,
                timeout_ms=session.timeout_ms,
                authentication_token=session.authentication_token,
                server_nonce=session.server_nonce,
            ),
            session.tokens,
        )

    async def resume(self, ticket: SessionTicket) -> None:
        """Connect and activate the session of a lost channel again; its subscriptions are still there.

        The endpoint is the ticket's, so nothing is discovered. Raises ConnectionRefused when the server does not know
        the session any more, or not us: then `open` another channel.
        """
        await self._open_channel(ticket.endpoint)
        self.session.restore_authentication_token(ticket.authentication_token)
        await self._activate(ticket, (ticket.token,))

    async def choose_endpoint(self) -> Endpoint:
        """Ask the server for its endpoints and choose one, as it is configured. Raises ConnectionRefused."""
        return choose(await self.discover(), self.wanted, self.credentials)

    async def discover(self) -> list[Endpoint]:
        """Return what the server offers, asked in a channel of its own without security. Raises ConnectionRefused."""
        asking = Channel(self._address, self._settings)
        try:
            await asking._connect()
            with asking.translated("endpoints not read"):
                return await handshake.get_endpoints(asking._client, self._address)
        finally:
            await asking.close(self._settings.request_timeout_s)

    async def _open_channel(self, endpoint: Endpoint) -> None:
        policy = endpoint.policy
        if policy is None:
            raise ConnectionRefused(f"security policy {endpoint.policy_uri} is not known")
        self._client = self._new_client(url_to_say(self._address, endpoint.url))
        if policy is not NO_SECURITY:
            # Exactly the certificate that was checked goes into the ciphers.
            trusted = await self.trusted(endpoint, policy)
            own = await own_identity(self._pki, self._settings)
            self._client.use_ciphers(ciphers_for(policy, endpoint.mode, trusted.certificate, own))
            await self._connect(let_trust=let_trust_us(self._pki, own))
        else:
            await self._connect()

    async def trusted(self, endpoint: Endpoint, policy: Policy | None = None) -> Trusted:
        """Return an endpoint's certificate if it may be used, with its own policy unless told otherwise.

        Raises CertificateRefused, and ConnectionRefused when there is nothing to check, or nothing to check it by.
        """
        return await trusted_certificate(
            self._pki,
            endpoint,
            policy or endpoint.policy or NO_SECURITY,
            host=urlsplit(self._address).hostname or "",
            name=self._name,
        )

    async def _connect(self, *, let_trust: str = "") -> None:
        """Connect and open the channel; `let_trust` is added to the error where certificates count."""
        client = self._client
        with self.translated("cannot connect"):
            await client.connect_socket()
            heed_cancellation()
        with self.translated("no OPC UA connection"):
            await client.send_hello()
        try:
            with self.translated("no secure channel"):
                await client.open_secure_channel()
        except ConnectionRefused as exc:
            raise ConnectionRefused(f"{exc}{let_trust}") from exc

    async def _create_session(self, endpoint: Endpoint) -> handshake.NewSession:
        try:
            return await handshake.create_session(self._client, endpoint, self.wanted, self.credentials)
        except UaStatusCodeError as exc:
            if exc.code not in _NO_SUCH_SECURITY or not self.wanted.nothing:
                raise
            raise ConnectionRefused(
                f"the server does not let us in without security; it offers {listed(await self.discover())}"
            ) from exc

    def _user_token(self, tokens: Sequence[TokenPolicy], endpoint: Endpoint) -> TokenChoice:
        return handshake.choose_user_token(tokens, endpoint, self.wanted, self.credentials)

    async def _activate(self, ticket: SessionTicket, tokens: Sequence[TokenPolicy]) -> None:
        choice = self._user_token(tokens, ticket.endpoint)
        if choice.encrypts and ticket.endpoint.mode == NONE:
            # Nothing has vouched for this certificate yet: it could be anyone's who wants to read the password.
            await self.trusted(ticket.endpoint, choice.cipher)
        with self.translated("session not activated"):
            nonce = await handshake.activate(
                self._client,
                choice,
                self.credentials,
                server_certificate=leaf_of(ticket.endpoint.certificate),
                server_nonce=ticket.server_nonce,
            )
        self._client.session_is_active()
        self._client.session_timeout = int(ticket.timeout_ms)
        self._ticket = replace(ticket, server_nonce=nonce)

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

    async def touch(self, subscription_ids: Sequence[int]) -> None:
        """Keep the session and its subscriptions from expiring while nothing is published.

        A call that names a subscription resets its lifetime counter (Part 4, 5.14.1.1). Raises ConnectionRefused.
        """
        request = ua.SetPublishingModeParameters(
            PublishingEnabled=True, SubscriptionIds=list(subscription_ids)
        )
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
            lifetime_s = max(self._client.secure_channel_timeout / 1_000, _CHANNEL_LEAST_S)
            await asyncio.sleep(lifetime_s * _RENEW_AFTER)
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

    async def close(
        self, deadline_s: float, *, delete_subscriptions: bool = True, keep_session: bool = False
    ) -> None:
        """Close the session, the channel and the socket; cut the socket at the deadline.

        Without `delete_subscriptions` they stay on the server until they expire, for another session to take over; with
        `keep_session` the session does, too, for another channel.
        """
        protocol = self._client.protocol
        if protocol is None or protocol.transport is None:
            # Never connected, or lost already: nobody will tell us that it is closed.
            self.abort(ConnectionRefused("closed by us"))
            return
        try:
            async with asyncio.timeout(deadline_s):
                if protocol.failure is None:
                    await self._say_goodbye(delete_subscriptions, keep_session)
                    self._client.disconnect_socket()
                await protocol.closed.wait()
        except TimeoutError:
            log.debug("the server did not let us close the session in time", deadline_s=deadline_s)
        finally:
            protocol.fail(ConnectionRefused("closed by us"))

    async def _say_goodbye(self, delete_subscriptions: bool, keep_session: bool) -> None:
        # Whatever the server answers to this, the socket is closed next.
        with suppress(ScadaError):
            if not keep_session:
                with self.translated("session not closed"):
                    await self._client.uaclient.close_session(delete_subscriptions)
            with self.translated("channel not closed"):
                await self._client.close_secure_channel()


def heed_cancellation() -> None:
    """Raise CancelledError when this task was asked to end.

    asyncio.wait_for, in which asyncua connects, loses a cancellation that comes with the result (before Python 3.12).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def with_port(endpoint_url: str) -> str:
    """Return the address with its port. Raises ConnectionRefused when it is not opc.tcp://host[:port][/path]."""
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
