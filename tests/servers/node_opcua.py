"""The node-opcua server (node_opcua/server.js), for tests and benches. It sends picoseconds and offers all security.

Its packages are installed once, exactly as the lock file says, into a cache folder named for that file. The
server's certificate is made there at its first start.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.debian_root import ServerMissing, cache_folder
from tests.servers.fixed_values import FIXED_VALUES, counters
from tests.servers.opcua_server import OpcuaServer, free_port, server_process
from tests.servers.server_options import Limits, ServerOptions

_SOURCE = Path(__file__).parent / "node_opcua"
_PACKAGE_FILES = ("package.json", "package-lock.json")
_NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
_OLDEST_NODE = 18
_INSTALL_TIMEOUT_S = 300
_START_DEADLINE_S = 60.0


@contextmanager
def node_opcua_server(
    *,
    port: int | None = None,
    variables: int = 10,
    interval_ms: float = 100.0,
    options: ServerOptions | None = None,
) -> Iterator[OpcuaServer]:
    """Run the server: Double counters tag.0 .. that all go up by one per interval, and the fixed values.

    Give `port` to start a server again where one was. `options.session_ms` and `lifetime_count` are not for this
    server: it takes the client's. Raises ServerMissing and ServerFailed.
    """
    installed = _installed()
    options = options or ServerOptions()
    port = free_port() if port is None else port
    environment = os.environ | {
        "NODE_PATH": str(installed / "node_modules"),
        # Node 22 and newer keep compiled code there and start a second faster; older ones do not read it.
        "NODE_COMPILE_CACHE": str(installed / "compiled"),
    }
    with _pki_folder(installed, options) as pki:
        command = ["node", str(_SOURCE / "server.js"), str(port), str(pki)]
        command += [str(variables), str(interval_ms), json.dumps(_arguments(options))]
        with server_process(
            "node-opcua server", command, deadline_s=_START_DEADLINE_S, environment=environment
        ) as process:
            served = (*counters(variables), *FIXED_VALUES)
            yield OpcuaServer(f"opc.tcp://127.0.0.1:{port}", served, process, "node-opcua", options)


@contextmanager
def _pki_folder(installed: Path, options: ServerOptions) -> Iterator[Path]:
    """Yield the lasting folder, whose certificate costs a second to make, or one of its own for an identity."""
    if options.identity is None:
        yield installed / "pki"
        return
    with tempfile.TemporaryDirectory(prefix="node-opcua-pki-") as folder:
        yield Path(folder)


def _arguments(options: ServerOptions) -> dict[str, object]:
    """Return the options as server.js has them."""
    found: dict[str, object] = {
        "onlySecure": options.only_secure,
        "deprecated": options.deprecated,
        "anonymous": options.anonymous,
        "users": options.users,
        "history": options.history_page > 0,
        "namespaceBefore": options.namespace_before,
        "serviceLevel": options.service_level,
        "capabilities": _capabilities(options.limits),
    }
    if options.identity:
        found["certificateFile"] = str(options.identity.certificate)
        found["privateKeyFile"] = str(options.identity.private_key)
        found["applicationUri"] = options.identity.application_uri
    if options.user_certificate:
        found["userCertificates"] = [b64encode(options.user_certificate.der).decode()]
    if options.trusted_client:
        found["trustedClients"] = [b64encode(options.trusted_client.der).decode()]
    return found


def _capabilities(limits: Limits) -> dict[str, object]:
    operations = {
        "maxMonitoredItemsPerCall": limits.items_per_call,
        "maxNodesPerRead": limits.nodes_per_read,
        "maxNodesPerBrowse": limits.nodes_per_browse,
    }
    found: dict[str, object] = {"operationLimits": {name: most for name, most in operations.items() if most}}
    if limits.items_per_subscription:
        found["maxMonitoredItemsPerSubscription"] = limits.items_per_subscription
    return found


def _installed() -> Path:
    """Return the folder with the packages, installed now if this lock file's never were."""
    _check_node()
    contents = b"\0".join((_SOURCE / name).read_bytes() for name in _PACKAGE_FILES)
    folder = cache_folder() / f"node-opcua-{hashlib.sha256(contents).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _install(folder)
    return folder


def _check_node() -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        raise ServerMissing(f"{' and '.join(missing)} not found: apt-get install nodejs npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True)
    found = re.match(r"v(\d+)\.", version.stdout)
    if found is None or int(found.group(1)) < _OLDEST_NODE:
        raise ServerMissing(
            f"node is {version.stdout.strip()}, the node-opcua server needs {_OLDEST_NODE} or newer"
        )


def _install(folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name in _PACKAGE_FILES:
            shutil.copy(_SOURCE / name, partial)
        done = subprocess.run(
            _NPM, cwd=partial, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise ServerMissing(
                f"npm could not install the node-opcua server: {done.stderr.strip()[-2_000:]}"
            )
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
