"""What fits into the catalog and what does not; every refusal names the field and shows the value, but no secret."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from engine.catalog.plain_rules import check_pem
from engine.catalog.records import ItemSettings, NewConnection, NewTag
from engine.catalog.rules import (
    SECURITY_MODES,
    SECURITY_POLICIES,
    InvalidRows,
    check_connection,
    check_node_id,
    check_slug,
    check_tags,
    decimal_of,
)
from engine.errors import InvalidInput
from tests.engine.catalog_entries import CERTIFICATE, PRIVATE_KEY


@pytest.mark.parametrize("slug", ["a", "acme", "acme-oil_2", "a" * 63])
def test_a_slug_for_metrics_and_file_names_fits(slug: str) -> None:
    check_slug(slug)


@pytest.mark.parametrize("slug", ["", "Acme", "1acme", "a b", "a/b", "a'b", "a" * 64, "ä", "acme\n"])
def test_a_slug_that_does_not_fit_is_refused(slug: str) -> None:
    with pytest.raises(InvalidInput, match="slug: ") as raised:
        check_slug(slug)
    assert repr(slug)[:20] in str(raised.value)


ENDPOINT = "opc.tcp://127.0.0.1:4840"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"name": " "}, "name", "empty"),
        ({"name": "x" * 256}, "name", "256 characters"),
        ({"name": "a\0b"}, "name", "cannot be printed"),
        ({"endpoint_url": "http://plc:4840"}, "endpoint_url", "opc.tcp://host:port"),
        ({"endpoint_url": "opc.tcp://plc"}, "endpoint_url", "opc.tcp://host:port"),
        ({"endpoint_url": "opc.tcp://:4840"}, "endpoint_url", "opc.tcp://host:port"),
        ({"endpoint_url": "opc.tcp://plc:99999"}, "endpoint_url", "opc.tcp://host:port"),
        ({"endpoint_url": "opc.tcp://[::1:4840"}, "endpoint_url", "opc.tcp://host:port"),
        (
            {"endpoint_url": "opc.tcp://reader:hunter2@plc:4840"},
            "endpoint_url",
            "fields username and password",
        ),
        ({"security_mode": "sign"}, "security_mode", "'sign' is not one of Auto, None, Sign"),
        ({"security_policy": "Basic1"}, "security_policy", "'Basic1' is not one of"),
        ({"security_mode": "Sign"}, "security_policy", "both are None or neither"),
        ({"username": ""}, "username", "empty"),
        ({"password": "hunter2"}, "password", "without a username"),
        ({"poll_interval_seconds": 0}, "poll_interval_seconds", "0 is not between"),
        (
            {"security_mode": "Sign", "security_policy": "Basic256"},
            "security_policy",
            "set allow_deprecated_policies",
        ),
        ({"failover_urls": ("opc.tcp://b:1", "plc")}, "failover_urls[1]", "'plc' is not opc.tcp://host:port"),
        ({"failover_urls": ("opc.tcp://u:hunter2@b:1",)}, "failover_urls[0]", "fields username and password"),
        ({"failover_urls": (ENDPOINT,)}, "failover_urls[0]", "is there twice"),
        (
            {"failover_urls": tuple(f"opc.tcp://h:{port}" for port in range(1, 10))},
            "failover_urls",
            "there are 9; at most 8",
        ),
        ({"user_certificate": CERTIFICATE}, "user_certificate", "without its user_private_key"),
        ({"user_private_key": PRIVATE_KEY}, "user_private_key", "without its user_certificate"),
        ({"settings": ItemSettings(queue_size=0)}, "queue_size", "0 is not between 1 and 1000000"),
    ],
)
def test_a_connection_that_does_not_fit_is_refused_by_field_and_value(
    changes: dict[str, Any], field: str, said: str
) -> None:
    new: dict[str, Any] = {"well_id": UUID(int=1), "name": "RTU", "endpoint_url": ENDPOINT} | changes
    with pytest.raises(InvalidInput) as raised:
        check_connection(NewConnection(**new))
    assert raised.value.field == field
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("mode", SECURITY_MODES)
@pytest.mark.parametrize("policy", SECURITY_POLICIES)
def test_a_mode_and_a_policy_fit_when_some_endpoint_can_have_both(mode: str, policy: str) -> None:
    new = NewConnection(
        UUID(int=1),
        "RTU",
        ENDPOINT,
        security_mode=mode,
        security_policy=policy,
        allow_deprecated_policies=True,
    )
    if "Auto" in (mode, policy) or (mode == "None") == (policy == "None"):
        check_connection(new)
    else:
        with pytest.raises(
            InvalidInput, match=r"security_policy: .* both are None or neither, or one is Auto"
        ):
            check_connection(new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hunter2", "is not PEM"),
        ("", "is not PEM"),
        (CERTIFICATE, "is a CERTIFICATE, and not a PRIVATE KEY"),
        (PRIVATE_KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), "locked with a passphrase"),
        (PRIVATE_KEY.replace("MIGH", "MIG"), "is not base64"),
        (PRIVATE_KEY.replace("END PRIVATE KEY", "END"), "is not PEM"),
        (PRIVATE_KEY + "\0", "is not PEM"),
        (PRIVATE_KEY + "x" * 65_536, "at most 65536 fit"),
    ],
)
def test_a_key_that_is_no_pem_key_is_refused_and_not_shown(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_pem("user_private_key", text, "PRIVATE KEY")
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert "MIG" not in str(raised.value)


@pytest.mark.parametrize(
    "text", [PRIVATE_KEY, PRIVATE_KEY.replace("PRIVATE", "RSA PRIVATE"), "Key:\r\n" + PRIVATE_KEY]
)
def test_every_kind_of_open_pem_key_is_taken(text: str) -> None:
    check_pem("user_private_key", text, "PRIVATE KEY")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"read_mode": "Poll"}, "read_mode"),
        ({"publishing_interval_ms": 0.5}, "publishing_interval_ms"),
        ({"publishing_interval_ms": math.nan}, "publishing_interval_ms"),
        ({"sampling_interval_ms": -2}, "sampling_interval_ms"),
        ({"sampling_interval_ms": math.inf}, "sampling_interval_ms"),
        ({"queue_size": 1_000_001}, "queue_size"),
        ({"deadband_type": "percent", "deadband_value": 1}, "deadband_type"),
        ({"deadband_type": "Percent"}, "deadband_value"),
        ({"deadband_type": "Percent", "deadband_value": 100.5}, "deadband_value"),
        ({"deadband_type": "Absolute", "deadband_value": -0.1}, "deadband_value"),
        ({"deadband_type": "Absolute", "deadband_value": math.nan}, "deadband_value"),
        ({"deadband_type": "None", "deadband_value": 1}, "deadband_value"),
        ({"deadband_value": 0}, "deadband_value"),
        ({"data_change_trigger": "Value"}, "data_change_trigger"),
        ({"timestamps_to_return": "Neither"}, "timestamps_to_return"),
    ],
)
def test_a_setting_out_of_its_range_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRows) as raised:
        check_tags([NewTag("good", "i=1"), NewTag("P", "i=2", settings=ItemSettings(**settings))])
    assert raised.value.problems[0].field == f"tags[1].{field}"


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling_interval_ms": -1, "read_mode": "poll"},
        {"sampling_interval_ms": 0, "publishing_interval_ms": 1},
        {"deadband_type": "Percent", "deadband_value": 0},
        {"deadband_type": "Absolute", "deadband_value": 1e300},
        {"deadband_type": "None"},
        {"discard_oldest": False, "data_change_trigger": "Status", "timestamps_to_return": "Server"},
    ],
)
def test_settings_at_the_ends_of_their_ranges_fit(settings: dict[str, Any]) -> None:
    check_tags([NewTag("P", "i=2", settings=ItemSettings(**settings))])


@pytest.mark.parametrize(
    "node_id",
    [
        "i=2258",
        "i=4294967295",
        "ns=2;s=Well1.Pressure",
        "ns=65535;s=a;b=c",
        "s= ",
        "ns=1;s=Druck °C",
        "g=09087e75-8e5e-499b-954f-f2a9603db28a",
        "ns=3;b=M/RbKBsRVkePCePcx24oRA==",
        "nsu=http://example.org/UA/;s=Tank",
        "/Objects/2:Plant/2:Temp[3]",
    ],
)
def test_every_form_of_node_id_is_taken(node_id: str) -> None:
    check_node_id("opc_node_id", node_id)


@pytest.mark.parametrize(
    "node_id",
    [
        "",
        "2258",
        "i=",
        "i=-1",
        "i=4294967296",
        "i=٣",
        "ns=65536;i=1",
        "ns=;i=1",
        "ns=2",
        "x=1",
        "g=1234",
        "g={09087e75-8e5e-499b-954f-f2a9603db28a}",
        "b=%%%",
        "ns=2;s=a\0",
        "nsu=;s=x",
        "s=" + "x" * 499,
    ],
)
def test_a_text_that_is_no_node_id_is_refused(node_id: str) -> None:
    with pytest.raises(InvalidInput, match="opc_node_id: ") as raised:
        check_node_id("opc_node_id", node_id)
    assert len(str(raised.value)) < 300


def test_every_bad_tag_of_a_list_is_named() -> None:
    tags = [
        NewTag("good", "ns=2;s=good"),
        NewTag("", "ns=2;s=a"),
        NewTag("b", "nonsense", data_type="double"),
        NewTag("c", "ns=2;s=c", scaling_factor=0, offset=float("nan")),
        NewTag("again", "ns=2;s=good"),
        NewTag("e", "ns=2;s=e", unit="u" * 51),
    ]
    with pytest.raises(InvalidRows) as raised:
        check_tags(tags)
    assert [problem.field for problem in raised.value.problems] == [
        "tags[1].tag_name",
        "tags[2].opc_node_id",
        "tags[2].data_type",
        "tags[3].scaling_factor",
        "tags[3].offset",
        "tags[4].opc_node_id",
        "tags[5].unit",
    ]
    assert all(problem.field in str(raised.value) for problem in raised.value.problems)


def test_a_message_about_very_many_bad_tags_stays_readable() -> None:
    with pytest.raises(InvalidRows, match="and 980 more") as raised:
        check_tags([NewTag(f"t{i}", f"x{i}") for i in range(1_000)])
    assert len(raised.value.problems) == 1_000
    assert len(str(raised.value)) < 5_000


@pytest.mark.parametrize("tags", [[], [NewTag("P", "i=1")] * 100_001])
def test_a_list_without_tags_or_with_too_many_is_refused(tags: list[NewTag]) -> None:
    with pytest.raises(InvalidInput, match="tags: there are "):
        check_tags(tags)


@pytest.mark.parametrize("written", [0.1, 0.00005, -40, 1e15, Decimal("0.1000000000000000055"), 1])
def test_a_factor_is_kept_as_it_was_written(written: float | Decimal) -> None:
    assert decimal_of("offset", written) == Decimal(str(written))


@pytest.mark.parametrize("written", [float("nan"), float("inf"), 1.1e15, Decimal("sNaN"), "abc"])
def test_a_factor_that_is_no_number_that_fits_is_refused(written: Any) -> None:
    with pytest.raises(InvalidInput, match="offset: "):
        decimal_of("offset", written)
