"""TCP ports of this machine: which are free, and what one answers to an HTTP GET."""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException

from engine.errors import ScadaError

_LOOPBACK = "127.0.0.1"
_ANSWER_S = 2.0


def free_port_near(wanted: int) -> int:
    """Return the wanted port of the loopback interface, or another one where that is taken (or 0)."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do: a connection of the last run that is still closing does not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise ScadaError("there is no free TCP port")


def is_ready(metrics_port: int) -> bool:
    """Say whether /readyz answers 200."""
    return http_get(metrics_port, "/readyz")[0] == 200


def http_get(port: int, path: str) -> tuple[int, str]:
    """Return status and body; status 0 when nothing answers."""
    connection = HTTPConnection(_LOOPBACK, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, HTTPException):
        return 0, ""
    finally:
        connection.close()
