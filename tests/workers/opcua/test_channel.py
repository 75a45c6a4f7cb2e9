"""A channel's life against each maker's server: resumed elsewhere after a cut, and kept alive by new keys."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from cryptography import x509

from engine._fastpath import Publish, Ring, decode_publish
from engine.errors import ConnectionRefused
from engine.outcomes import Outcome
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.identities import Identity
from tests.servers.opcua_fixtures import PASSWORD, USER
from tests.servers.opcua_server import Maker, OpcuaServer
from tests.servers.running_server import running_server
from tests.servers.server_options import ServerOptions
from tests.workers.opcua.tenant import FAST
from workers.opcua.channel import Channel
from workers.opcua.seam import RawClient, body_of
from workers.opcua.security.certificates import thumbprint
from workers.opcua.security.pki import Pki
from workers.opcua.security.policies import Credentials, SecurityWanted

SETTINGS = replace(FAST, request_timeout_s=5.0)
MODES = ("None", "Sign", "SignAndEncrypt")
TAG = "ns=1;s=tag.0"


@pytest.fixture
def trusting(pki_folder: Path, server_identity: Identity) -> Pki:
    """A tenant that trusts the secured servers."""
    pki = Pki(pki_folder, f"t{secrets.token_hex(4)}")
    pki.trust(x509.load_der_x509_certificate(server_identity.der))
    return pki


@pytest.fixture
async def gate(secured_server: OpcuaServer) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of the secured server."""
    port = urlsplit(secured_server.endpoint).port
    assert port is not None
    proxy = await CuttingProxy.start("127.0.0.1", port)
    yield proxy
    await proxy.stop()


def channel(gate: CuttingProxy, pki: Pki, mode: str, **credentials: Any) -> Channel:
    return Channel(
        f"opc.tcp://127.0.0.1:{gate.port}",
        SETTINGS,
        credentials=Credentials(**credentials),
        security=SecurityWanted(mode, "None" if mode == "None" else "Auto"),
        pki=pki,
    )


async def subscribe(one: Channel) -> int:
    with one.translated("no subscription"):
        made = await one.session.create_subscription(
            ua.CreateSubscriptionParameters(
                RequestedPublishingInterval=50.0, RequestedLifetimeCount=3_000, RequestedMaxKeepAliveCount=10
            ),
            lambda _result: None,
        )
        item = ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=ua.NodeId.from_string(TAG), AttributeId=AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(ClientHandle=0, SamplingInterval=20.0, QueueSize=100),
        )
        await one.session.create_monitored_items(
            ua.CreateMonitoredItemsParameters(
                SubscriptionId=made.SubscriptionId,
                TimestampsToReturn=ua.TimestampsToReturn.Both,
                ItemsToCreate=[item],
            )
        )
    return int(made.SubscriptionId)


async def values(one: Channel, ring: Ring, *, at_least: int) -> list[Publish]:
    """Publish until the ring has that many rows more."""
    wanted = len(ring) + at_least
    slots = np.zeros(1, np.uint32)
    said = []
    async with asyncio.timeout(10.0):
        while len(ring) < wanted:
            # Requests of the lost channel may be answered here, as servers keep them for the session.
            answer = decode_publish(body_of(await one.publish([])), ring, slots, 0)
            if answer.outcome != Outcome.FAULT:
                said.append(answer)
    return said


@pytest.mark.parametrize("mode", MODES)
async def test_a_cut_session_is_resumed_with_its_subscription(
    gate: CuttingProxy, trusting: Pki, mode: str
) -> None:
    ring = Ring(10_000)
    first = channel(gate, trusting, mode, username=USER, password=PASSWORD)
    await first.open()
    subscription_id = await subscribe(first)
    await values(first, ring, at_least=2)
    ticket = first.ticket
    lost = first
    for _ in range(2):
        gate.cut()
        await asyncio.wait_for(lost.protocol.closed.wait(), 5.0)
        assert lost.lost
        again = channel(gate, trusting, mode, username=USER, password=PASSWORD)
        await again.resume(ticket)
        assert again.chosen.mode == mode
        said = await values(again, ring, at_least=2)
        assert {answer.subscription_id for answer in said} == {subscription_id}
        await again.touch([subscription_id])
        ticket = again.ticket
        await lost.close(1.0)
        lost = again
    await lost.close(2.0)
    drained = ring.drain(10_000).value
    # A counter that went on. node-opcua sends again what it could not deliver: telling that is the pump's part.
    assert drained[-1] > drained[0]


@pytest.mark.parametrize("mode", ["None", "SignAndEncrypt"])
async def test_a_session_that_was_closed_cannot_be_resumed(
    gate: CuttingProxy, trusting: Pki, mode: str
) -> None:
    first = channel(gate, trusting, mode)
    await first.open()
    ticket = first.ticket
    await first.close(2.0)
    again = channel(gate, trusting, mode)
    try:
        with pytest.raises(ConnectionRefused, match="session not activated: Bad"):
            await again.resume(ticket)
        with pytest.raises(ConnectionRefused, match="there is no session"):
            assert again.ticket
    finally:
        await again.close(1.0)


class _ShortLived(Channel):
    """A channel whose keys the server is asked to keep for two seconds only."""

    def _new_client(self, url: str) -> RawClient:
        client = super()._new_client(url)
        client.secure_channel_timeout = 2_000
        return client


@pytest.mark.parametrize("mode", MODES)
async def test_values_flow_while_the_keys_are_renewed(gate: CuttingProxy, trusting: Pki, mode: str) -> None:
    one = _ShortLived(
        f"opc.tcp://127.0.0.1:{gate.port}",
        SETTINGS,
        security=SecurityWanted(mode, "None" if mode == "None" else "Auto"),
        pki=trusting,
    )
    ring = Ring(10_000)
    await one.open()
    renewing = asyncio.create_task(one.renew())
    try:
        await subscribe(one)
        tokens: set[int] = set()
        async with asyncio.timeout(20.0):
            while len(tokens) < 4:
                await values(one, ring, at_least=1)
                tokens.add(one.protocol._connection.security_token.TokenId)
        assert not one.lost
        drained = list(ring.drain(10_000).value)
        assert drained == sorted(set(drained))
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])
        await one.close(2.0)
    assert renewing.cancelled()


async def test_what_the_user_gave_is_the_address_whatever_the_endpoints_say(
    gate: CuttingProxy, trusting: Pki
) -> None:
    one = channel(gate, trusting, "SignAndEncrypt")
    try:
        await one.open()
        offered = await one.discover()
        assert urlsplit(one.chosen.url).port == gate.port
        assert one.chosen.policy == "Aes256_Sha256_RsaPss"
        assert len({(endpoint.mode, endpoint.policy_uri) for endpoint in offered}) >= 7
    finally:
        await one.close(1.0)


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_a_server_that_does_not_know_us_is_told_which_certificate_to_trust(
    maker: Maker, server_identity: Identity, user_identity: Identity, trusting: Pki
) -> None:
    options = ServerOptions(identity=server_identity, trusted_client=user_identity)
    with running_server(maker, options) as server:
        wanted = SecurityWanted("SignAndEncrypt", "Basic256Sha256")
        one = Channel(server.endpoint, SETTINGS, security=wanted, pki=trusting)
        try:
            with pytest.raises(ConnectionRefused) as refused:
                await one.open()
        finally:
            await one.close(1.0)
    own = trusting.own_identity(SETTINGS.application_uri).certificate
    assert "BadSecurityChecksFailed" in str(refused.value)
    assert str(refused.value).endswith(
        f"let it trust {trusting.certificate_file} (thumbprint {thumbprint(own)})"
    )
