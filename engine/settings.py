"""One frozen Settings from flags, environment and file. The only reader of the environment.

Precedence: flag > environment > file (TOML) > default. An unknown key is an error that names its path.

Environment: the seed's names work as they are (DATABASE_URL, METRICS_PORT, GRPC_PORT, BUFFER_DURATION_MS,
MAX_BUFFER_SIZE, and LOG_LEVEL for its RUST_LOG). Every other setting is SCADA_ and its path in capitals, `__` between
levels: SCADA_OPCUA__REQUEST_TIMEOUT_S. A secret can come from a file: add _FILE to its name. The file of database_url
may change while the engine runs (`read_again`): a password is rotated without a restart.

The dataclasses are plain ones, so that a worker process that is handed a Settings needs no validation library in its
memory (measured: 9 MB); pydantic is imported by `load` only.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from engine.errors import ConfigurationError

SEED_NAMES = {
    "DATABASE_URL": "database_url",
    "METRICS_PORT": "metrics_port",
    "GRPC_PORT": "grpc_port",
    "BUFFER_DURATION_MS": "buffer_duration_ms",
    "MAX_BUFFER_SIZE": "max_buffer_size",
    "LOG_LEVEL": "log_level",
}
PREFIX = "SCADA_"
# Not settings of the engine: the first two belong to the test suite and to the build.
_FOREIGN_PREFIXES = ("SCADA_TEST_", "SCADA_BUILD_")
SECRETS = frozenset({"database_url", "secrets_key"})


@dataclass(frozen=True, slots=True)
class OpcuaSettings:
    """How OPC UA sessions are held; each can be narrowed by what a server revises."""

    publishing_interval_ms: float = 500.0
    sampling_interval_ms: float = 500.0
    # What a server can keep for us of each tag through an outage of queue_size x sampling interval: here a minute.
    # A server that has less room revises it.
    queue_size: int = 120
    # 30 x the publishing interval without data before a keep-alive; lifetime is at least 3 times that (Part 4, 5.13.2).
    keep_alive_count: int = 10
    lifetime_count: int = 300
    max_notifications_per_publish: int = 10_000
    # Two or more keep the server able to answer while one response travels; each costs the server a little memory.
    publish_requests: int = 3
    items_per_call: int = 1_000
    request_timeout_s: float = 10.0
    # Longer than a subscription lives without us (lifetime_count x publishing interval): some servers delete
    # subscriptions together with their session.
    session_timeout_s: float = 180.0
    max_message_bytes: int = 16 * 1024 * 1024
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    # Our own certificate and key, and for each tenant what it trusts, its issuers and what was rejected. Empty: the
    # folder scada-engine/pki in the user's state folder ($XDG_STATE_HOME, ~/.local/state).
    pki_folder: str = ""
    # Goes into our own certificate, and servers know us by it: one for each installation that they shall tell apart.
    application_uri: str = "urn:scada-engine:client"
    # After a gap, ask a server that keeps history for what was missed.
    history_backfill: bool = True


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """How readings are kept on disk until a tenant's database has them; see engine/journal."""

    # A folder for each tenant in it. Empty: the folder scada-engine/journal in the user's state folder
    # ($XDG_STATE_HOME, ~/.local/state).
    folder: str = ""
    # Of each tenant. A reading takes 25 bytes: 4 GiB hold 5 000 readings/s for nine hours.
    quota_mb: int = 4_096
    segment_mb: int = 64
    # Readings that arrive within this time share one fdatasync; an acknowledgement waits so long at most, and for it.
    group_ms: float = 15.0
    # Segments are kept so long after their commit, for a database that loses commits in a failover.
    grace_s: float = 600.0


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """How often a tenant's database is kept in shape: rollups, retention, compression."""

    # Rollups of minutes that are due are computed so often; until then the views compute them.
    interval_s: float = 60.0
    # A minute is due when it is over for so long: most of its readings have come then.
    rollup_delay_s: float = 60.0
    # Retention and compression.
    policies_interval_s: float = 3_600.0
    # Tenants of one worker that are seen to at the same time.
    tenants_at_once: int = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, with its default."""

    database_url: str = ""
    # Where database_url was read from, if it came from a file.
    database_url_file: str = ""
    workers: int | Literal["auto"] = "auto"
    host: str = "127.0.0.1"
    metrics_port: int = 9090
    grpc_port: int = 50051
    rest_port: int = 8080
    # A batch is flushed when it is this old or this large, whichever comes first.
    buffer_duration_ms: int = 5_000
    max_buffer_size: int = 10_000
    # Rows a tenant may hold in memory while its database is away; full means: stop publishing for that tenant.
    ring_rows: int = 262_144
    catalog_refresh_s: float = 5.0
    database_retry_most_s: float = 30.0
    # Connections of one worker to one database server, all tenants on it together.
    database_connections: int = 16
    # A reading that is later than its arrival by more than this, or before 1990, is quarantined: it would make chunks
    # of its own.
    reading_ahead_most_s: float = 86_400.0
    # A process that keeps dying is started again after at most this time.
    restart_backoff_most_s: float = 30.0
    stop_deadline_s: float = 20.0
    max_query_days: int = 366
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    # 32 bytes, base64: seals passwords and DSNs in the databases. Needed only where there are some.
    secrets_key: str = ""
    opcua: OpcuaSettings = field(default_factory=OpcuaSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    upkeep: UpkeepSettings = field(default_factory=UpkeepSettings)

    def worker_count(self) -> int:
        """Return the number of ingest workers; auto is one a processor that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


