"""Our own simulator of wells in a process of its own, for tests and benches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.opcua_server import OpcuaServer, ServedVariable, server_process
from workers.opcua.simulation.simulator import node_id, well_names
from workers.opcua.simulation.wells import TAGS

_START_DEADLINE_S = 30.0


@contextmanager
def simulator(
    *, port: int = 0, wells: int = 2, rate_hz: float = 10.0, seed: int = 0
) -> Iterator[OpcuaServer]:
    """Run the simulator. Port 0 takes a free one. Raises ServerFailed."""
    command = [
        sys.executable,
        "-m",
        "workers.opcua.simulation.simulator",
        "--until-stdin-closes",
        "--port",
        str(port),
    ]
    command += ["--wells", str(wells), "--rate-hz", str(rate_hz), "--seed", str(seed)]
    served = tuple(
        ServedVariable(node_id(well, tag.name), tag.data_type) for well in well_names(wells) for tag in TAGS
    )
    with server_process("simulator", command, deadline_s=_START_DEADLINE_S) as process:
        yield OpcuaServer(process.ready_text, served, process)
