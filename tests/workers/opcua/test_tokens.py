"""How a user is proved to a server: which token, and what of it can be read on the way."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from asyncua.crypto import uacrypto
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.errors import ConnectionRefused
from tests.workers.opcua.made_certificates import Key, der, key, server
from workers.opcua.security.policies import BY_NAME, NO_SECURITY, Credentials, Policy
from workers.opcua.security.tokens import (
    ANONYMOUS,
    CERTIFICATE,
    USER_NAME,
    TokenChoice,
    TokenPolicy,
    choose_token,
    make_token,
)

PASSWORD = "correct horse"
NONCE = bytes(range(32))
MODERN, STRONG, OLD = (BY_NAME[name] for name in ("Basic256Sha256", "Aes256_Sha256_RsaPss", "Basic128Rsa15"))
USER = Credentials(username="operator", password=PASSWORD)


def policy(kind: str, uri: str = "", name: str = "") -> TokenPolicy:
    return TokenPolicy(name or kind, kind, uri)


def chosen(
    credentials: Credentials,
    *offered: TokenPolicy,
    channel: Policy = NO_SECURITY,
    mode: str = "None",
    allow_deprecated: bool = False,
) -> TokenChoice:
    return choose_token(credentials, offered, channel, mode=mode, allow_deprecated=allow_deprecated)


def pem(private: Key) -> str:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def user_certificate(private: Key | None = None, **changes: Any) -> Credentials:
    certificate = server(name="user", own_key=key("user"))
    return Credentials(
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode(),
        private_key_pem=pem(private or key("user")),
        **changes,
    )


def test_nobody_is_anonymous() -> None:
    choice = chosen(Credentials(), policy(USER_NAME), policy(ANONYMOUS, name="anon"))
    token, signature = make_token(choice, Credentials(), server_certificate=b"", server_nonce=NONCE)
    assert (token.PolicyId, signature.Signature) == ("anon", None)


def test_a_server_that_lists_no_tokens_takes_the_anonymous_one() -> None:
    assert chosen(Credentials()).token.policy_id is None
    with pytest.raises(ConnectionRefused, match="does not accept user names; it accepts: nothing that it"):
        chosen(USER)


def test_what_a_server_accepts_is_named() -> None:
    with pytest.raises(ConnectionRefused) as refused:
        chosen(Credentials(), policy(USER_NAME), policy(CERTIFICATE))
    assert str(refused.value) == (
        "the server does not accept anonymous users; it accepts: user name, certificate"
    )


def test_a_password_takes_the_policy_that_protects_it_best() -> None:
    weak = policy(USER_NAME, NO_SECURITY.uri, "weak")
    good = policy(USER_NAME, MODERN.uri, "good")
    best = policy(USER_NAME, STRONG.uri, "best")
    assert chosen(USER, weak, good, best).token.policy_id == "best"
    assert chosen(USER, weak, good).token.policy_id == "good"


def test_a_password_is_never_sent_where_it_could_be_read() -> None:
    for mode, channel in (("None", NO_SECURITY), ("Sign", MODERN)):
        with pytest.raises(ConnectionRefused, match="the password is not sent") as refused:
            chosen(USER, policy(USER_NAME, NO_SECURITY.uri), channel=channel, mode=mode)
        assert PASSWORD not in str(refused.value)
    allowed = Credentials(username="operator", password=PASSWORD, allow_plain_password=True)
    assert not chosen(allowed, policy(USER_NAME)).encrypts


def test_a_password_may_go_as_it_is_inside_a_channel_that_encrypts() -> None:
    choice = chosen(USER, policy(USER_NAME, NO_SECURITY.uri), channel=MODERN, mode="SignAndEncrypt")
    token, _ = make_token(choice, USER, server_certificate=b"", server_nonce=NONCE)
    assert (token.Password, token.EncryptionAlgorithm) == (PASSWORD.encode(), None)


def test_a_token_without_a_policy_has_the_channels() -> None:
    assert chosen(USER, policy(USER_NAME), channel=MODERN, mode="Sign").cipher is MODERN


def test_deprecated_and_unknown_ways_to_protect_a_password_are_refused_by_name() -> None:
    with pytest.raises(ConnectionRefused, match="protected by Basic128Rsa15, which is deprecated"):
        chosen(USER, policy(USER_NAME, OLD.uri))
    assert chosen(USER, policy(USER_NAME, OLD.uri), allow_deprecated=True).cipher is OLD
    with pytest.raises(ConnectionRefused, match="a policy that is not known: urn:rot13"):
        chosen(USER, policy(USER_NAME, "urn:rot13"))


@pytest.mark.parametrize("name", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"])
@pytest.mark.parametrize("password", [PASSWORD, "", "long " * 100], ids=["short", "empty", "long"])
def test_the_server_can_read_what_was_encrypted_for_it(name: str, password: str) -> None:
    credentials = Credentials(username="operator", password=password)
    choice = TokenChoice(policy(USER_NAME), BY_NAME[name])
    token, _ = make_token(choice, credentials, server_certificate=der(server()), server_nonce=NONCE)
    secret: Any = token.Password
    decrypt = (
        uacrypto.decrypt_rsa_oaep_sha256 if name == "Aes256_Sha256_RsaPss" else uacrypto.decrypt_rsa_oaep
    )
    blocks = [secret[start : start + 256] for start in range(0, len(secret), 256)]
    plain = b"".join(decrypt(key(), block) for block in blocks)  # type: ignore[no-untyped-call]
    assert plain == struct.pack("<i", len(password) + 32) + password.encode() + NONCE
    assert token.EncryptionAlgorithm == BY_NAME[name].encryption_uri


def test_a_password_is_not_sent_to_a_server_without_a_certificate_to_encrypt_it_for() -> None:
    choice = TokenChoice(policy(USER_NAME), MODERN)
    with pytest.raises(ConnectionRefused, match="the server has no certificate to encrypt it for"):
        make_token(choice, USER, server_certificate=b"", server_nonce=NONCE)
    with pytest.raises(ConnectionRefused, match="cannot be encrypted for the server's certificate"):
        make_token(choice, USER, server_certificate=b"nonsense", server_nonce=NONCE)


def test_a_user_certificate_signs_the_servers_certificate_and_nonce() -> None:
    credentials = user_certificate()
    choice = chosen(credentials, policy(ANONYMOUS), policy(CERTIFICATE), channel=STRONG, mode="Sign")
    token, signature = make_token(choice, credentials, server_certificate=b"leaf", server_nonce=NONCE)
    certificate = uacrypto.x509_from_der(token.CertificateData)  # type: ignore[no-untyped-call]
    signed: Any = signature.Signature
    uacrypto.verify_pss_sha256(certificate, b"leaf" + NONCE, signed)  # type: ignore[no-untyped-call]
    assert signature.Algorithm == STRONG.signature_uri


def test_a_user_certificate_is_preferred_and_a_user_name_stands_in_for_it() -> None:
    both = user_certificate(username="operator", password=PASSWORD)
    names = policy(USER_NAME, MODERN.uri)
    assert chosen(both, names, policy(CERTIFICATE, MODERN.uri)).token.kind == CERTIFICATE
    assert chosen(both, names).token.kind == USER_NAME


def test_a_signature_that_nobody_could_check_is_not_made() -> None:
    with pytest.raises(ConnectionRefused, match="does not say how the user certificate's signature is made"):
        chosen(user_certificate(), policy(CERTIFICATE))


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (user_certificate(key("other")), "does not belong to the user certificate"),
        (user_certificate(ec.generate_private_key(ec.SECP256R1())), "is not an RSA key"),
        (
            Credentials(certificate_pem="nonsense", private_key_pem="nonsense"),
            "the user certificate is not PEM",
        ),
        (Credentials(certificate_pem=user_certificate().certificate_pem), "private key is not PEM"),
    ],
    ids=["another key", "elliptic", "no certificate", "no key"],
)
def test_a_user_certificate_that_cannot_be_used_is_refused_by_name(
    credentials: Credentials, words: str
) -> None:
    with pytest.raises(ConnectionRefused, match=words):
        make_token(
            TokenChoice(policy(CERTIFICATE), MODERN), credentials, server_certificate=b"", server_nonce=NONCE
        )


def test_no_secret_is_in_a_repr() -> None:
    secret = user_certificate(username="operator", password=PASSWORD)
    assert PASSWORD not in repr(secret)
    assert "PRIVATE" not in repr(secret)