# In the user's state folder, unless they are set.
_STATE_FOLDERS = {"opcua.pki_folder": "pki", "journal.folder": "journal"}
_LIMITS: dict[str, tuple[float, float]] = {
    "workers": (1, 256),
    "metrics_port": (0, 65535),
    "grpc_port": (0, 65535),
    "rest_port": (0, 65535),
    "buffer_duration_ms": (10, 600_000),
    "max_buffer_size": (1, 10_000_000),
    "ring_rows": (1_024, 1 << 26),
    "catalog_refresh_s": (0.05, 3_600),
    "database_retry_most_s": (0.1, 3_600),
    "stop_deadline_s": (0.1, 3_600),
    "max_query_days": (1, 36_600),
    "database_connections": (2, 10_000),
    "reading_ahead_most_s": (0, 1e10),
    "restart_backoff_most_s": (0.1, 3_600),
    "journal.quota_mb": (1, 1 << 24),
    "journal.segment_mb": (1, 64),
    "journal.group_ms": (0, 20),
    "journal.grace_s": (0, 604_800),
    "upkeep.interval_s": (1, 86_400),
    "upkeep.rollup_delay_s": (0, 86_400),
    "upkeep.policies_interval_s": (1, 604_800),
    "upkeep.tenants_at_once": (1, 64),
    "opcua.publishing_interval_ms": (1, 3_600_000),
    "opcua.sampling_interval_ms": (-1, 3_600_000),
    "opcua.queue_size": (1, 1_000_000),
    "opcua.keep_alive_count": (1, 1_000_000),
    "opcua.lifetime_count": (3, 3_000_000),
    "opcua.max_notifications_per_publish": (1, 1_000_000),
    "opcua.publish_requests": (1, 16),
    "opcua.items_per_call": (1, 100_000),
    "opcua.request_timeout_s": (0.1, 600),
    "opcua.session_timeout_s": (1, 86_400),
    "opcua.max_message_bytes": (8_192, 1 << 30),
    "opcua.backoff_first_s": (0.01, 600),
    "opcua.backoff_most_s": (0.01, 3_600),
}


def load(
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Return the settings in force.

    `flags` maps paths such as "opcua.queue_size" to values; None values are flags that were not given. Raises
    ConfigurationError for an unknown key, a value of the wrong type or out of range, or a file that cannot be read.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources = (
        (_from_file(file) if file else {}),
        _from_environment(os.environ if environment is None else environment),
        _with_secrets(
            {path: (value, f"flag for {path}") for path, value in (flags or {}).items() if value is not None}
        ),
    )
    if state := (os.environ if environment is None else environment).get("XDG_STATE_HOME"):
        for path, name in _STATE_FOLDERS.items():
            merged[path] = str(Path(state) / "scada-engine" / name)
            origin[path] = "XDG_STATE_HOME"
    known = _paths(Settings)
    for source in sources:
        for path, (value, where) in source.items():
            if path not in known:
                raise ConfigurationError(f"{where}: there is no setting {path!r}")
            merged[path] = value
            origin[path] = where
            if path == "database_url" and "database_url_file" not in source:
                merged.pop("database_url_file", None)
    return _validate(merged, origin)


def read_again(settings: Settings) -> Settings:
    """Return the settings with database_url as its file has it now; unchanged where it came from elsewhere.

    Raises ConfigurationError for a file that cannot be read, or is empty for the moment.
    """
    if not settings.database_url_file:
        return settings
    url = _secret_file("database_url", settings.database_url_file)
    if not url:
        raise ConfigurationError(f"database_url: {settings.database_url_file} is empty")
    return settings if url == settings.database_url else replace(settings, database_url=url)


def show(settings: Settings) -> dict[str, Any]:
    """Return the settings as nested dictionaries with every secret masked."""
    shown = asdict(settings)
    for name in SECRETS:
        if shown[name]:
            shown[name] = mask_url(shown[name]) if name.endswith("_url") else "***"
    return shown


def mask_url(url: str) -> str:
    """Return the URL with its password replaced by ***; the rest is what an operator needs to see."""
    parts = urlsplit(url)
    if not parts.scheme:
        return "***" if "password" in url else url
    query = "***" if "password" in parts.query else parts.query
    if parts.password is None:
        return urlunsplit(parts._replace(query=query))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}", query=query))


