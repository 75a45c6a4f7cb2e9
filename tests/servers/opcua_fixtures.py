"""Pytest fixtures of the OPC UA servers, one of each for a whole run. tests/conftest.py loads this module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.servers.asyncua_server import asyncua_server as run_asyncua
from tests.servers.debian_root import ServerMissing
from tests.servers.node_opcua import node_opcua_server as run_node_opcua
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server as run_open62541
from tests.servers.simulator import simulator as run_simulator


@contextmanager
def _or_fail(server: AbstractContextManager[OpcuaServer]) -> Iterator[OpcuaServer]:
    """Fail the tests that need a server which cannot be had here; they are never skipped."""
    try:
        started = server.__enter__()
    except ServerMissing as exc:
        pytest.fail(str(exc), pytrace=False)
    try:
        yield started
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def simulator() -> Iterator[OpcuaServer]:
    """Our simulator of two wells, ten samples a second."""
    with run_simulator() as server:
        yield server


@pytest.fixture(scope="session")
def open62541_server() -> Iterator[OpcuaServer]:
    """An open62541 server with ten counters at ten steps a second, and a fixed value of each type."""
    with _or_fail(run_open62541()) as server:
        yield server


@pytest.fixture(scope="session")
def node_opcua_server() -> Iterator[OpcuaServer]:
    """A node-opcua server with ten counters at ten steps a second, and a fixed value of each type."""
    with _or_fail(run_node_opcua()) as server:
        yield server


@pytest.fixture(scope="session")
def asyncua_server() -> Iterator[OpcuaServer]:
    """asyncua's server with ten counters at ten steps a second, and a fixed value of each type."""
    with run_asyncua() as server:
        yield server
