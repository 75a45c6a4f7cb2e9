"""The open62541 server (open62541/*.c), for tests and benches. Its counters show every gap and repetition.

It is compiled with the compiler and the library of the Debian root folder, which needs root; the program is
kept beside that folder, named for its source. It runs with that folder's libraries, as whoever runs the
tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.debian_root import ServerMissing, cache_folder, debian_root
from tests.servers.fixed_values import FIXED_VALUES, counters, fixed
from tests.servers.opcua_server import OpcuaServer, free_port, server_process
from tests.servers.server_options import ServerOptions

_SOURCE = Path(__file__).parent / "open62541"
_COMPILE = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
_LIBRARIES = ("-lopen62541", "-lm")
_COMPILE_TIMEOUT_S = 60
_START_DEADLINE_S = 30.0

_MORE_FIXED_VALUES = (
    fixed("type.UInt64.big", "UInt64", 2**64 - 1),
    fixed("type.Double.nan", "Double", float("nan")),
    fixed("type.Double.infinity", "Double", float("inf")),
    fixed("type.LocalizedText", "LocalizedText", "running"),
    fixed("type.NodeId", "NodeId", "i=85"),
)


@contextmanager
def open62541_server(
    *,
    port: int | None = None,
    variables: int = 10,
    interval_ms: float = 100.0,
    data_type: str = "Double",
    sampled: bool = False,
    options: ServerOptions | None = None,
) -> Iterator[OpcuaServer]:
    """Run the server: counters tag.0 .. that all go up by one per interval, and the fixed values.

    Every step is queued for every subscriber, whatever sampling interval it asked for; with `sampled` its
    interval counts. Give `port` to start a server again where one was. Raises ServerMissing and ServerFailed.
    """
    root = debian_root()
    port = free_port() if port is None else port
    command = [*_loader(root), str(_program(root)), str(port)]
    command += ["--variables", str(variables), "--interval-ms", str(interval_ms), "--type", data_type]
    if sampled:
        command.append("--sampled")
    options = options or ServerOptions()
    command += _arguments(options)
    with server_process("open62541 server", command, deadline_s=_START_DEADLINE_S) as process:
        served = (*counters(variables, data_type), *FIXED_VALUES, *_MORE_FIXED_VALUES)
        yield OpcuaServer(f"opc.tcp://127.0.0.1:{port}", served, process, "open62541", options)


def _arguments(options: ServerOptions) -> list[str]:
    """Return the options as the program's command line has them."""
    found: list[str] = []
    if identity := options.identity:
        found += ["--certificate", str(identity.certificate), "--key", str(identity.private_key)]
        found += ["--application-uri", identity.application_uri]
    for user, password in options.users:
        found += ["--user", f"{user}:{password}"]
    if options.user_certificate:
        found += ["--user-certificate", str(options.user_certificate.certificate)]
    if options.trusted_client:
        found += ["--trusted-client", str(options.trusted_client.certificate)]
    switches = {
        "--only-secure": options.only_secure,
        "--deprecated": options.deprecated,
        "--no-anonymous": not options.anonymous,
        "--namespace-before": options.namespace_before,
    }
    found += [name for name, wanted in switches.items() if wanted]
    numbers = {
        "--max-items-per-call": options.limits.items_per_call,
        "--max-items-per-subscription": options.limits.items_per_subscription,
        "--max-nodes-per-read": options.limits.nodes_per_read,
        "--max-nodes-per-browse": options.limits.nodes_per_browse,
        "--max-session-ms": options.session_ms,
        "--max-lifetime-count": options.lifetime_count,
        "--history-page": options.history_page,
        "--service-level": options.service_level,
    }
    return found + [part for name, value in numbers.items() for part in (name, f"{value:g}")]


def hold_counters(server: OpcuaServer) -> None:
    """Keep the counters of an open62541 server where they are, so that a test knows the last value."""
    server.process.signal(signal.SIGUSR1)


def release_counters(server: OpcuaServer) -> None:
    """Let the counters of an open62541 server go on."""
    server.process.signal(signal.SIGUSR2)


def _program(root: Path) -> Path:
    """Return the compiled server, compiled now if this source never was."""
    sources = [file.read_bytes() for file in _source_files()]
    recipe = b"\0".join([*sources, *(part.encode() for part in (*_COMPILE, *_LIBRARIES))])
    program = cache_folder() / f"open62541-server-{hashlib.sha256(recipe).hexdigest()[:16]}"
    if not program.exists():
        _compile(root, program)
    return program


def _source_files() -> list[Path]:
    return sorted(file for file in _SOURCE.iterdir() if file.suffix in {".c", ".h"})


def _compile(root: Path, program: Path) -> None:
    if os.geteuid() != 0:
        raise ServerMissing(f"{program} is not there, and compiling it inside {root} needs root")
    inside = Path(tempfile.mkdtemp(prefix="open62541-", dir=root / "tmp"))
    try:
        for file in _source_files():
            shutil.copy(file, inside)
        folder = f"/tmp/{inside.name}"
        compiled = [f"{folder}/{file.name}" for file in _source_files() if file.suffix == ".c"]
        command = ["chroot", str(root), *_COMPILE, *compiled, "-o", f"{folder}/server", *_LIBRARIES]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise ServerMissing(f"{_SOURCE} does not compile: {done.stderr.strip()[-2_000:]}")
        # A rename on the same file system: another process sees the whole program or none.
        partial = program.with_suffix(f".{os.getpid()}")
        shutil.copy(inside / "server", partial)
        partial.rename(program)
    finally:
        shutil.rmtree(inside, ignore_errors=True)


def _loader(root: Path) -> list[str]:
    """Return what starts a program with the root folder's libraries, without entering the folder."""
    library = next(root.glob("usr/lib/*-linux-gnu/libopen62541.so.*"), None)
    loader = next((root / "usr").glob("lib*/ld-linux-*.so.*"), None)
    if library is None or loader is None:
        raise ServerMissing(f"{root} has no libopen62541 or no program loader")
    return [str(loader), "--library-path", str(library.parent)]
