"""The servers of other makers serve what the tests that use them rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers.debian_root import ServerMissing
from tests.servers.node_opcua import node_opcua_server as run_node_opcua
from tests.servers.opcua_server import REPOSITORY, OpcuaServer, ServerFailed
from tests.servers.open62541 import hold_counters, release_counters
from tests.servers.open62541 import open62541_server as run_open62541
from tests.servers.watching import Seen, each_has, read, watch

OTHER_MAKERS = ["open62541_server", "node_opcua_server", "asyncua_server"]


@pytest.fixture(params=OTHER_MAKERS)
def server(request: pytest.FixtureRequest) -> OpcuaServer:
    """Each server of another maker in turn."""
    found: OpcuaServer = request.getfixturevalue(request.param)
    return found


async def test_the_fixed_values_are_served_with_their_type_and_status(server: OpcuaServer) -> None:
    found = await read(server.endpoint, [variable.node_id for variable in server.fixed])
    for variable, seen in zip(server.fixed, found, strict=True):
        # repr, because NaN is not equal to itself.
        assert repr(seen.value) == repr(variable.value)
        assert (seen.data_type, seen.status) == (variable.data_type, variable.status), variable


async def test_the_counters_move_with_source_timestamps(server: OpcuaServer) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    ids = [variable.node_id for variable in server.moving]
    log = await watch(server.endpoint, ids, each_has(5, nodes=len(ids)))
    for seen in log.values():
        assert all(earlier < later for earlier, later in pairwise(counted(seen)))
        assert all(earlier.source_time < later.source_time for earlier, later in pairwise(seen))
        assert before < seen[0].source_time <= datetime.now(UTC)


async def test_open62541_sends_each_step_once_whatever_the_sampling_interval() -> None:
    with run_open62541(variables=3, interval_ms=10) as server:
        ids = [variable.node_id for variable in server.moving]
        log = await watch(server.endpoint, ids, each_has(100, nodes=3), sampling_ms=1_000)
    for seen in log.values():
        numbers = counted(seen)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_open62541_samples_at_the_clients_interval_if_told_to() -> None:
    with run_open62541(variables=1, interval_ms=10, sampled=True) as server:
        ids = [variable.node_id for variable in server.moving]
        log = await watch(server.endpoint, ids, each_has(5, nodes=1), sampling_ms=200)
    numbers = counted(log[ids[0]])
    assert all(later - earlier > 5 for earlier, later in pairwise(numbers))


async def test_open62541_counters_can_be_held_and_released() -> None:
    with run_open62541(variables=2, interval_ms=10, data_type="Int32") as server:
        ids = [variable.node_id for variable in server.moving]
        await watch(server.endpoint, ids, each_has(5, nodes=2))
        hold_counters(server)
        first = [seen.value for seen in await read(server.endpoint, ids)]
        # Connecting takes several intervals.
        assert [seen.value for seen in await read(server.endpoint, ids)] == first
        release_counters(server)
        await watch(server.endpoint, ids, each_has(5, nodes=2))


async def test_node_opcua_sends_picoseconds(node_opcua_server: OpcuaServer) -> None:
    seen = await read(
        node_opcua_server.endpoint, [variable.node_id for variable in node_opcua_server.variables]
    )
    assert sum(one.source_picoseconds > 0 for one in seen) > len(seen) / 2


def test_a_server_can_be_killed_and_started_again_on_its_port() -> None:
    with run_open62541() as server:
        server.process.kill()
    port = int(server.endpoint.rsplit(":", 1)[1])
    with run_open62541(port=port) as again:
        assert again.endpoint == server.endpoint


def test_a_taken_port_is_refused_with_the_reason(server: OpcuaServer) -> None:
    port = int(server.endpoint.rsplit(":", 1)[1])
    with pytest.raises(ServerFailed, match=f"port {port}: Address already in use"), run_open62541(port=port):
        pass


@pytest.mark.parametrize(
    "module",
    [
        "simulator.simulator",
        "open62541.open62541_server",
        "node_opcua.node_opcua_server",
        "asyncua_server.asyncua_server",
    ],
)
def test_a_server_ends_when_its_parent_is_killed(module: str) -> None:
    name, function = module.split(".")
    program = f"""
import time
from tests.servers.{name} import {function}
with {function}() as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    _wait_until_gone(pid)


def test_a_machine_without_node_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(ServerMissing, match="node and npm not found: apt-get install nodejs npm"),
        run_node_opcua(),
    ):
        pass


def counted(seen: list[Seen]) -> list[int]:
    """Return a counter's values as integers."""
    return [int(str(one.value).removesuffix(".0")) for one in seen]


def _wait_until_gone(pid: int, deadline_s: float = 10.0) -> None:
    give_up = time.monotonic() + deadline_s
    while _is_running(pid):
        assert time.monotonic() < give_up, f"process {pid} outlived its parent by {deadline_s} s"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    # A zombie has ended; whoever inherited it only has not asked yet.
    return state != "Z"
