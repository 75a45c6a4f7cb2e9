"""What counts as this machine."""

from __future__ import annotations

import pytest

from workers.loopback import names_this_machine


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.8.9.1:1", "[::1]", "[::1]:8080"],
)
def test_localhost_and_loopback_addresses_name_this_machine(host: str) -> None:
    assert names_this_machine(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8080",
        "example.com",
        "localhost.example.com:80",
        "127.0.0.1.example.com",
        "10.0.0.1",
        "[::2]:80",
        "[",
        "::",
    ],
)
def test_everything_else_does_not(host: str) -> None:
    assert not names_this_machine(host)
