"""Whether a server's certificate is trusted (OPC 10000-4, 6.1.3). Pure: what is trusted is handed in.

A certificate is trusted when it is in the trusted list itself (pinned), or when a chain of signatures leads from it to
one that is. Every certificate that counts has to be valid now and not revoked; the server's own one has to be made for
what it is used for, with a key that the security policy takes, and for the application that the server says it is.

What a pin replaces, as a person has accepted exactly this certificate:
- the host name: plants address servers by numbers, through gateways and under names that no certificate knows;
- the strength of the signature on the certificate: nobody relies on that signature;
- the rest of the chain, except that a revocation list of its issuer counts.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from engine.errors import ConnectionRefused
from workers.opcua.security.certificates import (
    CHAIN_MOST,
    alternative_names,
    describe,
    printable_name,
    read_chain,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workers.opcua.security.pki import TrustLists
    from workers.opcua.security.policies import Policy

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_WEAK_HASHES = (hashes.MD5, hashes.SHA1)
# Long enough to have a new one issued, and trusted everywhere, before the old one ends.
EXPIRES_SOON = datetime.timedelta(days=30)
_SERVER_USES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class CertificateRefused(ConnectionRefused):
    """A server's certificate is not trusted, or is not fit for use.

    `reasons` is for people. `curable` is true when trusting exactly this certificate would do.
    """

    def __init__(
        self, certificate: x509.Certificate, reasons: Sequence[str], *, curable: bool, advice: str = ""
    ) -> None:
        super().__init__(
            f"the server's certificate is refused: {'; '.join(reasons)} ({describe(certificate)}){advice}"
        )
        self.certificate = certificate
        self.reasons = tuple(reasons)
        self.curable = curable


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a server's certificate is to be used for."""

    host: str
    """As the user gave it: a name or an address."""
    application_uri: str
    """As the server says it; empty where it does not, which leaves nothing to compare."""
    policy: Policy
    now: datetime.datetime


@dataclass(frozen=True, slots=True)
class Trusted:
    """A certificate that may be used, and what is odd about it all the same."""

    certificate: x509.Certificate
    pinned: bool
    remarks: tuple[str, ...]


def check_server(blob: bytes, lists: TrustLists, purpose: Purpose) -> Trusted:
    """Return the first certificate of a chain in DER if it is trusted for a purpose.

    Raises CertificateRefused with every reason, and ConnectionRefused when it is no certificate.
    """
    if not blob:
        raise ConnectionRefused("the server has no certificate")
    try:
        leaf, *sent = read_chain(blob)
        return _check(leaf, sent, lists, purpose)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConnectionRefused(f"the server's certificate cannot be read: {exc}") from exc


def _check(
    leaf: x509.Certificate, sent: Sequence[x509.Certificate], lists: TrustLists, purpose: Purpose
) -> Trusted:
    pinned = leaf in lists.trusted
    chain = _chain(leaf, [*lists.trusted, *lists.issuers, *sent], lists)
    faults = [*_faults_of_leaf(leaf, purpose), *_faults_of_time(leaf, purpose.now, "it")]
    faults += _faults_of_revocation(chain[:2] if pinned else chain, lists)
    # What a pin replaces.
    replaced = _faults_of_names(leaf, purpose)
    if not pinned:
        replaced += _faults_of_signature(leaf, purpose.policy)
        for place, issuer in enumerate(chain[1:]):
            replaced += _faults_of_issuer(issuer, purpose.now, below=place)
        if not any(certificate in lists.trusted for certificate in chain):
            replaced.insert(0, _why_unknown(leaf, chain))
    if faults or (replaced and not pinned):
        reasons = faults if pinned else [*faults, *replaced]
        raise CertificateRefused(leaf, reasons, curable=not faults)
    return Trusted(leaf, pinned, (*replaced, *expires_soon(leaf, purpose.now, "it")))


def check_own(certificate: x509.Certificate, application_uri: str, file: Path) -> None:
    """Refuse to use our own certificate where a server would refuse it. Raises ConnectionRefused with what to do.

    It is not replaced silently: servers have it in their trust lists, and a new one is unknown to all of them.
    """
    renew = f"remove {file} to have a new one made for the same key, and let the servers trust it"
    faults = _faults_of_time(certificate, datetime.datetime.now(datetime.UTC), "our own certificate")
    if faults:
        raise ConnectionRefused(f"{faults[0]}; {renew}")
    uris, _ = alternative_names(certificate)
    if application_uri not in uris:
        raise ConnectionRefused(
            f"our own certificate is for the application {_listed(uris)}, but opcua.application_uri is"
            f" {application_uri}; {renew}"
        )


