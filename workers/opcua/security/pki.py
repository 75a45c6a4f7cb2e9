"""The certificates on disk: our own one, and for each tenant what it trusts.

    <folder>/own/certificate.der            0644  our application instance certificate, for all tenants
    <folder>/own/private_key.pem            0600  its key
    <folder>/tenants/<slug>/trusted/        certificates of servers, or of authorities whose servers are all trusted
    <folder>/tenants/<slug>/issuers/        certificates of authorities that only complete chains, and revocation lists
    <folder>/tenants/<slug>/rejected/       what servers showed and nobody trusted yet: <thumbprint>.der

Owns the files. Owns no judgement: that is trust.py's. Files are read at each use, so a change counts from the next
connect on. Certificates and lists may be DER or PEM, with any name.

Invariants: a file appears whole or not at all; own identity is made once, however many processes start together; a
folder is read up to a bound, and the rejected one holds at most REJECTED_MOST files, the newest.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from engine.errors import ConfigurationError, ConnectionRefused, InvalidInput, NotFound
from workers.opcua.security.certificates import der, new_certificate, new_key, read_chain, thumbprint
from workers.opcua.security.policies import OwnIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.settings import OpcuaSettings

REJECTED_MOST = 100
# A certificate has one or two kilobytes, a revocation list of a large plant some more.
_FILE_MOST_BYTES = 256 * 1024
_FILES_MOST = 1_000
_PEM = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class TrustLists:
    """What one tenant trusts, as read from its folders."""

    trusted: tuple[x509.Certificate, ...] = ()
    issuers: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Files that are neither a certificate nor a revocation list."""