def _paths(cls: type, prefix: str = "") -> dict[str, str]:
    """Map every setting's path to itself, nested ones with dots."""
    found: dict[str, str] = {}
    for entry in fields(cls):
        nested = entry.default_factory if is_dataclass(entry.default_factory) else None
        if isinstance(nested, type):
            found |= _paths(nested, f"{prefix}{entry.name}.")
        else:
            found[f"{prefix}{entry.name}"] = entry.name
    return found


def _from_file(file: Path) -> dict[str, tuple[Any, str]]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"cannot read the configuration file {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{file} is not valid TOML: {exc}") from exc
    return _with_secrets({path: (value, f"{file}: {path}") for path, value in _flatten(document).items()})


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, value in sorted(environment.items()):
        if name in SEED_NAMES:
            path = SEED_NAMES[name]
            found[path] = (value.lower() if path == "log_level" else value, name)
        elif name.removesuffix("_FILE") in SEED_NAMES and SEED_NAMES[name.removesuffix("_FILE")] in SECRETS:
            found[f"{SEED_NAMES[name.removesuffix('_FILE')]}_file"] = (value, name)
        elif name.startswith(PREFIX) and not name.startswith(_FOREIGN_PREFIXES):
            found[name.removeprefix(PREFIX).lower().replace("__", ".")] = (value, name)
    return _with_secrets(found)


def _with_secrets(found: dict[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """Add the secrets that come from files; of the files' names only those that are settings stay."""
    known = _paths(Settings)
    for secret in SECRETS:
        value, where = found.get(f"{secret}_file", ("", ""))
        if value:
            found[secret] = (_secret_file(where, str(value)), where)
            if f"{secret}_file" not in known:
                del found[f"{secret}_file"]
    return found


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{name}: cannot read the secret from {path}: {exc}") from exc


def _validate(merged: Mapping[str, Any], origin: Mapping[str, str]) -> Settings:
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # noqa: PLC0415  (see the module's docstring)

    nested: dict[str, Any] = {}
    for path, value in merged.items():
        *parents, leaf = path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    # pydantic reads its configuration from the class; set here, so that importing this module does not need it.
    for cls in (Settings, OpcuaSettings, JournalSettings, UpkeepSettings):
        setattr(cls, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
    try:
        settings = TypeAdapter(Settings).validate_python(nested)
    except ValidationError as exc:
        first = exc.errors()[0]
        path = ".".join(str(part) for part in first["loc"] if str(part) in _words())
        shown = "***" if path in SECRETS else repr(first["input"])
        where = origin.get(path, path)
        raise ConfigurationError(f"{where}: {shown} does not fit: {first['msg'].lower()}") from exc
    _check_limits(settings, origin)
    return settings


def _words() -> set[str]:
    return {word for path in _paths(Settings) for word in path.split(".")}


def _check_limits(settings: Settings, origin: Mapping[str, str]) -> None:
    for path, (least, most) in _LIMITS.items():
        value: Any = settings
        for part in path.split("."):
            value = getattr(value, part)
        if value != "auto" and not least <= value <= most:
            raise ConfigurationError(f"{origin.get(path, path)}: {value} is not between {least} and {most}")
    lifetime, keep_alive = settings.opcua.lifetime_count, settings.opcua.keep_alive_count
    if lifetime < 3 * keep_alive:  # Part 4, 5.14.2
        where = origin.get("opcua.lifetime_count", "opcua.lifetime_count")
        raise ConfigurationError(
            f"{where}: {lifetime} is less than three times opcua.keep_alive_count ({keep_alive})"
        )
    if settings.ring_rows < 2 * settings.max_buffer_size:
        raise ConfigurationError(
            f"ring_rows: {settings.ring_rows} is less than twice max_buffer_size ({settings.max_buffer_size})"
        )
