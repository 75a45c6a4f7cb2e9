"""A small disk for a database of a test server's, which a test can fill and free again. Needs root.

It is a file system in memory, mounted where the server sees it: in the server's own mount namespace, if it has one.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from tests.servers.debian_root import ServerMissing

_BALLAST_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class SmallTablespace:
    """A tablespace of its own file system."""

    name: str
    _ballast: Path

    def fill(self) -> None:
        """Leave no room."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(_BALLAST_BYTES))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink()


@contextmanager
def small_tablespace(dsn: str, *, megabytes: int) -> Iterator[SmallTablespace]:
    """Make a tablespace on the server of a superuser's DSN, removed with its file system. Raises ServerMissing."""
    if os.geteuid() != 0:
        raise ServerMissing("a disk that can be filled is mounted for this test, and mounting needs root")
    name = f"small_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select pg_backend_pid(), current_setting('data_directory')").fetchone()
        assert row is not None
        server = psutil.Process(row[0]).parent()
        assert server is not None
        inside = Path(row[1]).parent / name
        # As the mount namespace has it, in which the server may be confined to a root folder.
        place = Path(f"/proc/{server.pid}/root").readlink() / inside.relative_to("/")
        owner = server.uids().real
        _run(server.pid, "mkdir", str(place))
        _run(
            server.pid,
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={megabytes}m,uid={owner},mode=0700",
            "tmpfs",
            str(place),
        )
        try:
            location = SQL("create tablespace {} location {}").format(Identifier(name), str(inside))
            connection.execute(location)
            try:
                yield SmallTablespace(name, Path(f"/proc/{server.pid}/root{inside}/ballast"))
            finally:
                connection.execute(SQL("drop tablespace {}").format(Identifier(name)))
        finally:
            _run(server.pid, "umount", "--lazy", str(place))
            _run(server.pid, "rmdir", str(place))


def _run(server_pid: int, *command: str) -> None:
    """Run a command in a server's mount namespace, but not in its root folder."""
    done = subprocess.run(
        ["nsenter", f"--mount=/proc/{server_pid}/ns/mnt", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerMissing(f"{' '.join(command)}: {done.stderr.strip()}")