@dataclass(slots=True)
class _Found:
    certificates: list[x509.Certificate] = field(default_factory=list)
    revocations: list[x509.CertificateRevocationList] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class Pki:
    """The folders of one tenant, and the own identity that all tenants share."""

    def __init__(self, folder: Path, tenant_slug: str) -> None:
        self._own = folder / "own"
        tenant = folder / "tenants" / tenant_slug
        self.trusted = tenant / "trusted"
        self.issuers = tenant / "issuers"
        self.rejected = tenant / "rejected"

    @classmethod
    def of(cls, settings: OpcuaSettings, tenant_slug: str) -> Pki:
        """Return the folders that the settings name, or those in the user's home folder."""
        folder = Path(settings.pki_folder or Path.home() / ".local" / "state" / "scada-engine" / "pki")
        return cls(folder, tenant_slug)

    @property
    def certificate_file(self) -> Path:
        """Where our own certificate is."""
        return self._own / "certificate.der"

    @property
    def key_file(self) -> Path:
        """Where its private key is."""
        return self._own / "private_key.pem"

    def own_identity(self, application_uri: str) -> OwnIdentity:
        """Return our certificate and key, made now if there are none; blocks while another process makes them.

        Where only the key is there, a new certificate is made for it: that is how one is renewed. Raises
        ConnectionRefused when the files cannot be used.
        """
        try:
            if not self.certificate_file.exists():
                self._make_own(application_uri)
            return self._read_own()
        except OSError as exc:
            raise ConnectionRefused(f"our own certificate: {exc.strerror}: {exc.filename}") from exc

    def _make_own(self, application_uri: str) -> None:
        _make_private_folder(self._own)
        with (self._own / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.certificate_file.exists():
                return
            if self.key_file.exists():
                key = self._read_key()
            else:
                key = new_key()
                _write(
                    self.key_file,
                    key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                    mode=0o600,
                )
            # Last, because its presence says that both are complete.
            _write(self.certificate_file, der(new_certificate(key, application_uri)), mode=0o644)

    def _read_own(self) -> OwnIdentity:
        try:
            certificate = _certificates(_read(self.certificate_file))[0]
        except ValueError as exc:
            raise ConnectionRefused(
                f"our own certificate {self.certificate_file} cannot be read: {exc}; remove it to have a new one made"
            ) from exc
        key = self._read_key()
        if key.public_key() != certificate.public_key():
            raise ConnectionRefused(
                f"our own key {self.key_file} does not belong to {self.certificate_file}; put the right one there, or"
                " remove the certificate to have a new one made"
            )
        return OwnIdentity(certificate, key)

    def _read_key(self) -> RSAPrivateKey:
        try:
            key = load_pem_private_key(_read(self.key_file), password=None)
        except (ValueError, TypeError) as exc:
            raise ConnectionRefused(
                f"our own key {self.key_file} is not PEM without a passphrase; with both files of {self._own} removed,"
                " new ones are made"
            ) from exc
        if not isinstance(key, RSAPrivateKey):
            raise ConnectionRefused(f"our own key {self.key_file} is not an RSA key")
        return key

    def trust_lists(self) -> TrustLists:
        """Return what this tenant trusts now. Raises ConnectionRefused when a folder cannot be read."""
        trusted, issuers = _Found(), _Found()
        try:
            for folder, found in ((self.trusted, trusted), (self.issuers, issuers)):
                for path in _files(folder):
                    _sort(path, found)
        except OSError as exc:
            raise ConnectionRefused(f"the trust lists: {exc.strerror}: {exc.filename}") from exc
        return TrustLists(
            trusted=tuple(trusted.certificates),
            issuers=tuple(issuers.certificates),
            revocations=(*trusted.revocations, *issuers.revocations),
            unreadable=(*trusted.unreadable, *issuers.unreadable),
        )

    def reject(self, chain: bytes) -> None:
        """Keep a certificate that is not trusted, for a person to look at; the oldest makes room for it.

        `chain` is DER with the leaf first; only the leaf is kept. Raises OSError.
        """
        certificate = read_chain(chain)[0]
        path = self.rejected / f"{thumbprint(certificate)}.der"
        if path.exists():
            return
        _make_private_folder(self.rejected)
        held = sorted(self.rejected.glob("*.der"), key=_age)
        for oldest in held[: max(0, len(held) - REJECTED_MOST + 1)]:
            oldest.unlink(missing_ok=True)
        _write(path, der(certificate), mode=0o644)

    def rejected_certificates(self) -> list[x509.Certificate]:
        """Return what was rejected, the newest first. Raises ConfigurationError when the folder cannot be read."""
        found = _Found()
        try:
            for path in sorted(_files(self.rejected), key=_age, reverse=True):
                _sort(path, found)
        except OSError as exc:
            raise ConfigurationError(f"opcua.pki_folder: {exc.strerror}: {exc.filename}") from exc
        return found.certificates

    def rejected_one(self, text: str) -> x509.Certificate:
        """Return the rejected certificate whose thumbprint begins so. Raises NotFound and InvalidInput."""
        wanted = text.replace(":", "").replace(" ", "").upper()
        found = [one for one in self.rejected_certificates() if wanted and thumbprint(one).startswith(wanted)]
        if not found:
            raise NotFound("thumbprint", f"no certificate in {self.rejected} has {text!r}")
        if len(found) > 1:
            raise InvalidInput("thumbprint", f"{text!r} fits {len(found)} certificates; give more of it")
        return found[0]

    def trust(self, certificate: x509.Certificate) -> Path:
        """Trust a certificate from now on; return its file. Raises ConfigurationError when it cannot be written."""
        path = self.trusted / f"{thumbprint(certificate)}.der"
        try:
            _make_private_folder(self.trusted)
            _write(path, der(certificate), mode=0o644)
            (self.rejected / path.name).unlink(missing_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"opcua.pki_folder: {exc.strerror}: {exc.filename}") from exc
        return path


def _make_private_folder(folder: Path) -> None:
    """Make a folder, and what is missing above it, for this user alone."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_FILE_MOST_BYTES + 1)
    if len(data) > _FILE_MOST_BYTES:
        raise ValueError(f"larger than {_FILE_MOST_BYTES} bytes")
    return data


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        for name in names[:_FILES_MOST]:
            if (path := folder / name).is_file():
                yield path


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sort(path: Path, found: _Found) -> None:
    """Take what a file holds."""
    try:
        data = _read(path)
        if b"-BEGIN X509 CRL-" in data:
            found.revocations.append(x509.load_pem_x509_crl(data))
        elif data.startswith(_PEM) or b"\n" + _PEM in data:
            found.certificates += _certificates(data)
        else:
            try:
                found.certificates += read_chain(data)
            except ValueError:
                found.revocations.append(x509.load_der_x509_crl(data))
    except ValueError:
        found.unreadable.append(path.name)
    except FileNotFoundError:
        return


def _certificates(data: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(data) if _PEM in data else read_chain(data)
