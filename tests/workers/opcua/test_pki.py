"""The certificates on disk: made once, kept private, read anew, and bounded."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from engine.errors import ConnectionRefused, InvalidInput, NotFound
from engine.settings import OpcuaSettings
from tests.workers.opcua.made_certificates import authority, der, key, revocations, server
from workers.opcua.security import pki as pki_module
from workers.opcua.security.certificates import describe, thumbprint
from workers.opcua.security.pki import REJECTED_MOST, Pki, TrustLists

URI = "urn:us"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The folders of one tenant, not made yet."""
    return Pki(tmp_path / "pki", "acme")


def test_our_own_certificate_is_made_once_and_kept(pki: Pki, tmp_path: Path) -> None:
    own = pki.own_identity(URI)
    for again in (pki, Pki(tmp_path / "pki", "other")):
        kept = again.own_identity(URI)
        assert kept.certificate == own.certificate
        assert kept.private_key.private_numbers() == own.private_key.private_numbers()
    assert (mode(pki.key_file), mode(pki.key_file.parent), mode(pki.certificate_file.parent.parent)) == (
        0o600,
        0o700,
        0o700,
    )


def test_our_own_certificate_says_what_opc_ua_asks_for(pki: Pki) -> None:
    own = pki.own_identity(URI)
    facts = describe(own.certificate)
    assert (facts.application_uri, facts.key_bits) == (URI, 2_048)
    assert "localhost" in facts.host_names
    usage = own.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment
    assert usage.data_encipherment


def _make(folder: str, start: object, results: multiprocessing.Queue[bytes]) -> None:
    start.wait()  # type: ignore[attr-defined]
    results.put(der(Pki(Path(folder), "acme").own_identity(URI).certificate))


def test_processes_that_start_together_get_the_same_certificate(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_make, args=(str(tmp_path), start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    made = {results.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join(30)
    assert len(made) == 1


def test_a_removed_certificate_is_made_again_for_the_same_key(pki: Pki) -> None:
    old = pki.own_identity(URI)
    pki.certificate_file.unlink()
    new = pki.own_identity(URI)
    assert new.certificate != old.certificate
    assert new.certificate.public_key() == old.certificate.public_key()


def test_own_files_that_cannot_be_used_say_which_and_what_to_do(pki: Pki) -> None:
    pki.own_identity(URI)
    good = pki.key_file.read_bytes()
    pki.key_file.write_bytes(b"nonsense")
    with pytest.raises(ConnectionRefused, match=r"private_key\.pem is not PEM"):
        pki.own_identity(URI)
    pki.key_file.write_bytes(good)
    pki.certificate_file.write_bytes(der(server()))
    with pytest.raises(ConnectionRefused, match="does not belong to"):
        pki.own_identity(URI)
    pki.certificate_file.write_bytes(b"nonsense")
    with pytest.raises(ConnectionRefused, match="remove it to have a new one made"):
        pki.own_identity(URI)


def test_nothing_is_trusted_where_there_are_no_folders(pki: Pki) -> None:
    assert pki.trust_lists() == TrustLists()
    assert pki.rejected_certificates() == []


def test_lists_are_read_in_both_forms_and_what_cannot_be_read_is_named(pki: Pki) -> None:
    issuer = authority()
    certificate = server(signed_by=issuer)
    pki.trust(certificate)
    pki.issuers.mkdir()
    (pki.issuers / "ca.pem").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    (pki.issuers / "ca.crl").write_bytes(revocations(issuer).public_bytes(Encoding.DER))
    (pki.issuers / "again.crl").write_bytes(revocations(issuer).public_bytes(Encoding.PEM))
    (pki.trusted / "README").write_text("put certificates here")
    (pki.trusted / "large.der").write_bytes(bytes(300_000))
    lists = pki.trust_lists()
    assert lists.trusted == (certificate,)
    assert lists.issuers == (issuer.certificate,)
    assert len(lists.revocations) == 2
    assert set(lists.unreadable) == {"README", "large.der"}


def test_a_change_counts_at_the_next_look(pki: Pki) -> None:
    certificate = server()
    path = pki.trust(certificate)
    assert pki.trust_lists().trusted == (certificate,)
    path.unlink()
    assert pki.trust_lists().trusted == ()


def test_what_is_rejected_is_kept_once_under_its_thumbprint_until_it_is_trusted(pki: Pki) -> None:
    certificate = server()
    for _ in range(3):
        pki.reject(der(certificate, authority().certificate))
    assert [path.name for path in pki.rejected.iterdir()] == [f"{thumbprint(certificate)}.der"]
    found = pki.rejected_one(thumbprint(certificate)[:8].lower())
    assert found == certificate
    pki.trust(found)
    assert pki.trust_lists().trusted == (certificate,)
    assert pki.rejected_certificates() == []


def test_the_rejected_folder_is_bounded_and_keeps_the_newest(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REJECTED_MOST == 100
    monkeypatch.setattr(pki_module, "REJECTED_MOST", 5)
    certificates = [server(name=f"server {number}") for number in range(8)]
    for number, certificate in enumerate(certificates):
        pki.reject(der(certificate))
        os.utime(pki.rejected / f"{thumbprint(certificate)}.der", (number, number))
    assert pki.rejected_certificates() == certificates[:2:-1]


def test_a_thumbprint_names_one_certificate_or_none(pki: Pki) -> None:
    # More than there are digits, so that two begin alike.
    for number in range(17):
        pki.reject(der(server(name=f"server {number}")))
    digits = [thumbprint(one)[0] for one in pki.rejected_certificates()]
    shared = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(InvalidInput, match="give more of it"):
        pki.rejected_one(shared)
    for text in ("zz", "", "::"):
        with pytest.raises(NotFound, match="no certificate in"):
            pki.rejected_one(text)


def test_tenants_trust_each_their_own(tmp_path: Path) -> None:
    certificate = server()
    Pki(tmp_path, "one").trust(certificate)
    assert Pki(tmp_path, "two").trust_lists().trusted == ()


def test_the_folder_is_the_settings_or_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/scada")
    trusted = Pki.of(OpcuaSettings(), "acme").trusted
    assert str(trusted) == "/home/scada/.local/state/scada-engine/pki/tenants/acme/trusted"
    settings = OpcuaSettings(pki_folder="/etc/pki")
    assert Pki.of(settings, "acme").key_file == Path("/etc/pki/own/private_key.pem")


def test_a_folder_that_cannot_be_read_says_which(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    pki = Pki(tmp_path / "file", "acme")
    with pytest.raises(ConnectionRefused, match="Not a directory"):
        pki.own_identity(URI)
    assert key("own").key_size == 2_048
