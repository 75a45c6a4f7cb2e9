"""What security a connection asks for, and OPC UA's security policies: their names, order, key lengths and ciphers.

Owns the table of policies (OPC 10000-7, 6.6) and the making of asyncua's policy objects. Decides nothing: which
endpoint fits is for endpoints.py, which certificate is trusted for trust.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.crypto import security_policies as asyncua_policies
from cryptography import x509

from engine.errors import ConnectionRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# It warns at each use of a deprecated policy; whoever allowed them knows.
logging.getLogger(asyncua_policies.__name__).setLevel(logging.ERROR)

AUTO = "Auto"
NONE = "None"
SIGN = "Sign"
SIGN_AND_ENCRYPT = "SignAndEncrypt"
# From weak to strong.
MODES = (NONE, SIGN, SIGN_AND_ENCRYPT)
_ASYNCUA_MODES = {
    NONE: ua.MessageSecurityMode.None_,
    SIGN: ua.MessageSecurityMode.Sign,
    SIGN_AND_ENCRYPT: ua.MessageSecurityMode.SignAndEncrypt,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A security policy. The larger `rank`, the stronger; equal ones are a matter of the server's taste."""

    name: str
    uri: str
    rank: int
    least_key_bits: int
    most_key_bits: int
    """The lengths of RSA keys that a certificate may have."""
    padding_bytes: int
    """What one block of its asymmetric encryption cannot use."""
    deprecated: bool
    ciphers: Any
    """asyncua's class."""

    def encrypt(self, certificate: x509.Certificate, plain: bytes) -> bytes:
        """Return `plain` encrypted for the key of a certificate, in as many blocks as it takes."""
        encryptor: Any = asyncua_policies.EncryptorRsa(  # type: ignore[no-untyped-call]
            certificate, self.ciphers.encrypt_asymmetric, self.padding_bytes
        )
        return bytes(encryptor.encrypt(plain))

    def sign(self, key: RSAPrivateKey, data: bytes) -> bytes:
        """Return the signature of data."""
        return bytes(self.ciphers.sign_asymmetric(key, data))

    @property
    def encryption_uri(self) -> str:
        """The name of the asymmetric encryption."""
        return str(self.ciphers.AsymmetricEncryptionURI)

    @property
    def signature_uri(self) -> str:
        """The name of the asymmetric signature."""
        return str(self.ciphers.AsymmetricSignatureURI)


def _policy(name: str, rank: int, bits: tuple[int, int], padding_bytes: int, ciphers: Any) -> Policy:
    return Policy(
        name=name,
        uri=ciphers.URI,
        rank=rank,
        least_key_bits=bits[0],
        most_key_bits=bits[1],
        padding_bytes=padding_bytes,
        # Their signatures are SHA-1; Basic128Rsa15 also encrypts with PKCS #1 1.5 (OPC 10000-7, 6.6.162 and 6.6.163).
        deprecated=rank in (1, 2),
        ciphers=ciphers,
    )


NO_SECURITY = _policy(NONE, 0, (0, 1 << 20), 0, asyncua_policies.SecurityPolicyNone)
POLICIES = (
    NO_SECURITY,
    _policy("Basic128Rsa15", 1, (1_024, 2_048), 11, asyncua_policies.SecurityPolicyBasic128Rsa15),
    _policy("Basic256", 2, (1_024, 2_048), 42, asyncua_policies.SecurityPolicyBasic256),
    _policy("Basic256Sha256", 3, (2_048, 4_096), 42, asyncua_policies.SecurityPolicyBasic256Sha256),
    _policy("Aes128_Sha256_RsaOaep", 3, (2_048, 4_096), 42, asyncua_policies.SecurityPolicyAes128Sha256RsaOaep),
    _policy("Aes256_Sha256_RsaPss", 4, (2_048, 4_096), 66, asyncua_policies.SecurityPolicyAes256Sha256RsaPss),
)  # fmt: skip
BY_NAME = {policy.name: policy for policy in POLICIES}
BY_URI = {policy.uri: policy for policy in POLICIES}


@dataclass(frozen=True, slots=True)
class SecurityWanted:
    """What a connection is configured to use; "Auto" takes the strongest that the server offers."""

    mode: str = NONE
    policy: str = NONE
    allow_deprecated: bool = False

    def __post_init__(self) -> None:
        """Raise ConnectionRefused for a name that does not exist, or names that contradict each other."""
        if self.mode not in (AUTO, *MODES):
            raise ConnectionRefused(f"security mode {self.mode!r} is none of Auto, {', '.join(MODES)}")
        if self.policy not in (AUTO, *BY_NAME):
            raise ConnectionRefused(f"security policy {self.policy!r} is none of Auto, {', '.join(BY_NAME)}")
        if AUTO not in (self.mode, self.policy) and (self.mode == NONE) != (self.policy == NONE):
            raise ConnectionRefused(
                f"security mode {self.mode} does not go with security policy {self.policy}: both are None or neither"
            )
        if self.policy != AUTO and BY_NAME[self.policy].deprecated and not self.allow_deprecated:
            raise ConnectionRefused(
                f"security policy {self.policy} is deprecated (SHA-1); allow deprecated policies for this connection"
                " or choose another"
            )

    @property
    def nothing(self) -> bool:
        """True when no security is what was asked for, so that there is nothing to choose."""
        return NONE in (self.mode, self.policy)

    def __str__(self) -> str:
        return NONE if self.nothing else f"{self.mode}/{self.policy}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we say we are: a user name, a certificate, or nobody. Texts are PEM."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    certificate_pem: str | None = None
    private_key_pem: str | None = field(default=None, repr=False)
    allow_plain_password: bool = False


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """Our application instance certificate and its key."""

    certificate: x509.Certificate
    private_key: RSAPrivateKey = field(repr=False)


def ciphers_for(policy: Policy, mode: str, server: x509.Certificate | None, own: OwnIdentity | None) -> Any:
    """Return asyncua's policy object for a channel. With a policy other than None, both certificates are needed."""
    if policy is NO_SECURITY:
        return policy.ciphers()
    assert server is not None
    assert own is not None
    return policy.ciphers(server, own.certificate, own.private_key, _ASYNCUA_MODES[mode])


def mode_name(mode: ua.MessageSecurityMode) -> str | None:
    """Return the name of a mode; None for Invalid and for numbers that are no mode."""
    return next((name for name, value in _ASYNCUA_MODES.items() if value == mode), None)
