"""Tries an address step by step, as a connect would, and says what came of each: for people who set up a connection.

    TCP -> endpoints -> certificate -> session -> server

Owns the steps and their words. Connects by the same Channel as the engine; nothing is subscribed or written.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds

from engine.errors import ConnectionRefused, ScadaError
from workers.opcua.channel import Channel, with_port
from workers.opcua.redundancy import HEALTHY_LEAST, level_name, read_redundancy
from workers.opcua.security.certificates import describe, leaf_of, read_chain
from workers.opcua.security.endpoints import choose, listed
from workers.opcua.security.policies import AUTO, NONE
from workers.opcua.security.tokens import ANONYMOUS, CERTIFICATE, USER_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cryptography import x509

    from workers.opcua.security.endpoints import Endpoint
    from workers.opcua.security.policies import Credentials, SecurityWanted

_CLOSE_S = 5.0
# ServerStatus.State, CurrentTime; BuildInfo: product, manufacturer, version, build (OPC 10000-5, 12.10).
_STATE, _TIME, _PRODUCT, _MAKER, _VERSION, _BUILD = 2259, 2258, 2261, 2263, 2264, 2265
_READ = (_STATE, _TIME, _PRODUCT, _MAKER, _VERSION, _BUILD)
_AS = {ANONYMOUS: "anonymously", USER_NAME: "with a user name", CERTIFICATE: "with a user certificate"}
# A clock that is further away than this makes timestamps useless.
_CLOCK_MOST_S = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried. `error` is None when it worked; `remarks` are odd, and no obstacle."""

    name: str
    text: str
    error: ScadaError | None = None
    remarks: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for programs."""
    endpoints: tuple[Endpoint, ...] = ()
    chosen: Endpoint | None = None


async def probe(
    channel: Channel, address: str, wanted: SecurityWanted, credentials: Credentials, timeout_s: float
) -> AsyncIterator[Step]:
    """Yield each step as it is done; the first that fails is the last. `channel` is used up by it."""
    try:
        yield await _tcp(address, timeout_s)
        step = await _endpoints(channel, wanted, credentials)
        yield step
        if step.chosen is not None and step.chosen.mode != NONE:
            yield await _certificate(channel, step.chosen)
        try:
            yield await _session(channel)
            yield await _server(channel)
        finally:
            await channel.close(_CLOSE_S)
    except _Failed as failed:
        yield failed.step


class _Failed(Exception):
    def __init__(self, step: Step) -> None:
        super().__init__(step.name)
        self.step = step


def _fail(name: str, error: ScadaError, **more: Any) -> _Failed:
    return _Failed(Step(name, str(error), error=error, **more))


async def _tcp(address: str, timeout_s: float) -> Step:
    parts = urlsplit(with_port(address))
    started_s = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except TimeoutError as exc:
        error = ConnectionRefused(f"no answer within {timeout_s:g} s: wrong address, or a firewall")
        raise _fail("TCP", error) from exc
    except OSError as exc:
        unknown = isinstance(exc, socket.gaierror) or not exc.errno
        said = "the host name is not known" if unknown else os.strerror(exc.errno or 0).lower()
        raise _fail("TCP", ConnectionRefused(f"{said} ({parts.hostname}:{parts.port})")) from exc
    peer = writer.get_extra_info("peername") or ("?", 0)
    writer.transport.abort()
    took_ms = round((time.monotonic() - started_s) * 1_000, 1)
    facts = {"address": f"{peer[0]}:{peer[1]}", "ms": took_ms}
    return Step("TCP", f"connected to {facts['address']} in {took_ms:g} ms", facts=facts)


async def _endpoints(channel: Channel, wanted: SecurityWanted, credentials: Credentials) -> Step:
    try:
        offered = await channel.discover()
    except ScadaError as exc:
        if wanted.nothing:
            # Nothing has to be chosen, and an old server may not answer this.
            return Step("endpoints", "not read, and not needed without security", remarks=(str(exc),))
        raise _fail("endpoints", exc) from exc
    facts: dict[str, Any] = {"offered": [_endpoint_facts(endpoint) for endpoint in offered]}
    try:
        chosen = choose(offered, wanted, credentials)
    except ScadaError as exc:
        raise _fail("endpoints", exc, endpoints=tuple(offered), facts=facts) from exc
    facts |= {"chosen": _endpoint_facts(chosen), "why": _why(offered, chosen, wanted)}
    return Step(
        "endpoints",
        f"{len(offered)} offered; {facts['why']}",
        remarks=_remarks_on(offered, chosen, wanted),
        facts=facts,
        endpoints=tuple(offered),
        chosen=chosen,
    )


def _endpoint_facts(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "url": endpoint.url,
        "security_mode": endpoint.mode,
        "security_policy": endpoint.policy_name,
        "users": list(dict.fromkeys(token.kind for token in endpoint.tokens)),
        "security_level": endpoint.security_level,
    }


def _why(offered: Sequence[Endpoint], chosen: Endpoint, wanted: SecurityWanted) -> str:
    name = f"{chosen.mode}/{chosen.policy_name}" if chosen.mode != NONE else "no security"
    if AUTO not in (wanted.mode, wanted.policy):
        return f"{name} is taken, as configured"
    stronger = [endpoint for endpoint in offered if endpoint.strength > chosen.strength]
    if not stronger:
        return f"{name} is taken, the strongest of them"
    return f"{name} is taken, the strongest that fits (not {listed(stronger)})"


def _remarks_on(offered: Sequence[Endpoint], chosen: Endpoint, wanted: SecurityWanted) -> tuple[str, ...]:
    if chosen.mode == NONE and any(endpoint.mode != NONE for endpoint in offered):
        return (
            "the server offers security, and it is not used: anybody on the way can read and change values",
        )
    if chosen.mode == NONE and AUTO in (wanted.mode, wanted.policy):
        return ("anybody on the way can read and change values; the server offers nothing better",)
    if chosen.policy is not None and chosen.policy.deprecated:
        return (f"{chosen.policy.name} is deprecated: it rests on SHA-1",)
    return ()


async def _certificate(channel: Channel, endpoint: Endpoint) -> Step:
    try:
        trusted = await channel.trusted(endpoint)
    except ScadaError as exc:
        raise _fail("certificate", exc, facts=certificate_facts_of(endpoint.certificate)) from exc
    how = "trusted itself" if trusted.pinned else "trusted by its issuer"
    return Step(
        "certificate",
        f"{how}: {describe(trusted.certificate)}",
        remarks=trusted.remarks,
        facts=certificate_facts(trusted.certificate) | {"pinned": trusted.pinned},
    )


def certificate_facts_of(chain: bytes) -> dict[str, Any]:
    """Return what programs need to know of the first certificate of a chain in DER; empty when it is none."""
    try:
        return certificate_facts(read_chain(leaf_of(chain))[0])
    except ValueError:
        return {}


def certificate_facts(certificate: x509.Certificate) -> dict[str, Any]:
    """Return what programs need to know of a certificate."""
    facts = describe(certificate)
    return {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "thumbprint": facts.thumbprint,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "application_uri": facts.application_uri,
        "hosts": list(facts.host_names),
        "key_bits": facts.key_bits,
    }


async def _session(channel: Channel) -> Step:
    started_s = time.monotonic()
    try:
        await channel.open()
    except ScadaError as exc:
        raise _fail("session", exc) from exc
    took_s = time.monotonic() - started_s
    chosen = channel.chosen
    security = "without security" if chosen.mode == NONE else f"{chosen.mode}/{chosen.policy}"
    return Step(
        "session",
        f"open {_AS[chosen.token]}, {security}, in {took_s:.2f} s; timeout {channel.session_timeout_s:g} s",
        facts={
            "url": chosen.url,
            "security_mode": chosen.mode,
            "security_policy": chosen.policy,
            "user": chosen.token,
            "s": round(took_s, 3),
            "timeout_s": channel.session_timeout_s,
        },
    )


async def _server(channel: Channel) -> Step:
    try:
        with channel.translated("server status not read"):
            read = await channel.session.read_attributes(
                [ua.NodeId(ua.Int32(number)) for number in _READ], AttributeIds.Value
            )
            values = {number: one.Value.Value for number, one in zip(_READ, read, strict=True) if one.Value}
        redundancy = await read_redundancy(channel)
    except ScadaError as exc:
        raise _fail("server", exc) from exc
    state = _state(values.get(_STATE))
    said = [str(values[number]) for number in (_MAKER, _PRODUCT, _VERSION) if values.get(number)]
    facts: dict[str, Any] = {
        "product": values.get(_PRODUCT),
        "manufacturer": values.get(_MAKER),
        "version": values.get(_VERSION),
        "build": values.get(_BUILD),
        "state": state,
        "service_level": redundancy.service_level,
        "redundancy": redundancy.support,
        "partners": list(redundancy.server_uris),
    }
    remarks = [] if state == "Running" else [f"the server's state is {state}, not Running"]
    if redundancy.service_level < HEALTHY_LEAST:
        remarks.append(
            f"its service level is {redundancy.service_level} ({level_name(redundancy.service_level)})"
        )
    if redundancy.server_uris:
        remarks.append(
            f"it has partners ({redundancy.support} redundancy): {', '.join(redundancy.server_uris)};"
            " give their addresses as failover URLs"
        )
    clock = values.get(_TIME)
    if isinstance(clock, datetime):
        ahead_s = (clock.replace(tzinfo=clock.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        facts |= {"time": clock.isoformat(), "clock_ahead_s": round(ahead_s, 1)}
        if abs(ahead_s) > _CLOCK_MOST_S:
            remarks.append(
                f"its clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
            )
    text = f"{' '.join(said) or 'it does not say what it is'}; state {state}"
    return Step("server", text, remarks=tuple(remarks), facts=facts)


def _state(value: object) -> str:
    try:
        return ua.ServerState(value).name if isinstance(value, int) else "not known"
    except ValueError:
        return f"{value}"
