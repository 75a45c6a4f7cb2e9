"""A TimescaleDB server for tests and benches. Found in this order:

1. the server that `$SCADA_TEST_DATABASE_URL` names (its user may create databases and the extension);
2. a PostgreSQL installed here that has TimescaleDB: a throwaway server of its programs;
3. the Debian root folder: a throwaway server in it (needs root).

A throwaway server has its data in memory or a temporary folder, does not care for a power cut, listens on a free
port of 127.0.0.1 with a password of its own, and ends with the process that started it.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.servers.debian_root import ServerMissing, debian_root, user_ids

_GUARD = Path(__file__).parents[2] / "workers" / "guarded_exec.py"
_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 10.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "200",
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # One scheduler for each database that has the extension, and tests make many databases.
    "timescaledb.max_background_workers": "32",
    "max_worker_processes": "48",
    "timezone": "UTC",
}

# $1 folder for the data, $2 folder of the programs, the rest are the server's options.
_SERVE = """
umask 077
cd "$1"
printf %s "$SERVER_PASSWORD" > password
"$2/initdb" -D data -U postgres --pwfile=password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 \
    --no-sync --no-instructions > /dev/null
data=$1/data programs=$2
shift 2
exec "$programs/postgres" -D "$data" "$@"
"""

# In a mount namespace of its own, so that nothing is left behind. $1 root folder, $2 owner of the data.
_MOUNT = """
mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=0755 tmpfs "$1/var/lib/postgresql"
chown "$2" "$1/var/lib/postgresql"
shift 2
exec "$@"
"""


@contextmanager
def timescale() -> Iterator[str]:
    """Yield the DSN of a superuser on the maintenance database. Raises ServerMissing with what to install."""
    if url := os.environ.get("SCADA_TEST_DATABASE_URL"):
        with psycopg.connect(url, connect_timeout=10) as connection:
            found = connection.execute("select from pg_available_extensions where name = 'timescaledb'")
            if found.fetchone() is None:
                raise ServerMissing("the server of SCADA_TEST_DATABASE_URL has no TimescaleDB")
        yield url
        return
    programs = _installed_programs()
    if programs is not None:
        with _installed_server(programs) as dsn:
            yield dsn
        return
    try:
        root = debian_root()
    except ServerMissing as exc:
        raise ServerMissing(
            "the tests need a server with TimescaleDB: set SCADA_TEST_DATABASE_URL, or install TimescaleDB for "
            f"this machine's PostgreSQL, or run as root with mmdebstrap installed ({exc})"
        ) from exc
    with _server_in(root) as dsn:
        yield dsn


def needs_debian_root() -> bool:
    """Return whether `timescale` would use the Debian root folder on this machine."""
    return not os.environ.get("SCADA_TEST_DATABASE_URL") and _installed_programs() is None


def _installed_programs() -> Path | None:
    """Return the programs of the newest installed PostgreSQL that has TimescaleDB, in Debian's places."""
    for control in sorted(
        Path("/usr/share/postgresql").glob("*/extension/timescaledb.control"), reverse=True
    ):
        home = Path("/usr/lib/postgresql") / control.parents[1].name
        if (home / "bin/postgres").exists() and (home / "lib/timescaledb.so").exists():
            return home / "bin"
    return None


@contextmanager
def _installed_server(programs: Path) -> Iterator[str]:
    data = Path(tempfile.mkdtemp(prefix="scada-timescale-"))
    try:
        user = "-"
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            os.chown(data, entry.pw_uid, entry.pw_gid)
            user = f"{entry.pw_uid}:{entry.pw_gid}"
        with _serving([], user=user, root="-", data=str(data), programs=str(programs)) as dsn:
            yield dsn
    finally:
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _server_in(root: Path) -> Iterator[str]:
    uid, gid = user_ids(root, "postgres")
    (programs,) = root.glob("usr/lib/postgresql/*/bin")
    owner = f"{uid}:{gid}"
    namespace = ["unshare", "--mount", "--propagation=private", "/bin/sh", "-eu", "-c", _MOUNT, "sh"]
    with _serving(
        [*namespace, str(root), owner],
        user=owner,
        root=str(root),
        data="/var/lib/postgresql",
        programs=f"/{programs.relative_to(root)}",
    ) as dsn:
        yield dsn


@contextmanager
def _serving(prefix: list[str], *, user: str, root: str, data: str, programs: str) -> Iterator[str]:
    """Run a new server until the block ends; yield its DSN once it takes connections."""
    port, password = _free_port(), secrets.token_urlsafe(18)
    options = [f"--{name}={value}" for name, value in (_SETTINGS | {"port": str(port)}).items()]
    guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), user, root]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*prefix, *guard, "/bin/sh", "-eu", "-c", _SERVE, "sh", data, programs, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SERVER_PASSWORD": password},
            start_new_session=True,
        )
        try:
            dsn = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
            if not _became_ready(process, dsn):
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise ServerMissing(f"the TimescaleDB server for the tests did not start: {said[-2000:]}")
            yield dsn
        finally:
            # Its data is thrown away: no need to write it first.
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _became_ready(process: subprocess.Popen[bytes], dsn: str) -> bool:
    deadline = time.monotonic() + _START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
