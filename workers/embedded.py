"""PostgreSQL from a wheel, as our own child process: the database for people who have none. Not for production.

Owns the server's data folder, its password and its life. Opens no connections and knows no tables.

The folder that the caller names holds:

    data/        PostgreSQL's own, mode 0700, owned by the user that the server runs as
    password     of the one login, made here, mode 0600
    server.log   what the server said since its last start
    lock         held while a server of this folder runs
    server-*/    a copy of the programs, only where the server's user cannot reach the installed ones

The server listens on 127.0.0.1 only and asks for the password. PostgreSQL refuses to run as root, so where we are
root it runs as another user. It has a session of its own, so that Ctrl-C reaches us first and the engine can still
flush into it; and it stops by itself when we die (see guarded_exec).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

from engine.errors import ConfigurationError, DatabaseUnavailable
from workers.embedded_binaries import Binaries, ServerUser, find_binaries, server_user

_GUARD = Path(__file__).with_name("guarded_exec.py")
_LOGIN = "scada"
_OUT_OF_THE_WAY = Path("/var/lib/scada-engine")
# Crash recovery replays at most max_wal_size of log; on a slow disk that takes its time.
_START_DEADLINE_S = 120.0
_FAST_STOP_S = 15.0
_IMMEDIATE_STOP_S = 5.0
_POLL_S = 0.01
_PORT_ATTEMPTS = 5
# A server on a full disk cannot write into its log that the disk is full.
_ROOM_TO_SPEAK_BYTES = 64 * 1024
# The line of postmaster.pid that says "ready", counted from 0 (PostgreSQL's pidfile.h).
_STATUS_LINE = 7
# "could not bind" is only a LOG: the server tries its other addresses. On its FATAL line is how many it found.
_COMPLAINT = re.compile(
    r"^.*?(?:(?:FATAL|PANIC|[Ee]rror): +|(?=could not bind ))(.*)(?:\n.*?HINT: +(.*))?$", re.MULTILINE
)

# Small: it shares the machine with the engine. max_wal_size bounds what the folder takes beyond the data.
_SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A statement's error goes to whoever sent it (LOG is above ERROR here): the log stays small and says why the
    # server ended.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}


def reachable_folder(wanted: Path) -> Path:
    """Return `wanted`, or if the server's user cannot enter it (as below /root) a folder of its own in /var/lib."""
    wanted = wanted.absolute()
    there = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    if server_user().can_enter(there):
        return wanted
    return _OUT_OF_THE_WAY / f"postgres-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:8]}"


