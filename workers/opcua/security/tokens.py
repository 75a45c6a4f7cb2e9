"""How we prove who the user is: anonymous, user name with password, or an X509 certificate (OPC 10000-4, 7.41).

Owns the choice among what a server accepts, and the making of the token. Owns no trust: whoever calls `make_token` has
checked the server's certificate, for which a password is encrypted.

A password goes out encrypted by the token's policy, or inside a channel that encrypts. Readable only where the
connection says `allow_plain_password`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from engine.errors import ConnectionRefused
from workers.opcua.security.policies import BY_URI, NO_SECURITY, SIGN_AND_ENCRYPT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workers.opcua.security.policies import Credentials, Policy

ANONYMOUS = "anonymous"
USER_NAME = "user name"
CERTIFICATE = "certificate"
ISSUED = "issued token"
_KINDS = {
    ua.UserTokenType.Anonymous: ANONYMOUS,
    ua.UserTokenType.UserName: USER_NAME,
    ua.UserTokenType.Certificate: CERTIFICATE,
    ua.UserTokenType.IssuedToken: ISSUED,
}
_LENGTH = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """One way in which an endpoint lets a user prove who they are."""

    policy_id: str | None
    kind: str
    policy_uri: str
    """Empty: the endpoint's own policy (OPC 10000-4, 7.42)."""


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What is going to be used of it. `cipher` is NO_SECURITY for a password that goes out as it is."""

    token: TokenPolicy
    cipher: Policy

    @property
    def encrypts(self) -> bool:
        """True when a secret is encrypted for the server's certificate, which has to be trusted for that."""
        return self.token.kind == USER_NAME and self.cipher is not NO_SECURITY


def offered_tokens(policies: Iterable[ua.UserTokenPolicy] | None) -> tuple[TokenPolicy, ...]:
    """Return what an endpoint accepts; kinds that nobody knows are left out."""
    return tuple(
        TokenPolicy(entry.PolicyId, _KINDS[entry.TokenType], entry.SecurityPolicyUri or "")
        for entry in policies or ()
        if entry.TokenType in _KINDS
    )


def choose_token(
    credentials: Credentials,
    offered: Sequence[TokenPolicy],
    channel: Policy,
    *,
    mode: str,
    allow_deprecated: bool,
) -> TokenChoice:
    """Return the strongest way to use these credentials in a channel of this policy and mode.

    A certificate is preferred to a user name. Raises ConnectionRefused, saying what the server accepts.
    """
    kinds = []
    if credentials.certificate_pem:
        kinds.append(CERTIFICATE)
    if credentials.username:
        kinds.append(USER_NAME)
    kinds = kinds or [ANONYMOUS]
    if not offered and kinds == [ANONYMOUS]:
        # Some servers list no token policy at all; a null token is an anonymous one (Part 4, 5.7.3).
        return TokenChoice(TokenPolicy(None, ANONYMOUS, ""), NO_SECURITY)
    unsafe = ""
    for kind in kinds:
        candidates = [TokenChoice(token, _cipher(token, channel)) for token in offered if token.kind == kind]
        safe = [one for one in candidates if not _objection(one, credentials, mode, allow_deprecated)]
        if safe:
            return max(safe, key=lambda one: one.cipher.rank)
        if candidates:
            unsafe = unsafe or _objection(candidates[0], credentials, mode, allow_deprecated)
    accepted = ", ".join(dict.fromkeys(token.kind for token in offered)) or "nothing that it names"
    raise ConnectionRefused(
        unsafe or f"the server does not accept {_described(kinds)}; it accepts: {accepted}"
    )


def _cipher(token: TokenPolicy, channel: Policy) -> Policy:
    if not token.policy_uri:
        return channel
    # A policy that we do not have encrypts nothing for us: the objection names it.
    return BY_URI.get(token.policy_uri, NO_SECURITY)


def _objection(choice: TokenChoice, credentials: Credentials, mode: str, allow_deprecated: bool) -> str:
    """Return why this choice will not do; empty when it will."""
    token, cipher = choice.token, choice.cipher
    if token.kind == ANONYMOUS:
        return ""
    if token.policy_uri and token.policy_uri not in BY_URI:
        return f"the server wants a {token.kind} protected by a policy that is not known: {token.policy_uri[:100]}"
    if cipher.deprecated and not allow_deprecated:
        return (
            f"the server wants the {token.kind} protected by {cipher.name}, which is deprecated; allow deprecated"
            " policies for this connection to use it"
        )
    return _objection_to_plain(token, credentials, mode) if cipher is NO_SECURITY else ""


