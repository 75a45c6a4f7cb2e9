"""A connect's look at the certificates on disk: our own to show, and whether the server's may be used.

Joins pki.py (files) and trust.py (judgement); both are blocking, so they run in a thread. What is refused is kept among
the rejected ones, and the error says how a person accepts it.
"""

from __future__ import annotations

import asyncio
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from engine.errors import ConnectionRefused
from workers.opcua.security.certificates import thumbprint
from workers.opcua.security.trust import (
    CertificateRefused,
    Purpose,
    Trusted,
    check_own,
    check_server,
    expires_soon,
)

if TYPE_CHECKING:
    from engine.settings import OpcuaSettings
    from workers.opcua.security.endpoints import Endpoint
    from workers.opcua.security.pki import Pki
    from workers.opcua.security.policies import OwnIdentity, Policy

log = structlog.get_logger(__name__)


async def own_identity(pki: Pki | None, settings: OpcuaSettings) -> OwnIdentity:
    """Return our certificate and key, made now if there are none. Raises ConnectionRefused, saying what to do."""
    if pki is None:
        raise ConnectionRefused("there is no folder for our own certificate")
    own = await asyncio.to_thread(pki.own_identity, settings.application_uri)
    check_own(own.certificate, settings.application_uri, pki.certificate_file)
    for remark in expires_soon(own.certificate, datetime.now(UTC), "our own certificate"):
        log.warning(remark, file=str(pki.certificate_file))
    return own


def let_trust_us(pki: Pki | None, own: OwnIdentity) -> str:
    """Return what to add to the error of a server that may not know our certificate: most give no reason."""
    file = pki.certificate_file if pki is not None else "our certificate"
    return f"; if the server does not know us yet, let it trust {file} (thumbprint {thumbprint(own.certificate)})"


async def trusted_certificate(
    pki: Pki | None, endpoint: Endpoint, policy: Policy, *, host: str, name: str
) -> Trusted:
    """Return an endpoint's certificate if it may be used with a policy; `host` is as the user gave it.

    `name` is the connection's, for the command that an error advises. Raises CertificateRefused, and
    ConnectionRefused when there is nothing to check, or nothing to check it by.
    """
    if pki is None:
        raise ConnectionRefused("no certificate is trusted here: there is no folder for trust lists")
    purpose = Purpose(
        host=host, application_uri=endpoint.application_uri, policy=policy, now=datetime.now(UTC)
    )
    lists = await asyncio.to_thread(pki.trust_lists)
    try:
        trusted = check_server(endpoint.certificate, lists, purpose)
    except CertificateRefused as exc:
        advice = ""
        if exc.curable:
            which = shlex.quote(name) if name else f"--thumbprint {thumbprint(exc.certificate)[:12]}"
            advice = f"; if it is the right one: scada-engine connection trust {which}"
        advice += await asyncio.to_thread(_keep, pki, endpoint.certificate)
        raise CertificateRefused(exc.certificate, exc.reasons, curable=exc.curable, advice=advice) from exc
    for remark in expires_soon(trusted.certificate, purpose.now, "the server's certificate"):
        log.warning(remark, thumbprint=thumbprint(trusted.certificate))
    return trusted


def _keep(pki: Pki, chain: bytes) -> str:
    """Put a certificate among the rejected ones; return what to add to the error when that is not possible."""
    try:
        pki.reject(chain)
    except OSError as exc:
        return f" (it cannot be kept in {pki.rejected}: {exc.strerror})"
    return ""
