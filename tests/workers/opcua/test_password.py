"""A user name with a password, over a channel that does not encrypt: only if the server takes it encrypted."""

from __future__ import annotations

from collections.abc import Iterator
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
from cryptography.hazmat.primitives.serialization import Encoding

from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import Tenant, connection, until

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
        certificate = generate_self_signed_app_certificate(key, "plant", {"commonName": "plant"}, [], [])
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


async def test_a_password_is_sent_encrypted(locked_plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(locked_plant.endpoint, "ns=1;s=pressure", username=USER, password=PASSWORD))
    await until(lambda: len(tenant.ring) == 1)
    assert tenant.sink.connected


async def test_a_wrong_password_is_refused_by_name(locked_plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(locked_plant.endpoint, "ns=1;s=pressure", username=USER, password="wrong"))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error.startswith("session not activated: BadUserAccessDenied (")


async def test_a_server_that_wants_a_user_name_says_so(locked_plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(locked_plant.endpoint, "ns=1;s=pressure"))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error == "the server does not accept anonymous users; it accepts: user name"


async def test_a_password_is_not_sent_in_clear(plant: Plant, tenant: Tenant) -> None:
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure", username=USER, password=PASSWORD))
    await until(lambda: bool(tenant.sink.reports))
    assert tenant.sink.error.startswith("the password is not sent: ")
    assert PASSWORD not in tenant.sink.error
