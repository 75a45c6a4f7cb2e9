"""pgbouncer in transaction mode before a test's database server: each transaction may get another connection.

It runs in the Debian root folder as its user postgres, on a free port of 127.0.0.1, and ends with the process
that started it. Few server connections, so that transactions of different clients do share them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.servers.debian_root import debian_root, user_ids
from tests.servers.opcua_server import free_port

_GUARD = Path(__file__).parents[2] / "workers" / "guarded_exec.py"
_START_DEADLINE_S = 20.0
_STOP_DEADLINE_S = 5.0
_SETTINGS = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
# What a session left behind stays for the next one: nobody may rely on it, or stumble over it.
server_reset_query_always = 0
"""


@contextmanager
def pgbouncer(dsn: str) -> Iterator[str]:
    """Yield the DSN of a pooler before the server of `dsn`, with the same user, password and database.

    Raises ServerMissing.
    """
    root = debian_root()
    server, port = urlsplit(dsn), free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=root / "tmp"))
    inside = Path("/tmp") / folder.name
    uid, gid = user_ids(root, "postgres")
    settings = _SETTINGS.format(host=server.hostname, server_port=server.port, port=port, folder=inside)
    (folder / "settings").write_text(settings, "ascii")
    (folder / "users").write_text(f'"{server.username}" "{server.password}"\n', "ascii")
    for path in (folder, folder / "settings", folder / "users"):
        os.chown(path, uid, gid)
    pooled = urlunsplit(server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{port}"))
    guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), f"{uid}:{gid}", str(root)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*guard, "/usr/sbin/pgbouncer", str(inside / "settings")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_ready(process, pooled, log)
        yield pooled
    finally:
        process.kill()
        process.wait(_STOP_DEADLINE_S)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_ready(process: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    deadline_s = time.monotonic() + _START_DEADLINE_S
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError as exc:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(
                    f"pgbouncer does not answer ({exc}): {log.read_text()[-2_000:]}"
                ) from exc
            time.sleep(0.02)
        else:
            return
