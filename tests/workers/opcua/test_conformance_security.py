"""The conformance matrix's security: each maker's policies, modes and users, and a certificate nobody trusted yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.servers.identities import Identity, make_identity
from tests.servers.opcua_fixtures import PASSWORD, USER
from tests.servers.opcua_server import Maker, OpcuaServer
from tests.servers.running_server import running_server
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.cell import MODES, SETTINGS, Cell, security
from tests.workers.opcua.tenant import Tenant, until
from workers.opcua.security.pki import Pki

TAG = "ns=1;s=tag.0"
SECURE_MODES = ("Sign", "SignAndEncrypt")
POLICIES = ("Basic128Rsa15", "Basic256", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss")
DEPRECATED = POLICIES[:2]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one maker's server offers and checks."""

    missing_policies: tuple[str, ...] = ()
    checks_user_certificates: bool = True
    refuses_a_password: str = "BadUserAccessDenied"
    refuses_a_certificate: str = "BadIdentityTokenRejected"


EXPECTED: dict[Maker, Expected] = {
    # Any certificate whose key the client proves to have is a user.
    "asyncua": Expected(checks_user_certificates=False),
    "open62541": Expected(),
    # Newer versions of node do not decrypt PKCS #1 1.5.
    "node-opcua": Expected(missing_policies=("Basic128Rsa15",)),
}


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """A user certificate that no server knows."""
    return make_identity(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.mark.parametrize("mode", SECURE_MODES)
@pytest.mark.parametrize("policy", POLICIES)
async def test_each_policy_that_a_server_offers_carries_values(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, policy: str, mode: str
) -> None:
    cell = Cell.connect(
        tenant,
        secured_server,
        TAG,
        pki=trusting,
        security_mode=mode,
        security_policy=policy,
        allow_deprecated_policies=policy in DEPRECATED,
    )
    if policy in EXPECTED[secured_server.maker].missing_policies:
        await until(lambda: bool(tenant.sink.reports))
        assert tenant.sink.error.startswith(f"the server does not offer {mode}/{policy}; it offers None (")
        return
    await cell.until(lambda cell: cell.has(3))
    active = tenant.sink.reports[-1].active
    assert active is not None
    assert (active.mode, active.policy) == (mode, policy)


async def test_auto_takes_the_strongest_and_nothing_deprecated_unless_told(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki
) -> None:
    cell = Cell.connect(
        tenant, secured_server, TAG, pki=trusting, security_mode="Auto", security_policy="Auto"
    )
    await cell.until(lambda cell: cell.has(1))
    active = tenant.sink.reports[-1].active
    assert active is not None
    assert (active.mode, active.policy) == ("SignAndEncrypt", "Aes256_Sha256_RsaPss")


async def test_an_unknown_certificate_is_rejected_kept_and_accepted_once_trusted(
    secured_server: OpcuaServer, tenant: Tenant, pki: Pki, server_identity: Identity
) -> None:
    cell = Cell.connect(
        tenant, secured_server, TAG, pki=pki, security_mode="SignAndEncrypt", security_policy="Auto"
    )
    await until(lambda: bool(tenant.sink.reports))
    thumbprint = server_identity.thumbprint.upper()
    assert not tenant.sink.connected
    assert thumbprint in tenant.sink.error
    assert "connection trust" in tenant.sink.error
    assert [path.name for path in pki.rejected.iterdir()] == [f"{thumbprint}.der"]
    assert (pki.rejected / f"{thumbprint}.der").read_bytes() == server_identity.der
    # What `connection trust` does.
    pki.trust(pki.rejected_one(thumbprint[:12]))
    await cell.until(lambda cell: cell.has(3))
    assert tenant.sink.reports[-1].error is None
    assert not list(pki.rejected.iterdir())


@pytest.mark.parametrize("mode", MODES)
async def test_the_right_password_opens_and_a_wrong_one_is_named(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, mode: str
) -> None:
    known = {**security(mode), "username": USER, "pki": trusting}
    wrong = Cell.connect(tenant, secured_server, TAG, password="wrong-17", **known)
    await until(lambda: bool(tenant.sink.reports))
    assert EXPECTED[secured_server.maker].refuses_a_password in tenant.sink.error
    assert "wrong-17" not in tenant.sink.error
    assert not wrong.has(1)
    await wrong.stop()
    cell = Cell.connect(tenant, secured_server, TAG, password=PASSWORD, **known)
    await cell.until(lambda cell: cell.has(3))


@pytest.mark.parametrize("mode", MODES)
async def test_a_users_certificate_opens(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, user_identity: Identity, mode: str
) -> None:
    cell = Cell.connect(tenant, secured_server, TAG, pki=trusting, **security(mode), **_user(user_identity))
    await cell.until(lambda cell: cell.has(3))


@pytest.mark.parametrize("mode", MODES)
async def test_a_strangers_certificate_is_refused(
    secured_server: OpcuaServer, tenant: Tenant, trusting: Pki, stranger: Identity, mode: str
) -> None:
    cell = Cell.connect(tenant, secured_server, TAG, pki=trusting, **security(mode), **_user(stranger))
    expected = EXPECTED[secured_server.maker]
    if expected.checks_user_certificates:
        await until(lambda: bool(tenant.sink.reports))
        assert expected.refuses_a_certificate in tenant.sink.error
    else:
        await cell.until(lambda cell: cell.has(1))


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_a_server_that_does_not_trust_us_is_told_what_it_has_to_trust(
    tenant: Tenant, trusting: Pki, server_identity: Identity, stranger: Identity, maker: Maker
) -> None:
    options = ServerOptions(identity=server_identity, trusted_client=stranger)
    with running_server(maker, options) as server:
        Cell.connect(tenant, server, TAG, pki=trusting, **security("SignAndEncrypt"))
        await until(lambda: bool(tenant.sink.reports))
        assert not tenant.sink.connected
        assert str(trusting.certificate_file) in tenant.sink.error


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_a_server_that_trusts_us_alone_lets_us_in(
    tenant: Tenant, trusting: Pki, server_identity: Identity, maker: Maker
) -> None:
    uri = SETTINGS.application_uri
    trusting.own_identity(uri)
    ours = Identity(trusting.certificate_file, trusting.key_file, uri)
    options = ServerOptions(identity=server_identity, trusted_client=ours, only_secure=True)
    with running_server(maker, options) as server:
        cell = Cell.connect(tenant, server, TAG, pki=trusting, **security("Sign"))
        await cell.until(lambda cell: cell.has(3))


def _user(identity: Identity) -> dict[str, Any]:
    return {"user_certificate": identity.pem, "user_private_key": identity.private_key_pem}
