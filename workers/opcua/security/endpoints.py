"""The endpoints that a server offers, and which of them a connection takes. Pure: reads nothing, asks nobody.

The host and the port in an endpoint's URL are never used: many servers name a host that only they know, or 0.0.0.0.
What counts is the address that the user gave; only the URL's path, which can name one of several servers behind one
port, is the endpoint's where the user gave none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from asyncua import ua

from engine.errors import ConnectionRefused
from workers.opcua.security.policies import AUTO, BY_URI, MODES, NO_SECURITY, mode_name
from workers.opcua.security.tokens import TokenPolicy, choose_token, offered_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workers.opcua.security.policies import Credentials, Policy, SecurityWanted

# https endpoints speak another protocol; some servers leave the profile empty.
_BINARY_PROFILES = (None, "", "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary")
# An error names this many of the endpoints; real servers have about ten.
_NAMED_IN_ERRORS = 12


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way into a server."""

    url: str
    mode: str
    policy_uri: str
    certificate: bytes
    """The server's certificate in DER, with what it sent of its chain behind it; empty without one."""
    tokens: tuple[TokenPolicy, ...]
    application_uri: str
    security_level: int

    @property
    def policy(self) -> Policy | None:
        """The security policy; None for one that we do not have."""
        return BY_URI.get(self.policy_uri)

    @property
    def policy_name(self) -> str:
        """The policy's name as far as it can be read out of its URI."""
        return self.policy.name if self.policy else self.policy_uri.rpartition("#")[2] or "no policy"

    @property
    def strength(self) -> tuple[int, int]:
        """What orders endpoints by what we think of them: the mode's place, the policy's rank."""
        return MODES.index(self.mode), self.policy.rank if self.policy else -1

    def __str__(self) -> str:
        kinds = dict.fromkeys(token.kind for token in self.tokens)
        return f"{_security(self.mode, self.policy_name)} ({', '.join(kinds) or 'no user tokens'})"


def read_endpoints(descriptions: Iterable[ua.EndpointDescription] | None) -> list[Endpoint]:
    """Return what we can speak of an answer to GetEndpoints or CreateSession: OPC UA binary over TCP."""
    found = []
    for entry in descriptions or ():
        mode = mode_name(entry.SecurityMode)
        if mode is None or entry.TransportProfileUri not in _BINARY_PROFILES:
            continue
        if not str(entry.EndpointUrl or "opc.tcp:").startswith("opc.tcp:"):
            continue
        found.append(
            Endpoint(
                url=str(entry.EndpointUrl or ""),
                mode=mode,
                policy_uri=str(entry.SecurityPolicyUri or NO_SECURITY.uri),
                certificate=bytes(entry.ServerCertificate or b""),
                tokens=offered_tokens(entry.UserIdentityTokens),
                application_uri=str((entry.Server and entry.Server.ApplicationUri) or ""),
                security_level=int(entry.SecurityLevel or 0),
            )
        )
    return found


def choose(endpoints: Sequence[Endpoint], wanted: SecurityWanted, credentials: Credentials) -> Endpoint:
    """Return the strongest endpoint that fits what is configured and takes our credentials.

    Raises ConnectionRefused, which lists what the server offers.
    """
    if not endpoints:
        raise ConnectionRefused("the server offers no endpoint of OPC UA binary over TCP")
    fitting = [endpoint for endpoint in endpoints if _fits(endpoint, wanted)]
    if not fitting:
        raise ConnectionRefused(f"the server does not offer {_asked(wanted)}; it offers {listed(endpoints)}")
    usable = []
    refusals = []
    for endpoint in fitting:
        try:
            _check_credentials(endpoint, wanted, credentials)
        except ConnectionRefused as exc:
            refusals.append(exc)
        else:
            usable.append(endpoint)
    if not usable:
        raise refusals[0]
    # Of equals the first one: servers list what they prefer first.
    return max(usable, key=lambda endpoint: (*endpoint.strength, endpoint.security_level))


def listed(endpoints: Sequence[Endpoint]) -> str:
    """Return the endpoints as one line of text."""
    texts = list(dict.fromkeys(str(endpoint)[:120] for endpoint in endpoints))
    more = len(texts) - _NAMED_IN_ERRORS
    return "; ".join(texts[:_NAMED_IN_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def url_to_say(address: str, endpoint_url: str) -> str:
    """Return the URL for Hello and CreateSession: the user's host and port, the path of either."""
    parts = urlsplit(address)
    if parts.path.strip("/"):
        return address
    try:
        path = urlsplit(endpoint_url).path
    except ValueError:
        return address
    return parts._replace(path=path).geturl() if path.strip("/") and path.isprintable() else address


def _fits(endpoint: Endpoint, wanted: SecurityWanted) -> bool:
    policy = endpoint.policy
    if policy is None or (endpoint.mode == "None") != (policy is NO_SECURITY):
        return False
    if policy.deprecated and not wanted.allow_deprecated:
        return False
    if endpoint.mode != "None" and not endpoint.certificate:
        return False
    return wanted.mode in (AUTO, endpoint.mode) and wanted.policy in (AUTO, policy.name)


def _check_credentials(endpoint: Endpoint, wanted: SecurityWanted, credentials: Credentials) -> None:
    policy = endpoint.policy
    assert policy is not None
    choose_token(
        credentials, endpoint.tokens, policy, mode=endpoint.mode, allow_deprecated=wanted.allow_deprecated
    )


def _asked(wanted: SecurityWanted) -> str:
    if wanted.mode == AUTO and wanted.policy == AUTO:
        return "any security that we have" + (
            "" if wanted.allow_deprecated else " and that is not deprecated"
        )
    return _security(wanted.mode, wanted.policy)


def _security(mode: str, policy: str) -> str:
    return "None" if mode == policy == "None" else f"{mode}/{policy}"
