"""Certificates with whatever is wrong with them, made in memory for tests of trust. Keys are made once and shared."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
URI = "urn:plant:server"
HOST = "plc7.example"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def key(name: str = "server", bits: int = 2_048) -> rsa.RSAPrivateKey:
    """Return the key of that name."""
    del name
    return rsa.generate_private_key(65_537, bits)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(*, signs: bool = True, encrypts: bool = True, issues: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=encrypts,
        data_encipherment=encrypts,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates."""

    certificate: x509.Certificate
    key: Key


def server(
    *,
    name: str = "server",
    uri: str | None = URI,
    hosts: Iterable[str] = (HOST, "192.0.2.7"),
    begin: datetime = NOW - DAY,
    end: datetime = NOW + 300 * DAY,
    key_usage: x509.KeyUsage | None = None,
    extended: tuple[x509.ObjectIdentifier, ...] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
    own_key: Key | None = None,
    signed_by: Authority | None = None,
) -> x509.Certificate:
    """Return a server's certificate, self-signed unless an authority signs it."""
    own_key = own_key or key()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(signed_by.certificate.subject if signed_by else named(name))
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(key_usage or usage(), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    return builder.sign(signed_by.key if signed_by else own_key, hashes.SHA256())


def authority(
    name: str = "authority",
    *,
    signed_by: Authority | None = None,
    ca: bool = True,
    path_length: int | None = None,
    end: datetime = NOW + DAY,
    issues: bool = True,
) -> Authority:
    """Return a root authority, or one that another signed."""
    own = key(name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(signed_by.certificate.subject if signed_by else named(name))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(usage(issues=issues), critical=True)
        .sign(signed_by.key if signed_by else own, hashes.SHA256())
    )
    return Authority(certificate, own)


def revocations(by: Authority, *revoked: x509.Certificate) -> x509.CertificateRevocationList:
    """Return an authority's list of what it has revoked."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
    )
    for certificate in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(NOW - DAY)
            .build()
        )
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(by.key, hashes.SHA256())


def der(*certificates: x509.Certificate) -> bytes:
    """Return a chain as a server sends it."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)
