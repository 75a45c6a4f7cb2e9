"""Logging of every process: one line an event on standard error, as JSON or for a console.

Owns the set-up of structlog and of the standard library's logging, which is routed through the same processors, and the
masking of secrets. Each line has the UTC time, the level, the logger, the process and, in an ingest worker, the shard;
who works for a tenant or a connection binds them: `structlog.contextvars.bind_contextvars(tenant=slug)`.

A process imports this module before structlog: structlog imports rich when that is installed, for tracebacks that we do
not use (they show local variables, so secrets), and rich takes 4 MB of a worker's memory.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from types import TracebackType

    from structlog.typing import Processor

    from engine.settings import Settings

    Event = MutableMapping[str, Any]


@contextmanager
def _as_if_not_installed(package: str) -> Iterator[None]:
    """Make `import package` fail meanwhile, as the import system documents for None in sys.modules."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _as_if_not_installed("rich"):
    structlog = importlib.import_module("structlog")

# Chatty below WARNING: a line for each message or call.
_QUIET_LOGGERS = ("asyncua", "grpc", "asyncio", "psycopg")
# A server's error text can be as long as it likes.
_MOST_CHARACTERS = 16_384
# Every repetition has a bound: these run over texts that a hostile server chose.
_URL_WITH_PASSWORD = re.compile(r"(://[^\s:/@]{0,256}):\S{0,512}@")
_NAMED_SECRET = re.compile(
    r"""((?:password|passwd|secrets?(?:_?key)?)["']?\s{0,8}=\s{0,8}|(?:password|secrets?_?key)["']\s{0,8}:\s{0,8})"""
    r"""('(?:[^'\\]|\\.){0,512}'|"(?:[^"\\]|\\.){0,512}"|\S+)""",
    re.IGNORECASE,
)
_JSON_INT = 1 << 63
_FIRST = ("timestamp", "level", "event", "process", "shard", "tenant", "connection")
_SECRET_KEY = re.compile(r"password|passwd|secret", re.IGNORECASE)


def configure(settings: Settings, *, process: str, index: int) -> None:
    """Set up logging for this process; `index` is the shard of an ingest worker."""
    who = {"process": process} | ({"shard": index} if process == "ingest" else {})
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = getattr(logging, settings.log_level.upper())
    # What structlog's own loggers and foreign records have in common, before they meet in the formatter.
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _naming(who),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            mask_secrets,
            *([printable, _console_renderer()] if console else [_json]),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = _log_unhandled


def mask_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Replace passwords by ***: in URLs and connection strings within any text, and under keys that name a secret."""
    for key, value in event.items():
        event[key] = "***" if value and _SECRET_KEY.search(key) else _masked(value)
    return event


def printable(_logger: object, _method: str, event: Event) -> Event:
    """Escape what could move a terminal's cursor or fake a line; a traceback keeps its lines."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n" if key == "exception" else ""
            event[key] = "".join(
                sign if sign.isprintable() or sign in kept else ascii(sign)[1:-1] for sign in value
            )
    return event


def _masked(value: Any) -> Any:
    if (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and -_JSON_INT <= value < _JSON_INT)
    ):
        return value
    if isinstance(value, dict):
        return {
            str(key): "***" if _SECRET_KEY.search(str(key)) else _masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner) for inner in value]
    text = value if isinstance(value, str) else str(value)
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}... ({len(text) - _MOST_CHARACTERS} characters more)"
    # A lone surrogate is no text that could be written.
    text = text.encode("utf-8", "backslashreplace").decode()
    return _NAMED_SECRET.sub(r"\1***", _URL_WITH_PASSWORD.sub(r"\1:***@", text))


def _naming(who: dict[str, str | int]) -> Processor:
    """Add the process's name. Not by contextvars: threads that a library starts do not inherit those."""

    def name(_logger: object, _method: str, event: Event) -> Event:
        event.update(who)
        return event

    return name


def _json(_logger: object, _method: str, event: Event) -> str:
    event = {key: event[key] for key in _FIRST if key in event} | dict(event)
    return orjson.dumps(event).decode()


def _console_renderer() -> Processor:
    renderer: Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return renderer


def _log_unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger(__name__).critical("the process ends by an error nobody foresaw", exc_info=error)
