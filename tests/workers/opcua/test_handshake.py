"""What a server has to prove before it gets to know who we are."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua

from engine.errors import ConnectionRefused
from tests.workers.opcua.made_certificates import authority, der, key, server
from tests.workers.opcua.test_endpoints import offered
from workers.opcua.security.endpoints import Endpoint
from workers.opcua.security.handshake import SessionTicket, _check_not_weakened, _check_proof
from workers.opcua.security.policies import (
    BY_NAME,
    POLICIES,
    Credentials,
    OwnIdentity,
    SecurityWanted,
    ciphers_for,
)
from workers.opcua.security.tokens import ANONYMOUS, TokenPolicy

SERVER = server()
OWN = OwnIdentity(server(name="own", own_key=key("own")), key("own"))
NONCE = bytes(range(32))
SIGNED = der(OWN.certificate) + NONCE
AUTO = SecurityWanted("Auto", "Auto")
SECURED = [policy.name for policy in POLICIES if policy.rank]


def proof(name: str, **changes: Any) -> None:
    """Check an answer of CreateSession; `changes` are what is wrong with it."""
    policy = BY_NAME[name]
    values: dict[str, Any] = {
        "certificate": der(SERVER),
        "nonce": bytes(32),
        "signature": policy.sign(key(), SIGNED),
    } | changes
    answer = ua.CreateSessionResult(
        ServerCertificate=values["certificate"],
        ServerSignature=ua.SignatureData(Algorithm=policy.signature_uri, Signature=values["signature"]),
    )
    endpoint = offered("Sign", name, certificate=der(SERVER, authority().certificate))
    _check_proof(ciphers_for(policy, "Sign", SERVER, OWN), answer, endpoint, values["nonce"], SIGNED)


@pytest.mark.parametrize("name", SECURED)
def test_a_server_with_the_right_key_passes(name: str) -> None:
    proof(name)
    # With its chain behind it, as some send it.
    proof(name, certificate=der(SERVER, authority().certificate))


@pytest.mark.parametrize("name", SECURED)
def test_a_server_without_the_key_of_its_certificate_is_refused(name: str) -> None:
    for signature in (
        BY_NAME[name].sign(key("thief"), SIGNED),
        BY_NAME[name].sign(key(), SIGNED[:-1]),
        b"",
        None,
    ):
        with pytest.raises(ConnectionRefused, match="did not prove that it has the key"):
            proof(name, signature=signature)


def test_a_session_with_another_certificate_than_the_channel_is_refused() -> None:
    for certificate in (der(server()), b"", None):
        with pytest.raises(ConnectionRefused, match="not the one that the channel was opened with"):
            proof("Basic256Sha256", certificate=certificate)


def test_a_nonce_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ConnectionRefused, match="the server's nonce has 8 bytes"):
        proof("Basic256Sha256", nonce=bytes(8))


STRONG = offered("SignAndEncrypt", "Aes256_Sha256_RsaPss")
MIDDLE = offered("Sign", "Basic256Sha256")


def weakened(inside: list[Endpoint], used: Endpoint, wanted: SecurityWanted = AUTO) -> None:
    _check_not_weakened(inside, used, wanted, Credentials())


def test_endpoints_that_were_taken_out_on_the_way_are_noticed() -> None:
    with pytest.raises(ConnectionRefused, match=r"offers SignAndEncrypt/Aes256.* it was changed on the way"):
        # Servers leave out the certificates here.
        weakened([offered("SignAndEncrypt", "Aes256_Sha256_RsaPss", certificate=b""), MIDDLE], MIDDLE)


def test_what_was_not_weakened_passes() -> None:
    weakened([STRONG, MIDDLE], STRONG)
    weakened([STRONG, MIDDLE], MIDDLE, SecurityWanted("Sign", "Basic256Sha256"))
    weakened([], MIDDLE)
    nobody = offered("SignAndEncrypt", "Aes256_Sha256_RsaPss", tokens=())
    _check_not_weakened([nobody], MIDDLE, AUTO, Credentials(username="operator", password="x"))


def test_a_ticket_does_not_show_what_would_let_others_take_the_session() -> None:
    ticket = SessionTicket(
        endpoint=MIDDLE,
        token=TokenPolicy("a", ANONYMOUS, ""),
        timeout_ms=1.0,
        authentication_token=ua.NodeId(ua.Int32(4_711)),
        server_nonce=b"secret nonce",
    )
    assert "4711" not in repr(ticket)
    assert "secret" not in repr(ticket)
