"""Which endpoint is taken of what a server offers."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua

from engine.errors import ConnectionRefused
from workers.opcua.security.endpoints import Endpoint, choose, read_endpoints, url_to_say
from workers.opcua.security.policies import BY_NAME, Credentials, SecurityWanted
from workers.opcua.security.tokens import ANONYMOUS, USER_NAME, TokenPolicy

ANYBODY = (TokenPolicy("anonymous", ANONYMOUS, ""), TokenPolicy("user", USER_NAME, ""))


def offered(mode: str, policy: str, **changes: Any) -> Endpoint:
    values: dict[str, Any] = {
        "url": "opc.tcp://nowhere:4840/",
        "mode": mode,
        "policy_uri": BY_NAME[policy].uri if policy in BY_NAME else policy,
        "certificate": b"" if mode == "None" else b"certificate",
        "tokens": ANYBODY,
        "application_uri": "urn:server",
        "security_level": 0,
    }
    return Endpoint(**(values | changes))


ALL = [
    offered("None", "None"),
    offered("Sign", "Basic128Rsa15"),
    offered("Sign", "Aes256_Sha256_RsaPss"),
    offered("SignAndEncrypt", "Basic256"),
    offered("SignAndEncrypt", "Basic256Sha256"),
    offered("SignAndEncrypt", "Aes128_Sha256_RsaOaep"),
]


def taken(endpoints: list[Endpoint], wanted: SecurityWanted, **credentials: Any) -> tuple[str, str]:
    chosen = choose(endpoints, wanted, Credentials(**credentials))
    return chosen.mode, chosen.policy_name


def test_auto_takes_the_strongest_mode_and_then_the_strongest_policy() -> None:
    auto = SecurityWanted("Auto", "Auto")
    assert taken(ALL, auto) == ("SignAndEncrypt", "Basic256Sha256")
    best = offered("SignAndEncrypt", "Aes256_Sha256_RsaPss")
    assert taken([*ALL, best], auto) == ("SignAndEncrypt", "Aes256_Sha256_RsaPss")
    assert taken(ALL[:3], auto) == ("Sign", "Aes256_Sha256_RsaPss")
    assert taken(ALL[:1], auto) == ("None", "None")


def test_of_equal_policies_the_one_that_the_server_values_is_taken() -> None:
    valued = offered("SignAndEncrypt", "Aes128_Sha256_RsaOaep", security_level=9)
    assert taken([*ALL, valued], SecurityWanted("Auto", "Auto"))[1] == "Aes128_Sha256_RsaOaep"


def test_deprecated_policies_are_taken_only_where_they_are_allowed() -> None:
    deprecated = [ALL[0], ALL[1], ALL[3]]
    assert taken(deprecated, SecurityWanted("Auto", "Auto")) == ("None", "None")
    allowed = SecurityWanted("Auto", "Auto", allow_deprecated=True)
    assert taken(deprecated, allowed) == ("SignAndEncrypt", "Basic256")
    with pytest.raises(ConnectionRefused, match="security policy Basic256 is deprecated"):
        SecurityWanted("Sign", "Basic256")


@pytest.mark.parametrize(
    ("mode", "policy", "expected"),
    [
        ("Sign", "Auto", ("Sign", "Aes256_Sha256_RsaPss")),
        ("Auto", "Aes128_Sha256_RsaOaep", ("SignAndEncrypt", "Aes128_Sha256_RsaOaep")),
        ("SignAndEncrypt", "Basic256Sha256", ("SignAndEncrypt", "Basic256Sha256")),
        ("None", "None", ("None", "None")),
        ("None", "Auto", ("None", "None")),
    ],
)
def test_what_is_configured_is_taken(mode: str, policy: str, expected: tuple[str, str]) -> None:
    assert taken(ALL, SecurityWanted(mode, policy)) == expected


def test_what_is_not_offered_is_refused_with_what_is() -> None:
    with pytest.raises(ConnectionRefused) as refused:
        choose(ALL[:3], SecurityWanted("SignAndEncrypt", "Basic256Sha256"), Credentials())
    assert str(refused.value) == (
        "the server does not offer SignAndEncrypt/Basic256Sha256; it offers None (anonymous, user name);"
        " Sign/Basic128Rsa15 (anonymous, user name); Sign/Aes256_Sha256_RsaPss (anonymous, user name)"
    )


def test_a_long_list_of_endpoints_is_cut_in_the_error() -> None:
    many = [offered("Sign", f"urn:policy#{number}") for number in range(1_000)]
    with pytest.raises(ConnectionRefused) as refused:
        choose(many, SecurityWanted("Auto", "Auto"), Credentials())
    assert str(refused.value).endswith("; and 988 more")
    assert len(str(refused.value)) < 2_000


def test_an_endpoint_that_does_not_take_the_user_is_passed_over() -> None:
    nobody = offered("SignAndEncrypt", "Aes256_Sha256_RsaPss", tokens=ANYBODY[:1])
    user: dict[str, Any] = {"username": "operator", "password": "secret"}
    assert taken([*ALL, nobody], SecurityWanted("Auto", "Auto"), **user)[1] == "Basic256Sha256"
    with pytest.raises(ConnectionRefused, match="does not accept user names; it accepts: anonymous"):
        choose([nobody], SecurityWanted("Auto", "Auto"), Credentials(**user))


def test_a_secured_endpoint_without_a_certificate_cannot_be_used() -> None:
    bare = offered("Sign", "Basic256Sha256", certificate=b"")
    assert taken([bare, ALL[0]], SecurityWanted("Auto", "Auto")) == ("None", "None")


def test_a_policy_that_is_not_known_is_passed_over() -> None:
    future = offered("SignAndEncrypt", "http://opcfoundation.org/UA/SecurityPolicy#ECC_nistP256")
    assert taken([future, ALL[0]], SecurityWanted("Auto", "Auto")) == ("None", "None")
    assert future.policy_name == "ECC_nistP256"


@pytest.mark.parametrize(
    ("mode", "policy"), [("Sign", "None"), ("None", "Basic256Sha256"), ("Signed", "Auto"), ("Auto", "Rot13")]
)
def test_settings_that_contradict_themselves_are_refused_by_name(mode: str, policy: str) -> None:
    with pytest.raises(ConnectionRefused, match=r"does not go with|is none of Auto"):
        SecurityWanted(mode, policy)


def test_nothing_offered_says_so() -> None:
    with pytest.raises(ConnectionRefused, match="the server offers no endpoint"):
        choose([], SecurityWanted("Auto", "Auto"), Credentials())


def test_only_endpoints_of_the_binary_protocol_are_read() -> None:
    def described(**changes: Any) -> ua.EndpointDescription:
        usual: dict[str, Any] = {"EndpointUrl": "opc.tcp://a:1", "SecurityMode": ua.MessageSecurityMode.Sign}
        return ua.EndpointDescription(**(usual | changes))

    found = read_endpoints([
        described(),
        described(EndpointUrl="https://a:1"),
        described(TransportProfileUri="http://opcfoundation.org/UA-Profile/Transport/https-uabinary"),
        described(SecurityMode=ua.MessageSecurityMode.Invalid),
        described(Server=None, UserIdentityTokens=None, EndpointUrl=None, ServerCertificate=None),
    ])  # fmt: skip
    assert [endpoint.url for endpoint in found] == ["opc.tcp://a:1", ""]
    assert read_endpoints(None) == []


@pytest.mark.parametrize(
    ("address", "endpoint_url", "expected"),
    [
        ("opc.tcp://10.0.0.7:4840", "opc.tcp://PLC7:4840", "opc.tcp://10.0.0.7:4840"),
        ("opc.tcp://10.0.0.7:4840", "opc.tcp://PLC7:4841/line/2", "opc.tcp://10.0.0.7:4840/line/2"),
        ("opc.tcp://10.0.0.7:4840/mine", "opc.tcp://PLC7:4840/theirs", "opc.tcp://10.0.0.7:4840/mine"),
        ("opc.tcp://10.0.0.7:4840", "opc.tcp://[broken", "opc.tcp://10.0.0.7:4840"),
        ("opc.tcp://[::1]:4840", "opc.tcp://0.0.0.0:4840/a", "opc.tcp://[::1]:4840/a"),
    ],
)
def test_host_and_port_are_always_the_users(address: str, endpoint_url: str, expected: str) -> None:
    assert url_to_say(address, endpoint_url) == expected
