"""Certificates for test servers, users and authorities, as files: made anew for each run, and swapped when asked.

A server reads its files when it starts, so a certificate that is replaced between two starts is a certificate swap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# What the deprecated policies and every newer one accept.
_KEY_BITS = 2_048
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key. `certificate` is DER, `private_key` PEM without a password."""

    certificate: Path
    private_key: Path
    application_uri: str

    @property
    def der(self) -> bytes:
        """The certificate as it goes over the wire."""
        return self.certificate.read_bytes()

    @property
    def pem(self) -> str:
        """The certificate as people paste it."""
        return x509.load_der_x509_certificate(self.der).public_bytes(Encoding.PEM).decode()

    @property
    def private_key_pem(self) -> str:
        """The key as people paste it."""
        return self.private_key.read_text("ascii")

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the certificate in lower-case hex, as OPC UA names certificates (Part 6, 6.2.2)."""
        return x509.load_der_x509_certificate(self.der).fingerprint(hashes.SHA1()).hex()


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(Encoding.DER)


def make_identity(
    folder: Path,
    name: str,
    *,
    application_uri: str | None = None,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    authority: Authority | None = None,
) -> Identity:
    """Make an application's certificate in `folder`; what was there under this name is replaced.

    It is valid from yesterday for a year, and signed by itself, unless told otherwise.
    """
    application_uri = f"urn:scada-engine:test:{name}" if application_uri is None else application_uri
    key = rsa.generate_private_key(65_537, _KEY_BITS)
    builder = _builder(name, key, authority, valid_from, valid_until)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(application_uri)]
    builder = builder.add_extension(
        x509.SubjectAlternativeName(names + [_general_name(host) for host in hosts]), critical=False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    usage = _key_usage(signs_certificates=authority is None)
    builder = builder.add_extension(usage, critical=True).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        critical=False,
    )
    certificate = builder.sign(authority.key if authority else key, hashes.SHA256())
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity(folder / f"{name}.der", folder / f"{name}.pem", application_uri)
    identity.certificate.write_bytes(certificate.public_bytes(Encoding.DER))
    identity.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return identity


def make_authority(name: str = "authority") -> Authority:
    """Make a root authority, valid from yesterday for a year."""
    key = rsa.generate_private_key(65_537, _KEY_BITS)
    builder = _builder(name, key, None, None, None)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def _builder(
    name: str,
    key: rsa.RSAPrivateKey,
    authority: Authority | None,
    valid_from: datetime | None,
    valid_until: datetime | None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = authority.key if authority else key
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid_from or now - _DAY)
        .not_valid_after(valid_until or now + 365 * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what Part 6, 6.2.2 asks of application instance certificates; one that signs itself says so."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
