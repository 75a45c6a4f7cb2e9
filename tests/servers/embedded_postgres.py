"""The embedded PostgreSQL on a temporary folder, for tests and benches."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.embedded import EmbeddedPostgres

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 1 << 30


@contextmanager
def embedded_postgres() -> Iterator[str]:
    """Yield the DSN of a superuser on the maintenance database of a new server."""
    folder = Path(tempfile.mkdtemp(prefix="scada-embedded-", dir=memory()))
    # The server may run as another user, who has to pass through.
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder, server_settings={"fsync": "off", "max_connections": "200"}) as server:
            yield server.dsn()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> Path | None:
    """Return a file system in memory, where databases are made and dropped ten times as fast; None for the default.

    Containers often give it 64 MB, or forbid programs in it, which the server's folder may hold.
    """
    if not _MEMORY.is_dir():
        return None
    found = os.statvfs(_MEMORY)
    large = found.f_bavail * found.f_frsize >= _ENOUGH_BYTES
    return _MEMORY if large and not found.f_flag & os.ST_NOEXEC else None
