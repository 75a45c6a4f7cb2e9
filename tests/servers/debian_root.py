"""A root folder of Debian 13 with what the tests need and this machine may lack; made once, kept between runs.

It lies in `$SCADA_TEST_CACHE`, else `$XDG_CACHE_HOME/scada-engine`, else `~/.cache/scada-engine`, and takes about
0.8 GB. Making it needs root, mmdebstrap, a Debian mirror and about half a minute. Packages come from the mirror that
mmdebstrap chooses, or from `$SCADA_TEST_DEBIAN_MIRROR`.

A file inside names the packages: when PACKAGES has more, they are installed into the folder, which other tests may be
using; when it has changed otherwise, or that fails, the folder is made anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUITE = "trixie"
PACKAGES = (
    "postgresql-17",
    "postgresql-17-timescaledb",
    # The OPC UA server of another maker, and the compiler for it.
    "libopen62541-1.4-dev",
    "gcc",
    "libc6-dev",
    # The pooler that may stand before a tenant's database.
    "pgbouncer",
)
_BUILD_TIMEOUT_S = 900
# Packages start their services when they are installed, unless this file forbids it.
_START_NOTHING = "#!/bin/sh\nexit 101\n"


class ServerMissing(Exception):
    """A test server cannot be had on this machine; the message says what to install."""


def cache_folder() -> Path:
    """Return the folder for things that are expensive to make and good for later runs."""
    if chosen := os.environ.get("SCADA_TEST_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scada-engine"


def is_made() -> bool:
    """Return whether `debian_root` would return at once."""
    return _is_current(_place())


def debian_root() -> Path:
    """Return the root folder, made now if it is missing or of other packages. Raises ServerMissing."""
    root = _place()
    if _is_current(root):
        return root
    if os.geteuid() != 0:
        raise ServerMissing(f"{root} is not there, and making it needs root")
    if shutil.which("mmdebstrap") is None:
        raise ServerMissing(
            f"{root} is not there, and making it needs mmdebstrap: apt-get install mmdebstrap"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(root.with_suffix(".lock")):
        if not _is_current(root) and not _add_missing(root):
            _build(root)
    return root


def user_ids(root: Path, name: str) -> tuple[int, int]:
    """Return the user and group id that `name` has inside the root folder."""
    for line in (root / "etc/passwd").read_text("utf-8").splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(fields[3])
    raise ServerMissing(f"{root} has no user {name}")


def _place() -> Path:
    return cache_folder() / "debian-13"


def _is_current(root: Path) -> bool:
    try:
        return _marker(root).read_text("utf-8") == _marker_text()
    except FileNotFoundError:
        return False


def _marker(root: Path) -> Path:
    return root / "etc" / "scada-test-packages"


def _marker_text() -> str:
    return "\n".join((SUITE, *PACKAGES)) + "\n"


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _add_missing(root: Path) -> bool:
    """Install what PACKAGES has and the folder lacks; return whether it is current then. The caller holds the lock."""
    try:
        suite, *there = _marker(root).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return False
    missing = [name for name in PACKAGES if name not in there]
    if suite != SUITE or set(there) - set(PACKAGES) or not missing:
        return False
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_START_NOTHING, "ascii")
    policy.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(
                ["chroot", str(root), "apt-get", "--quiet", *command],
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "LC_ALL": "C",
                    "DEBIAN_FRONTEND": "noninteractive",
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_BUILD_TIMEOUT_S,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        policy.unlink()
    _marker(root).write_text(_marker_text(), "utf-8")
    return True


def _build(root: Path) -> None:
    """Make the folder beside its place and move it there once it is whole. The caller holds the lock."""
    partial, old = root.with_suffix(".partial"), root.with_suffix(".old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    command += [SUITE, str(partial)]
    if mirror := os.environ.get("SCADA_TEST_DEBIAN_MIRROR"):
        command.append(mirror)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise ServerMissing(f"mmdebstrap could not make {root}: {done.stderr.strip()[-2000:]}")
        _marker(partial).write_text(_marker_text(), "utf-8")
        if root.exists():
            root.rename(old)
        partial.rename(root)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
