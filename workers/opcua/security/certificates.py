"""X.509 certificates as OPC UA uses them (OPC 10000-6, 6.2): taken apart, described, and our own one made.

Owns no files (pki.py) and no judgement (trust.py).
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

# Deeper chains than this are no plant's.
CHAIN_MOST = 8
# 2048 bits fit every policy; the deprecated ones take no longer keys.
_OWN_KEY_BITS = 2_048
# A plant runs for decades without anyone who renews certificates; servers that want shorter ones issue their own.
_OWN_YEARS = 10
_SEQUENCE = 0x30


@dataclass(frozen=True, slots=True)
class Described:
    """What a person needs to know of a certificate. Times are UTC."""

    subject: str
    issuer: str
    thumbprint: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    application_uri: str
    host_names: tuple[str, ...]
    key_bits: int

    def __str__(self) -> str:
        return (
            f"{self.subject}, thumbprint {self.thumbprint}, valid {self.not_before:%Y-%m-%d} to"
            f" {self.not_after:%Y-%m-%d}"
        )


def leaf_of(blob: bytes) -> bytes:
    """Return the first certificate of a chain in DER; what is no DER comes back as it is."""
    size = _der_bytes(blob)
    return blob[:size] if size else blob


def read_chain(blob: bytes) -> list[x509.Certificate]:
    """Return the certificates of a chain in DER, the leaf first. Raises ValueError when it is none, or too long."""
    chain: list[x509.Certificate] = []
    while blob:
        size = _der_bytes(blob)
        if not size:
            raise ValueError("not a certificate in DER")
        if len(chain) == CHAIN_MOST:
            raise ValueError(f"a chain of more than {CHAIN_MOST} certificates")
        chain.append(x509.load_der_x509_certificate(blob[:size]))
        blob = blob[size:]
    if not chain:
        raise ValueError("there is no certificate")
    return chain


def _der_bytes(blob: bytes) -> int:
    """Return the size of the DER sequence that the blob begins with; 0 when there is none that is complete."""
    if len(blob) < 2 or blob[0] != _SEQUENCE:
        return 0
    length = blob[1]
    head = 2
    if length & 0x80:
        digits = length & 0x7F
        if not 1 <= digits <= 4 or len(blob) < 2 + digits:
            return 0
        length = int.from_bytes(blob[2 : 2 + digits], "big")
        head += digits
    return head + length if head + length <= len(blob) else 0


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate in DER."""
    return certificate.public_bytes(Encoding.DER)


def thumbprint(certificate: x509.Certificate) -> str:
    """Return the SHA-1 of a certificate in hexadecimal: how OPC UA names certificates (OPC 10000-6, 6.2.2)."""
    return certificate.fingerprint(hashes.SHA1()).hex().upper()


def sha256_thumbprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hexadecimal: what newer tools show."""
    return certificate.fingerprint(hashes.SHA256()).hex().upper()


def describe(certificate: x509.Certificate) -> Described:
    """Return what a person needs to know of a certificate."""
    key = certificate.public_key()
    uris, hosts = alternative_names(certificate)
    return Described(
        subject=printable_name(certificate.subject),
        issuer=printable_name(certificate.issuer),
        thumbprint=thumbprint(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        application_uri=uris[0] if uris else "",
        host_names=hosts,
        key_bits=key.key_size if isinstance(key, rsa.RSAPublicKey) else 0,
    )


def printable_name(name: x509.Name) -> str:
    """Return a distinguished name on one line, without anything that could move a cursor."""
    text = name.rfc4514_string()[:200] or "no name"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the URIs, and the host names and addresses, that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    hosts = [*names.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier)), tuple(hosts)


def new_key() -> rsa.RSAPrivateKey:
    """Make an RSA key for ourselves."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=_OWN_KEY_BITS)


def new_certificate(key: rsa.RSAPrivateKey, application_uri: str) -> x509.Certificate:
    """Make a self-signed application instance certificate for this machine (OPC 10000-6, 6.2.2)."""
    host = socket.gethostname() or "localhost"
    name = x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, "scada-engine"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "scada-engine"),
        x509.NameAttribute(NameOID.DOMAIN_COMPONENT, host[:64]),
    ])  # fmt: skip
    # An hour ago: clocks on a plant differ.
    begin = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(hours=1)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        # A self-signed application certificate signs itself (OPC 10000-6, table 43).
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=365 * _OWN_YEARS))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(application_uri),
                    *_general_names({host, "localhost"}),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_names(hosts: Iterable[str]) -> Iterable[x509.GeneralName]:
    for host in sorted(hosts):
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            yield x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)
