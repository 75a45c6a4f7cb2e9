"""asyncua's own server in a process of its own (asyncua_program.py), for tests. Pure Python: not for load."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.fixed_values import BAD_SENSOR_FAILURE, FIXED_VALUES, counters
from tests.servers.opcua_server import OpcuaServer, free_port, server_process
from tests.servers.server_options import ServerOptions

_START_DEADLINE_S = 30.0


@contextmanager
def asyncua_server(
    *,
    port: int | None = None,
    variables: int = 10,
    interval_ms: float = 100.0,
    options: ServerOptions | None = None,
) -> Iterator[OpcuaServer]:
    """Run the server: Double counters tag.0 .. that all go up by one per interval, and the fixed values.

    Give `port` to start a server again where one was. It knows no limits, keeps the client's session timeout and
    lifetime, and takes every user certificate and every client. Raises ServerFailed.
    """
    options = options or ServerOptions()
    port = free_port() if port is None else port
    identity = options.identity
    arguments = {
        "variables": variables,
        "interval_ms": interval_ms,
        "application_uri": identity.application_uri if identity else None,
        "certificate": str(identity.certificate) if identity else None,
        "private_key": str(identity.private_key) if identity else None,
        "only_secure": options.only_secure,
        "deprecated": options.deprecated,
        "users": options.users,
        "anonymous": options.anonymous,
        "history_page": options.history_page,
        "namespace_before": options.namespace_before,
        "service_level": options.service_level,
    }
    command = [sys.executable, "-m", "tests.servers.asyncua_program", str(port), json.dumps(arguments)]
    with server_process("asyncua server", command, deadline_s=_START_DEADLINE_S) as process:
        # This server keeps no value beside a Bad status: status.Bad is there, and null.
        kept = (variable for variable in FIXED_VALUES if variable.status != BAD_SENSOR_FAILURE)
        served = (*counters(variables), *kept)
        yield OpcuaServer(f"opc.tcp://127.0.0.1:{port}", served, process, "asyncua", options)
