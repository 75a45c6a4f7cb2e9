"""Starts any of the OPC UA servers by its name, so that one test can run against all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tests.servers.asyncua_server import asyncua_server
from tests.servers.node_opcua import node_opcua_server
from tests.servers.opcua_server import Maker, OpcuaServer
from tests.servers.open62541 import open62541_server
from tests.servers.server_options import ServerOptions

MAKERS: tuple[Maker, ...] = ("asyncua", "open62541", "node-opcua")


def running_server(
    maker: Maker,
    options: ServerOptions | None = None,
    *,
    port: int | None = None,
    variables: int = 10,
    interval_ms: float = 100.0,
) -> AbstractContextManager[OpcuaServer]:
    """Run a maker's server; give `port` to start it again where it was. Raises ServerMissing and ServerFailed."""
    starts = {"asyncua": asyncua_server, "open62541": open62541_server, "node-opcua": node_opcua_server}
    return starts[maker](port=port, variables=variables, interval_ms=interval_ms, options=options)
