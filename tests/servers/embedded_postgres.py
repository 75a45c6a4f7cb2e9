"""The embedded PostgreSQL on a temporary folder, for tests and benches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.embedded import EmbeddedPostgres


@contextmanager
def embedded_postgres() -> Iterator[str]:
    """Yield the DSN of a superuser on the maintenance database of a new server."""
    folder = Path(tempfile.mkdtemp(prefix="scada-embedded-"))
    # The server may run as another user, who has to pass through.
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder, server_settings={"fsync": "off", "max_connections": "200"}) as server:
            yield server.dsn()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
