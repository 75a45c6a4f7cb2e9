"""The services that begin a session: GetEndpoints, CreateSession, ActivateSession (OPC 10000-4, 5.5.4, 5.7.2, 5.7.3).

Owns the requests, and the checks of what the server proves by its answers. Owns no choice: endpoints.py and tokens.py
choose, trust.py judges certificates, the channel says in which order.

Invariants: in a secured channel, nobody gets our user token who has not signed our nonce with the key of the
certificate that was checked; what the server offers inside the channel is what it offered in clear, or stronger
things were taken out on the way and the session ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from asyncua import ua

from engine.errors import ConnectionRefused
from workers.opcua.faults import BAD_SIGNATURE
from workers.opcua.security.certificates import leaf_of
from workers.opcua.security.endpoints import Endpoint, choose, read_endpoints
from workers.opcua.security.policies import NO_SECURITY
from workers.opcua.security.tokens import TokenPolicy, choose_token, make_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.opcua.seam import RawClient
    from workers.opcua.security.policies import Credentials, SecurityWanted
    from workers.opcua.security.tokens import TokenChoice

# Part 4, 5.7.2: nonces have at least this many bytes.
_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """What it takes to activate a session again from another channel (OPC 10000-4, 6.7). Opaque, and secret."""

    endpoint: Endpoint
    token: TokenPolicy
    timeout_ms: float
    # Who holds these two can take the session over.
    authentication_token: ua.NodeId = field(repr=False)
    server_nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewSession:
    """What CreateSession answered, checked."""

    authentication_token: ua.NodeId = field(repr=False)
    server_nonce: bytes = field(repr=False)
    certificate: bytes
    """The server's certificate with its chain; empty where it has none."""
    application_uri: str
    tokens: tuple[TokenPolicy, ...]
    timeout_ms: float


async def get_endpoints(client: RawClient, url: str) -> list[Endpoint]:
    """Return what the server offers, over an open channel without security."""
    return read_endpoints(await client.uaclient.get_endpoints(ua.GetEndpointsParameters(EndpointUrl=url)))


async def create_session(
    client: RawClient, endpoint: Endpoint, wanted: SecurityWanted, credentials: Credentials
) -> NewSession:
    """Create a session and check what the server proves. Raises ConnectionRefused and what asyncua raises."""
    nonce = os.urandom(_NONCE_BYTES)
    ciphers: Any = client.security_policy
    request = ua.CreateSessionParameters(
        ClientDescription=ua.ApplicationDescription(
            ApplicationUri=client.application_uri,
            ProductUri=client.product_uri,
            ApplicationName=ua.LocalizedText(client.name),
            ApplicationType=ua.ApplicationType.Client,
        ),
        EndpointUrl=client.server_url.geturl(),
        SessionName=client.name,
        ClientNonce=nonce,
        ClientCertificate=ciphers.host_certificate or None,
        RequestedSessionTimeout=float(client.session_timeout),
        MaxResponseMessageSize=client.max_messagesize,
    )
    answer = await client.uaclient.create_session(request)
    secured = endpoint.mode != "None"
    server_nonce = bytes(answer.ServerNonce or b"")
    certificate = bytes(answer.ServerCertificate or b"")
    if secured:
        _check_proof(ciphers, answer, endpoint, server_nonce, ciphers.host_certificate + nonce)
    offered = read_endpoints(answer.ServerEndpoints)
    if secured:
        _check_not_weakened(offered, endpoint, wanted, credentials)
    same = [one for one in offered if (one.mode, one.policy_uri) == (endpoint.mode, endpoint.policy_uri)]
    return NewSession(
        authentication_token=answer.AuthenticationToken,
        server_nonce=server_nonce,
        certificate=certificate or (same[0].certificate if same else b""),
        application_uri=same[0].application_uri if same else endpoint.application_uri,
        # Some servers list nothing here, though they have to (Part 4, 5.7.2).
        tokens=same[0].tokens if same else endpoint.tokens,
        timeout_ms=float(answer.RevisedSessionTimeout),
    )


def _check_proof(ciphers: Any, answer: Any, endpoint: Endpoint, server_nonce: bytes, signed: bytes) -> None:
    if leaf_of(bytes(answer.ServerCertificate or b"")) != leaf_of(endpoint.certificate):
        raise ConnectionRefused(
            "the session's server certificate is not the one that the channel was opened with"
        )
    if len(server_nonce) < _NONCE_BYTES:
        raise ConnectionRefused(
            f"the server's nonce has {len(server_nonce)} bytes; at least {_NONCE_BYTES} are needed"
        )
    signature = answer.ServerSignature.Signature if answer.ServerSignature else None
    try:
        ciphers.asymmetric_cryptography.verify(signed, bytes(signature or b""))
    except BAD_SIGNATURE as exc:
        raise ConnectionRefused(
            "the server did not prove that it has the key of its certificate: wrong signature"
        ) from exc


def _check_not_weakened(
    offered: Sequence[Endpoint], used: Endpoint, wanted: SecurityWanted, credentials: Credentials
) -> None:
    """Refuse when the server, asked where nobody can change its answer, would have let us choose better."""
    # Servers may leave out the certificates here (Part 4, 5.7.2), and some leave out all endpoints.
    complete = [replace(one, certificate=one.certificate or used.certificate) for one in offered]
    try:
        best = choose(complete, wanted, credentials)
    except ConnectionRefused:
        return
    if best.strength > used.strength:
        raise ConnectionRefused(
            f"the server offers {best}, but {used} was the best of what arrived in clear: it was changed on the way"
        )


def choose_user_token(
    tokens: Sequence[TokenPolicy], endpoint: Endpoint, wanted: SecurityWanted, credentials: Credentials
) -> TokenChoice:
    """Return how to prove who the user is in a channel to this endpoint. Raises ConnectionRefused."""
    return choose_token(
        credentials,
        tokens,
        endpoint.policy or NO_SECURITY,
        mode=endpoint.mode,
        allow_deprecated=wanted.allow_deprecated,
    )


async def activate(
    client: RawClient,
    token: TokenChoice,
    credentials: Credentials,
    *,
    server_certificate: bytes,
    server_nonce: bytes,
) -> bytes:
    """Activate the session that the client has a token of; return the server's next nonce.

    `server_certificate` is the leaf in DER. Raises ConnectionRefused and what asyncua raises.
    """
    ciphers: Any = client.security_policy
    request = ua.ActivateSessionParameters(LocaleIds=["en"])
    if client.security_policy.Mode != ua.MessageSecurityMode.None_:
        request.ClientSignature = ua.SignatureData(
            Algorithm=ciphers.AsymmetricSignatureURI,
            Signature=ciphers.asymmetric_cryptography.signature(server_certificate + server_nonce),
        )
    request.UserIdentityToken, request.UserTokenSignature = make_token(
        token, credentials, server_certificate=server_certificate, server_nonce=server_nonce
    )
    answer = await client.uaclient.activate_session(request)
    return bytes(answer.ServerNonce or b"")