class EmbeddedPostgres:
    """One server on one folder, from `start` to `stop`; also a context manager.

    Call `start` in a thread that lives as long as the server: Linux stops the server when that thread ends.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        progress: Callable[[str], None] | None = None,
        server_settings: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare. `port` 0 takes a free one; `progress` gets a line for each step that takes noticeable time."""
        self.folder = folder.absolute()
        self.port = port
        self._wanted_port = port
        self._progress = progress or (lambda _line: None)
        self._settings = _SERVER_SETTINGS | dict(server_settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._password = ""

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of a database on the started server, password included."""
        return f"postgresql://{_LOGIN}:{self._password}@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, made anew if the folder is empty, and return once it takes connections.

        Raises ConfigurationError (wheel missing; folder in use, out of reach or of another version) or
        DatabaseUnavailable (the server does not start; the message has its reason).
        """
        if self.pid is not None:
            return
        user = server_user()
        self._take_folder(user)
        try:
            binaries = find_binaries(user, self.folder, self._progress)
            _check_data(self._data, binaries)
            if not self._data.exists():
                self._create_data(binaries, user)
            self._password = _read_password(self.folder / "password")
            self._launch(binaries, user)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: it ends its connections and writes its data; by force if that takes too long."""
        process, self._process = self._process, None
        if process is not None:
            for how, wait_s in ((signal.SIGINT, _FAST_STOP_S), (signal.SIGQUIT, _IMMEDIATE_STOP_S)):
                process.send_signal(how)
                try:
                    process.wait(wait_s)
                    break
                except subprocess.TimeoutExpired:
                    continue
            process.kill()
            process.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _take_folder(self, user: ServerUser) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("wb")
        except OSError as exc:
            raise ConfigurationError(f"cannot use {self.folder} for the database: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.close()
            raise ConfigurationError(f"the database in {self.folder} is in use by another process") from exc
        self._lock = lock
        if not user.can_enter(self.folder):
            self.stop()
            raise ConfigurationError(
                f"the database server runs as user {user.name}, who cannot enter {self.folder}: "
                "name a folder that every user can enter"
            )

    def _create_data(self, binaries: Binaries, user: ServerUser) -> None:
        """Make the data folder; it has its name only once it is complete."""
        self._progress("creating the database server's data")
        partial = self.folder / "data.partial"
        password, for_initdb = self.folder / "password", self.folder / "password.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            secret = secrets.token_urlsafe(24)
            for path in (password, for_initdb):
                path.unlink(missing_ok=True)
                path.touch(mode=0o600)
                path.write_text(secret, "ascii")
            if user.uid is not None and user.gid is not None:
                os.chown(partial, user.uid, user.gid)
                os.chown(for_initdb, user.uid, user.gid)
            with self._log.open("wb") as log:
                command = [str(binaries.folder / "initdb"), "-D", str(partial), "-U", _LOGIN]
                command += [f"--pwfile={for_initdb}"]
                command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
                initdb = _spawn(command, user, log)
                if initdb.wait() != 0:
                    raise self._does_not_start()
            partial.rename(self._data)
        except OSError as exc:
            raise DatabaseUnavailable(f"cannot write to {self.folder}: {exc.strerror}") from exc
        finally:
            for_initdb.unlink(missing_ok=True)
            shutil.rmtree(partial, ignore_errors=True)

    def _launch(self, binaries: Binaries, user: ServerUser) -> None:
        _clear_stale_pid(self._data)
        self._progress("starting the database server")
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = self._wanted_port or _free_port()
            command = [str(binaries.folder / "postgres"), "-D", str(self._data)]
            for name, value in (self._settings | {"port": str(self.port)}).items():
                command += ["-c", f"{name}={value}"]
            with self._log.open("wb") as log:
                self._process = _spawn(command, user, log)
            if self._became_ready(self._process):
                return
            # Between finding a free port and the server's bind, another process can take it.
            taken = "Address already in use" in self._log.read_text("utf-8", "replace")
            if not taken or self._wanted_port or attempt == _PORT_ATTEMPTS:
                raise self._does_not_start()

    def _became_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server takes connections; False if it ended instead."""
        deadline = time.monotonic() + _START_DEADLINE_S
        while process.poll() is None:
            lines = _pid_file(self._data)
            if len(lines) > _STATUS_LINE and lines[0] == str(process.pid) and lines[_STATUS_LINE] == "ready":
                return True
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"the embedded PostgreSQL is not ready after {_START_DEADLINE_S:.0f} s; see {self._log}"
                )
            time.sleep(_POLL_S)
        return False

    def _does_not_start(self) -> DatabaseUnavailable:
        said = self._log.read_text("utf-8", "replace").strip()
        # The first complaint is the cause, what follows are its consequences; a full disk is named in the hint.
        found = _COMPLAINT.search(said)
        reason = ". ".join(filter(None, found.groups())) if found else said.rpartition("\n")[2]
        if not reason and shutil.disk_usage(self.folder).free < _ROOM_TO_SPEAK_BYTES:
            reason = "No space left on device"
        return DatabaseUnavailable(f"the embedded PostgreSQL does not start: {reason} (see {self._log})")


def _spawn(command: list[str], user: ServerUser, log: IO[bytes]) -> subprocess.Popen[bytes]:
    who = "-" if user.uid is None else f"{user.uid}:{user.gid}"
    guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), who, "-"]
    return subprocess.Popen(
        [*guard, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd="/",
        # Nothing of ours: PG* variables and a foreign LD_LIBRARY_PATH would change what the server does.
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
    )


def _check_data(data: Path, binaries: Binaries) -> None:
    if not data.exists():
        return
    try:
        found = (data / "PG_VERSION").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{data} is there but is not PostgreSQL's data: move it away") from exc
    if found != str(binaries.major):
        raise ConfigurationError(
            f"{data} is of PostgreSQL {found} and this is {binaries.major}: "
            "move the folder away, or upgrade it with pg_upgrade"
        )


def _read_password(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot read the database's password from {file}: {exc}") from exc


def _clear_stale_pid(data: Path) -> None:
    """Wait for a server that is still ending (its parent was killed); forget one that only left its file.

    PostgreSQL does the second itself unless the process id is in use again by another program of the same user,
    which is the rule rather than the exception in containers.
    """
    deadline = time.monotonic() + _FAST_STOP_S
    while lines := _pid_file(data):
        try:
            # The server's current folder is its data folder, whatever its program is called.
            running = Path(f"/proc/{int(lines[0])}/cwd").readlink() == data.resolve()
        except (OSError, ValueError):
            running = False
        if not running:
            (data / "postmaster.pid").unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise ConfigurationError(f"another server, process {lines[0]}, runs on {data}")
        time.sleep(_POLL_S)


def _pid_file(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text("utf-8", "replace").splitlines()]
    except FileNotFoundError:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