def expires_soon(certificate: x509.Certificate, now: datetime.datetime, name: str) -> list[str]:
    """Return a remark on a certificate that has less than a month left."""
    if certificate.not_valid_after_utc - now > EXPIRES_SOON:
        return []
    return [f"{name} expires on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]


def _why_unknown(leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    top = chain[-1]
    if top is leaf and leaf.issuer == leaf.subject:
        return "it is not trusted"
    if top.issuer == top.subject:
        return f"neither it nor its issuer is trusted ({printable_name(top.subject)})"
    return f"neither it nor its issuer is trusted (the issuer is not known: {printable_name(top.issuer)})"


def _chain(
    leaf: x509.Certificate, candidates: Sequence[x509.Certificate], lists: TrustLists
) -> list[x509.Certificate]:
    """Return the leaf and its issuers up to the first that is trusted, or as far as they are known.

    Each candidate is looked at once, so a server cannot make us try all orders of what it sent.
    """
    chain = [leaf]
    seen = {leaf}
    while len(chain) <= CHAIN_MOST:
        below = chain[-1]
        if below.issuer == below.subject or (below is not leaf and below in lists.trusted):
            break
        issuer = next((one for one in candidates if one not in seen and _issued(one, below)), None)
        if issuer is None:
            break
        seen.add(issuer)
        chain.append(issuer)
    return chain


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _faults_of_time(certificate: x509.Certificate, now: datetime.datetime, name: str) -> list[str]:
    if now < certificate.not_valid_before_utc:
        return [f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"]
    if now > certificate.not_valid_after_utc:
        return [f"{name} has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]
    return []


def _faults_of_leaf(leaf: x509.Certificate, purpose: Purpose) -> list[str]:
    """Return what makes a certificate unfit for the security policy, or for a server."""
    faults = []
    policy, key = purpose.policy, leaf.public_key()
    if not isinstance(key, RSAPublicKey):
        faults.append(f"its key is not RSA, which {policy.name} needs")
    elif not policy.least_key_bits <= key.key_size <= policy.most_key_bits:
        faults.append(
            f"its key has {key.key_size} bits; {policy.name} takes {policy.least_key_bits} to {policy.most_key_bits}"
        )
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        faults.append("it may not be used for signatures (key usage)")
    if usage is not None and not (usage.key_encipherment or usage.data_encipherment):
        faults.append("it may not be used for encryption (key usage)")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and _SERVER_USES.isdisjoint(extended):
        faults.append("it may not be used by a server (extended key usage)")
    uris, _ = alternative_names(leaf)
    if purpose.application_uri and purpose.application_uri not in uris:
        faults.append(
            f"it is for the application {_listed(uris)}, but the server says it is {_shown(purpose.application_uri)}"
        )
    return faults


def _faults_of_names(leaf: x509.Certificate, purpose: Purpose) -> list[str]:
    _, hosts = alternative_names(leaf)
    wanted = _comparable(purpose.host)
    if wanted in {_comparable(host) for host in hosts}:
        return []
    return [f"it is for the host {_listed(hosts)}, not for {_shown(purpose.host)}"]


def _faults_of_signature(leaf: x509.Certificate, policy: Policy) -> list[str]:
    if not policy.deprecated and isinstance(leaf.signature_hash_algorithm, _WEAK_HASHES):
        return [f"it is signed with {leaf.signature_hash_algorithm.name.upper()}, which can be forged"]
    return []


def _faults_of_issuer(issuer: x509.Certificate, now: datetime.datetime, *, below: int) -> list[str]:
    """Return what makes a certificate unfit to issue others; `below` counts the issuers under it."""
    name = f"its issuer {printable_name(issuer.subject)}"
    faults = _faults_of_time(issuer, now, name)
    constraints = _extension(issuer, x509.BasicConstraints)
    usage = _extension(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        faults.append(f"{name} may not issue certificates")
    elif constraints.path_length is not None and constraints.path_length < below:
        faults.append(f"{name} may not have {below} issuers below it")
    return faults


def _faults_of_revocation(chain: Sequence[x509.Certificate], lists: TrustLists) -> list[str]:
    faults = []
    issuers = [*chain[1:], *chain[-1:]]
    for certificate, issuer in zip(chain, issuers, strict=True):
        for revocations in lists.revocations:
            if revocations.issuer != certificate.issuer or not _signed_by(revocations, issuer):
                continue
            entry = revocations.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                name = (
                    "it" if certificate is chain[0] else f"its issuer {printable_name(certificate.subject)}"
                )
                faults.append(f"{name} was revoked on {entry.revocation_date_utc:%Y-%m-%d} by its issuer")
    return faults


def _signed_by(revocations: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    try:
        return isinstance(key, RSAPublicKey) and revocations.is_signature_valid(key)
    except (ValueError, UnsupportedAlgorithm):
        return False


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _comparable(host: str) -> str:
    """Return a host in the one form in which two can be compared: numbers as numbers, names in lower case."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.lower().rstrip(".")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_shown(name) for name in names[:5]) or "of no name"


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