def _objection_to_plain(token: TokenPolicy, credentials: Credentials, mode: str) -> str:
    if token.kind == CERTIFICATE:
        return (
            "the server does not say how the user certificate's signature is made, and so could not check it"
        )
    if mode == SIGN_AND_ENCRYPT or credentials.allow_plain_password or not credentials.password:
        return ""
    return (
        f"the password is not sent: security mode is {mode} and the server offers no way to encrypt it (use mode"
        f" {SIGN_AND_ENCRYPT}, or allow a plain password for this connection)"
    )


def _described(kinds: Sequence[str]) -> str:
    names = {ANONYMOUS: "anonymous users", USER_NAME: "user names", CERTIFICATE: "user certificates"}
    return " or ".join(names[kind] for kind in kinds)


def make_token(
    choice: TokenChoice, credentials: Credentials, *, server_certificate: bytes, server_nonce: bytes
) -> tuple[Any, ua.SignatureData]:
    """Return the user identity token and the signature that goes with it.

    `server_certificate` is the leaf in DER, empty where the server has none. Raises ConnectionRefused.
    """
    if choice.token.kind == CERTIFICATE:
        return _certificate_token(choice, credentials, server_certificate + server_nonce)
    if choice.token.kind == USER_NAME:
        return _user_name_token(choice, credentials, server_certificate, server_nonce), ua.SignatureData()
    return ua.AnonymousIdentityToken(PolicyId=choice.token.policy_id), ua.SignatureData()


def _user_name_token(
    choice: TokenChoice, credentials: Credentials, server_certificate: bytes, server_nonce: bytes
) -> ua.UserNameIdentityToken:
    token = ua.UserNameIdentityToken(PolicyId=choice.token.policy_id, UserName=credentials.username)
    secret = (credentials.password or "").encode("utf-8")
    if not choice.encrypts:
        token.Password = secret
        return token
    if not server_certificate:
        raise ConnectionRefused(
            "the password is not sent: the server has no certificate to encrypt it for, though it asks for that"
        )
    # Part 4, 7.41.2.2: length, password, the server's last nonce.
    plain = _LENGTH.pack(len(secret) + len(server_nonce)) + secret + server_nonce
    try:
        certificate = x509.load_der_x509_certificate(server_certificate)
        token.Password = choice.cipher.encrypt(certificate, plain)
    except (ValueError, AttributeError) as exc:
        raise ConnectionRefused(
            f"the password cannot be encrypted for the server's certificate: {exc}"
        ) from exc
    token.EncryptionAlgorithm = choice.cipher.encryption_uri
    return token


def _certificate_token(
    choice: TokenChoice, credentials: Credentials, challenge: bytes
) -> tuple[ua.X509IdentityToken, ua.SignatureData]:
    chain, key = user_identity(credentials)
    token = ua.X509IdentityToken(
        PolicyId=choice.token.policy_id,
        CertificateData=b"".join(certificate.public_bytes(Encoding.DER) for certificate in chain),
    )
    signature = ua.SignatureData(
        Algorithm=choice.cipher.signature_uri, Signature=choice.cipher.sign(key, challenge)
    )
    return token, signature


def user_identity(credentials: Credentials) -> tuple[list[x509.Certificate], RSAPrivateKey]:
    """Return the user's certificate, with its chain if there is one, and its key. Raises ConnectionRefused."""
    try:
        chain = x509.load_pem_x509_certificates((credentials.certificate_pem or "").encode())
    except ValueError as exc:
        raise ConnectionRefused(f"the user certificate is not PEM: {exc}") from exc
    try:
        key = load_pem_private_key((credentials.private_key_pem or "").encode(), password=None)
    except (ValueError, TypeError) as exc:
        raise ConnectionRefused("the user's private key is not PEM without a passphrase") from exc
    if not isinstance(key, RSAPrivateKey):
        raise ConnectionRefused("the user's private key is not an RSA key; OPC UA's policies have no other")
    if key.public_key() != chain[0].public_key():
        raise ConnectionRefused("the user's private key does not belong to the user certificate")
    return chain, key
