"""Ports that are open to this machine only. Owns the rule that they are, and the words for one that cannot be opened.

It holds for the ports that answer for tenants, until their callers have tokens.
"""

from __future__ import annotations

import ipaddress
import socket

from engine.errors import ConfigurationError


def loopback(host: str) -> str:
    """Return the setting `host` as an address. Raises ConfigurationError unless only this machine reaches it."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ConfigurationError(
            f"host: {host!r} is not a loopback address such as 127.0.0.1; until the callers of gRPC and REST have"
            " tokens, these ports are open to this machine only"
        )
    return str(address)


def names_this_machine(host: str) -> bool:
    """Return whether a request's Host header names this machine: localhost, or a loopback address, with any port.

    A web page whose own name was pointed at 127.0.0.1 sends that name: it must not read what only this machine may.
    """
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def beside_port(address: str) -> str:
    """Return the address as it stands before a port: that of IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def bound(setting: str, address: str, port: int) -> socket.socket:
    """Return a TCP socket bound to this port of nobody else. Raises ConfigurationError naming `setting`."""
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    # What the last run left half closed is in nobody's way.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((address, port))
    except OSError as exc:
        opened.close()
        raise port_error(setting, address, port, exc.strerror or str(exc)) from exc
    return opened


def port_error(setting: str, address: str, port: int, reason: str) -> ConfigurationError:
    """Return the error for a port that cannot be opened."""
    return ConfigurationError(f"{setting}: port {port} on {beside_port(address)} cannot be opened: {reason}")
