"""The options of `connection add`: what each becomes, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engine.catalog import ItemSettings, NewConnection
from engine.errors import InvalidInput
from workers.cli.connection_options import connection_fields
from workers.cli.connections import add

NOTHING: dict[str, Any] = {
    "poll": None,
    "publishing_interval_ms": None,
    "sampling_interval_ms": None,
    "queue_size": None,
    "discard_oldest": None,
    "deadband": None,
    "data_change_trigger": None,
    "timestamps_to_return": None,
    "password_file": None,
    "user_certificate_file": None,
    "user_private_key_file": None,
}


def test_without_options_everything_is_left_open() -> None:
    assert connection_fields(**NOTHING) == {
        "settings": ItemSettings(),
        "password": None,
        "user_certificate": None,
        "user_private_key": None,
    }


@pytest.mark.parametrize(
    ("text", "kind", "value"), [("0.5", "Absolute", 0.5), ("2%", "Percent", 2.0), ("1e3", "Absolute", 1000.0)]
)
def test_a_deadband_with_a_percent_sign_is_of_the_range(text: str, kind: str, value: float) -> None:
    settings = connection_fields(**NOTHING | {"deadband": text})["settings"]
    assert (settings.deadband_type, settings.deadband_value) == (kind, value)


@pytest.mark.parametrize("option", ["user_certificate", "user_private_key"])
def test_a_file_that_is_not_pem_or_not_there_is_named_with_what_to_do(tmp_path: Path, option: str) -> None:
    file = tmp_path / "user.der"
    for said in ("cannot read", "is not PEM; make it so: openssl"):
        with pytest.raises(InvalidInput, match=f"--{option.replace('_', '-')}: .*{said}"):
            connection_fields(**NOTHING | {f"{option}_file": file})
        file.write_bytes(b"\x30\x82\xff")


def test_the_help_shows_the_options_in_groups_and_every_option_is_a_field() -> None:
    shown = CliRunner().invoke(add, ["--help"], terminal_width=110).output
    assert [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        "Security:",
        "User:",
        "How its tags are read, unless a tag says otherwise:",
    ]
    fields = {*NewConnection.__slots__, *ItemSettings.__slots__}
    for option in (
        "failover_urls",
        "allow_deprecated_policies",
        "allow_plain_password",
        "poll_interval_seconds",
    ):
        assert option in {parameter.name for parameter in add.params} & fields
