"""Which server certificates are trusted: every check, with a certificate that fails it and only it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from engine.errors import ConnectionRefused
from tests.workers.opcua.made_certificates import (
    DAY,
    HOST,
    NOW,
    URI,
    authority,
    der,
    key,
    revocations,
    server,
    usage,
)
from workers.opcua.security.certificates import new_certificate, thumbprint
from workers.opcua.security.pki import TrustLists
from workers.opcua.security.policies import BY_NAME
from workers.opcua.security.trust import CertificateRefused, Purpose, Trusted, check_own, check_server

MODERN = BY_NAME["Basic256Sha256"]
# For URI and HOST, valid for a century; kept as text because what makes certificates no longer signs with SHA-1.
SIGNED_WITH_SHA1 = b"""\
-----BEGIN CERTIFICATE-----
MIIDCDCCAfCgAwIBAgIUeDDypAdYl+xtcO8+ye/YT+YTXLswDQYJKoZIhvcNAQEF
BQAwDjEMMAoGA1UEAwwDb2xkMCAXDTI2MTEyMzE3MzczOFoYDzIxMjYxMDMwMTcz
NzM4WjAOMQwwCgYDVQQDDANvbGQwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEK
AoIBAQDOaS1stuXIgS5P8cJJu/oz4mLXMXAr87NkfcyYVNMGv6fK46AX15XLlYRE
vSBgiJRH0DBXJRDmDkVWSdr1Pc+ygHYhJ0BH4+stWEq9JjXZnR8QcWqlHb9TPc6L
LFS3MR6mNm7Txdrhi+6MM8J35K8DgYCZKdgW1nTDjrWE7uZ6OzunBU/EyxXIQsWB
oWHlk7mcNVCOhmt9QD0sS34Gn4GGzKlVhomTnCAC1AiiswFAfgs/S74/i7diQfzg
UXiqR4frIsvwYgh38tGx+26fuEc6dMg1wJrm8UpQQBKNK6LzKr4gwq3SyxJzSObf
nwMMSrZhK/N9NbrOJ5myVRRnlFt9AgMBAAGjXDBaMCkGA1UdEQQiMCCGEHVybjpw
bGFudDpzZXJ2ZXKCDHBsYzcuZXhhbXBsZTAOBgNVHQ8BAf8EBAMCBLAwHQYDVR0O
BBYEFNxWfAyUXpVgK53kqmQMqMT9FJzBMA0GCSqGSIb3DQEBBQUAA4IBAQBNAd7j
QyvOR+r3hS9L27a5Aa3uMhHA4ErMmvb8aFjard3Z8Pm8jdUDvL/1V2J8Ttkk2zRf
uPeqZsVdFobgH8h7YmaAp9Svjb/j+IpzSFBOUj2YX1AZZ/IyoL3PBjEdkog6Kjcu
h1xwRWL8y+uVO2Ofaj6AoK6bEgmdlViMrBQ88woXSHLxqs0p6yM8EjzIzrba6Zvf
XK4/Ms5styMZKj3WS2CGslZXHauHZIPRxTp+l7CYGNo1FyGhwIAYFV6tAd49gk8w
/6rQhPvH5wtV4XJRAnOl21lToBBB27HjEgkrUJzAxvf8hRIsduBvT0Mr3RkXLINx
VTruIg3TdCc+OCbX
-----END CERTIFICATE-----
"""


def checked(*chain: x509.Certificate, lists: TrustLists, **changes: Any) -> Trusted:
    wanted: dict[str, Any] = {"host": HOST, "application_uri": URI, "policy": MODERN, "now": NOW}
    return check_server(der(*chain), lists, Purpose(**(wanted | changes)))


def refusal(*chain: x509.Certificate, lists: TrustLists, **changes: Any) -> CertificateRefused:
    with pytest.raises(CertificateRefused) as refused:
        checked(*chain, lists=lists, **changes)
    return refused.value


def pinned(certificate: x509.Certificate) -> TrustLists:
    return TrustLists(trusted=(certificate,))


def test_a_trusted_certificate_is_returned_as_it_is() -> None:
    certificate = server()
    assert checked(certificate, lists=pinned(certificate)) == Trusted(certificate, pinned=True, remarks=())


def test_an_unknown_certificate_is_refused_with_what_a_person_needs_to_decide() -> None:
    certificate = server()
    refused = refusal(certificate, lists=TrustLists())
    assert refused.curable
    assert refused.certificate == certificate
    assert refused.reasons == ("it is not trusted",)
    assert str(refused) == (
        f"the server's certificate is refused: it is not trusted (CN=server, thumbprint {thumbprint(certificate)},"
        " valid 2026-05-31 to 2027-03-28)"
    )


def test_a_certificate_of_the_same_name_and_key_is_another_one() -> None:
    assert refusal(server(), lists=pinned(server())).curable


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"end": NOW - DAY / 2}, "it has expired on 2026-05-31 12:00 UTC"),
        ({"begin": NOW + DAY / 2}, "it is not valid before 2026-06-01 12:00 UTC"),
        (
            {"uri": "urn:other"},
            "it is for the application urn:other, but the server says it is urn:plant:server",
        ),
        ({"uri": None}, "it is for the application of no name, but"),
        ({"key_usage": usage(signs=False)}, "it may not be used for signatures"),
        ({"key_usage": usage(encrypts=False)}, "it may not be used for encryption"),
        ({"extended": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "it may not be used by a server"),
        ({"own_key": key("short", 1_024)}, "its key has 1024 bits; Basic256Sha256 takes 2048 to 4096"),
        ({"own_key": ec.generate_private_key(ec.SECP256R1())}, "its key is not RSA"),
    ],
    ids=["expired", "early", "uri", "no uri", "signs", "encrypts", "client", "short", "elliptic"],
)
def test_what_makes_a_certificate_unfit_is_refused_even_when_it_is_trusted(
    changes: dict[str, Any], words: str
) -> None:
    certificate = server(**changes)
    for lists in (pinned(certificate), TrustLists()):
        refused = refusal(certificate, lists=lists)
        assert not refused.curable
        assert refused.reasons[0].startswith(words)


def test_a_certificate_that_is_about_to_expire_is_remarked_on() -> None:
    certificate = server(end=NOW + 20 * DAY)
    assert checked(certificate, lists=pinned(certificate)).remarks == ("it expires on 2026-06-21 00:00 UTC",)


def test_a_short_key_will_do_for_the_policies_that_allow_it() -> None:
    certificate = server(own_key=key("short", 1_024))
    assert checked(certificate, lists=pinned(certificate), policy=BY_NAME["Basic256"])


def test_uses_that_a_certificate_does_not_restrict_are_allowed() -> None:
    certificate = server(extended=None)
    assert checked(certificate, lists=pinned(certificate))


def test_a_server_that_does_not_say_what_it_is_has_nothing_to_compare() -> None:
    certificate = server(uri="urn:other")
    assert checked(certificate, lists=pinned(certificate), application_uri="")


@pytest.mark.parametrize("host", ["PLC7.example.", "192.0.2.7"])
def test_hosts_are_compared_as_names_and_as_addresses(host: str) -> None:
    certificate = server()
    assert checked(certificate, lists=pinned(certificate), host=host).remarks == ()


def test_a_wrong_host_is_told_of_an_unknown_certificate_and_remarked_on_a_pinned_one() -> None:
    certificate = server(hosts=["elsewhere"])
    words = f"it is for the host elsewhere, not for {HOST}"
    refused = refusal(certificate, lists=TrustLists())
    assert refused.curable
    assert refused.reasons == ("it is not trusted", words)
    assert checked(certificate, lists=pinned(certificate)).remarks == (words,)


def test_a_wrong_host_is_refused_when_only_the_issuer_is_trusted() -> None:
    issuer = authority()
    certificate = server(signed_by=issuer, hosts=["elsewhere"])
    refused = refusal(certificate, lists=pinned(issuer.certificate))
    assert refused.reasons == (f"it is for the host elsewhere, not for {HOST}",)
    assert refused.curable


def test_a_certificate_of_a_trusted_issuer_is_trusted() -> None:
    issuer = authority()
    certificate = server(signed_by=issuer)
    trusted = checked(certificate, lists=pinned(issuer.certificate))
    assert (trusted.certificate, trusted.pinned) == (certificate, False)


def test_a_chain_may_come_from_the_server_or_from_the_issuers_folder() -> None:
    root = authority("root")
    middle = authority("middle", signed_by=root)
    certificate = server(signed_by=middle)
    assert checked(certificate, middle.certificate, lists=pinned(root.certificate))
    assert checked(certificate, lists=TrustLists(trusted=(root.certificate,), issuers=(middle.certificate,)))
    refused = refusal(certificate, lists=pinned(root.certificate))
    assert refused.reasons == ("neither it nor its issuer is trusted (the issuer is not known: CN=middle)",)


def test_an_issuer_that_is_only_known_does_not_make_a_certificate_trusted() -> None:
    issuer = authority()
    refused = refusal(server(signed_by=issuer), lists=TrustLists(issuers=(issuer.certificate,)))
    assert refused.reasons == ("neither it nor its issuer is trusted (CN=authority)",)


def test_a_chain_that_only_has_the_right_names_is_not_one() -> None:
    issuer = authority()
    stranger = server(signed_by=type(issuer)(issuer.certificate, key("stranger")))
    assert refusal(stranger, lists=pinned(issuer.certificate)).curable


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": False}, "may not issue certificates"),
        ({"issues": False}, "may not issue certificates"),
        ({"end": NOW - DAY / 2}, "its issuer CN=authority has expired on"),
    ],
    ids=["no authority", "usage", "expired"],
)
def test_an_issuer_has_to_be_fit_for_it(changes: dict[str, Any], words: str) -> None:
    issuer = authority(**changes)
    refused = refusal(server(signed_by=issuer), lists=pinned(issuer.certificate))
    assert words in refused.reasons[0]


def test_an_issuer_has_no_more_issuers_below_it_than_it_may() -> None:
    root = authority("root", path_length=0)
    middle = authority("middle", signed_by=root)
    certificate = server(signed_by=middle)
    refused = refusal(certificate, middle.certificate, lists=pinned(root.certificate))
    assert refused.reasons == ("its issuer CN=root may not have 1 issuers below it",)


def test_a_revoked_certificate_is_refused_whether_pinned_or_issued() -> None:
    issuer = authority()
    certificate = server(signed_by=issuer)
    listed = revocations(issuer, certificate)
    words = "it was revoked on 2026-05-31 by its issuer"
    chained = TrustLists(trusted=(issuer.certificate,), revocations=(listed,))
    assert refusal(certificate, lists=chained).reasons == (words,)
    both = TrustLists(trusted=(certificate,), issuers=(issuer.certificate,), revocations=(listed,))
    assert refusal(certificate, lists=both).reasons == (words,)
    another = server(signed_by=issuer)
    assert checked(another, lists=chained)


def test_a_revoked_issuer_is_refused() -> None:
    root = authority("root")
    middle = authority("middle", signed_by=root)
    lists = TrustLists(trusted=(root.certificate,), revocations=(revocations(root, middle.certificate),))
    refused = refusal(server(signed_by=middle), middle.certificate, lists=lists)
    assert refused.reasons == ("its issuer CN=middle was revoked on 2026-05-31 by its issuer",)


def test_a_revocation_list_that_its_issuer_did_not_sign_counts_for_nothing() -> None:
    issuer = authority()
    certificate = server(signed_by=issuer)
    forged = revocations(type(issuer)(issuer.certificate, key("stranger")), certificate)
    assert checked(certificate, lists=TrustLists(trusted=(issuer.certificate,), revocations=(forged,)))


def test_a_signature_that_can_be_forged_counts_only_where_nobody_relies_on_it() -> None:
    certificate = x509.load_pem_x509_certificate(SIGNED_WITH_SHA1)
    now = certificate.not_valid_before_utc + DAY
    words = "it is signed with SHA1, which can be forged"
    assert words in refusal(certificate, lists=TrustLists(), now=now).reasons
    assert words not in refusal(certificate, lists=TrustLists(), now=now, policy=BY_NAME["Basic256"]).reasons
    assert checked(certificate, lists=pinned(certificate), now=now)


@pytest.mark.parametrize(
    "blob", [b"", b"nonsense", b"\x30\x82\xff\xff1", b"\x30\x03abc", b"\x30\x84\xff\xff\xff\xff"],
    ids=["nothing", "text", "short", "no certificate", "huge"],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(blob: bytes) -> None:
    purpose = Purpose(host=HOST, application_uri=URI, policy=MODERN, now=NOW)
    with pytest.raises(ConnectionRefused, match=r"has no certificate|cannot be read"):
        check_server(blob, TrustLists(), purpose)


def test_a_chain_without_end_is_not_followed() -> None:
    certificate = server()
    with pytest.raises(ConnectionRefused, match="more than 8 certificates"):
        checked(*[certificate] * 9, lists=pinned(certificate))


def test_issuers_that_sign_each_other_do_not_send_us_in_circles() -> None:
    one = authority("one", signed_by=authority("two"))
    two = authority("two", signed_by=authority("one"))
    certificate = server(signed_by=one)
    refused = refusal(certificate, one.certificate, two.certificate, lists=TrustLists())
    assert refused.curable


def test_our_own_certificate_passes_our_own_checks() -> None:
    own = new_certificate(key("own"), "urn:us")
    check_own(own, "urn:us", Path("certificate.der"))
    (host, *_) = own.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value.get_values_for_type(x509.DNSName)
    trusted = check_server(
        der(own),
        pinned(own),
        Purpose(host=host, application_uri="urn:us", policy=MODERN, now=own.not_valid_before_utc + DAY),
    )
    assert trusted.remarks == ()


def test_our_own_certificate_is_refused_with_what_to_do() -> None:
    old = server(uri="urn:us", begin=NOW - 800 * DAY, end=NOW - 700 * DAY)
    with pytest.raises(
        ConnectionRefused, match=r"our own certificate has expired on .*; remove own\.der to have"
    ):
        check_own(old, "urn:us", Path("own.der"))
    with pytest.raises(ConnectionRefused, match=r"is for the application urn:us, but opcua\.application_uri"):
        check_own(new_certificate(key("own"), "urn:us"), "urn:them", Path("own.der"))
