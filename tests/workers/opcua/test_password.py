"""A user name with a password, over a channel that does not encrypt: only if the server takes it encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from asyncua import ua
from asyncua.crypto.cert_gen import (
    dump_private_key_as_pem,
    generate_private_key,
    generate_self_signed_app_certificate,
)
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.server import Server
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from engine.errors import ConnectionRefused
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import FAST, Tenant, connection, until
from workers.opcua.channel import Channel, ChosenEndpoint
from workers.opcua.security.pki import Pki
from workers.opcua.security.policies import Credentials
from workers.opcua.security.trust import CertificateRefused

USER, PASSWORD = "operator", "secret-42"


class _Gatekeeper:
    def get_user(
        self, _server: Any, username: str | None = None, password: str | None = None, **_: Any
    ) -> User | None:
        return User(UserRole.User) if (username, password) == (USER, PASSWORD) else None


class LockedPlant(Plant):
    """A plant that wants a user name, encrypted for its certificate."""

    def _make(self) -> Server:
        return Server(user_manager=cast(Any, _Gatekeeper()))

    async def _secure(self, server: Server) -> None:
        key = generate_private_key()
        certificate = generate_self_signed_app_certificate(
            key,
            "plant",
            {"commonName": "plant"},
            [x509.UniformResourceIdentifier("urn:freeopcua:python:server")],
            [ExtendedKeyUsageOID.SERVER_AUTH],
        )
        await server.load_certificate(certificate.public_bytes(Encoding.PEM), "pem")
        await server.load_private_key(dump_private_key_as_pem(key), format="pem")
        server.set_security_policy(
            [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        )
        server.set_identity_tokens([ua.UserNameIdentityToken])


@pytest.fixture(scope="module")
def one_locked_plant() -> Iterator[Plant]:
    """The server of this module."""
    plant = LockedPlant()
    yield plant
    plant.close()


@pytest.fixture
async def locked_plant(one_locked_plant: Plant) -> Plant:
    """A running server that wants a user name."""
    await one_locked_plant.start()
    return one_locked_plant


def channel(plant: Plant, pki: Pki | None = None, **credentials: Any) -> Channel:
    return Channel(plant.endpoint, FAST, credentials=Credentials(**credentials), pki=pki, name="plant")


async def opened(one: Channel) -> ChosenEndpoint:
    try:
        await one.open()
        return one.chosen
    finally:
        await one.close(1.0)


async def test_a_password_is_sent_encrypted_for_a_trusted_certificate(
    locked_plant: Plant, tmp_path: Path
) -> None:
    pki = Pki(tmp_path, "test")
    with pytest.raises(CertificateRefused, match="scada-engine connection trust plant") as refused:
        await opened(channel(locked_plant, pki, username=USER, password=PASSWORD))
    pki.trust(refused.value.certificate)
    chosen = await opened(channel(locked_plant, pki, username=USER, password=PASSWORD))
    assert (chosen.mode, chosen.policy, chosen.token) == ("None", "None", "user name")


async def test_a_password_is_not_encrypted_for_a_certificate_that_nobody_can_check(
    locked_plant: Plant,
) -> None:
    with pytest.raises(ConnectionRefused, match="no certificate is trusted here"):
        await opened(channel(locked_plant, username=USER, password=PASSWORD))


async def test_a_wrong_password_is_refused_by_name(locked_plant: Plant, tmp_path: Path) -> None:
    pki = Pki(tmp_path, "test")
    with pytest.raises(CertificateRefused) as refused:
        await opened(channel(locked_plant, pki, username=USER, password="wrong"))
    pki.trust(refused.value.certificate)
    with pytest.raises(ConnectionRefused, match=r"session not activated: BadUserAccessDenied \("):
        await opened(channel(locked_plant, pki, username=USER, password="wrong"))


async def test_a_server_that_wants_a_user_name_says_so(locked_plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(locked_plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error == "the server does not accept anonymous users; it accepts: user name"


async def test_a_password_is_not_sent_in_clear(plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure", username=USER, password=PASSWORD))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error.startswith("the password is not sent: ")
    assert PASSWORD not in tenant.sink.error


async def test_a_password_is_sent_in_clear_where_a_flag_says_so(plant: Plant) -> None:
    one = channel(plant, username=USER, password=PASSWORD, allow_plain_password=True)
    # asyncua's server takes any user name when nobody manages its users.
    assert (await opened(one)).token == "user name"
