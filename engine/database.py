"""The one place that opens psycopg connections, and that maps psycopg's errors to the error tree.

It does not know any table, keeps no connection and does not retry. Connections carry no session state (no
prepared statements, no SET), so that a pooler in transaction mode can stand between.

How an error is mapped (`translated`); the first line that fits decides:

    SQLSTATE                                              becomes
    42P01 undefined table, 42703 column, 3F000 schema     DatabaseNotMigrated
    08 connection, 28 login, 3D no such database,         DatabaseUnavailable: a password may be rotated and a
    40 rolled back, 53 resources, 57 operator, 58 system,   database may be restored while we wait
    25006 read-only, 25P03 and 25P04 took too long,
    55006 in use, 55P03 lock timeout
    none, from libpq (no server answered, or libpq        DatabaseUnavailable
    keeps it to itself: see _REFUSALS)
    22 data, 23 constraint, 42 statement, all others      DatabaseRejected
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseRejected,
    DatabaseUnavailable,
)

_NOT_MIGRATED = frozenset({"42P01", "42703", "3F000"})
_UNAVAILABLE_CLASSES = ("08", "28", "3D", "40", "53", "57", "58")
_UNAVAILABLE = frozenset({"25006", "25P03", "25P04", "55006", "55P03"})

# What a DSN may override. A peer that is gone is noticed in a minute; Linux alone takes 15 minutes or more.
_CONNECT_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

# libpq does not hand on the SQLSTATE of a connection that is refused, only what the server said. Where that is in
# another language than English, or something that nobody foresaw, there is none: it is retried all the same.
_REFUSALS = (
    (
        "53300",
        "too many clients already|remaining connection slots|too many connections for"
        "|no more connections allowed",
    ),
    (
        "28000",
        "authentication failed|no password supplied|no pg_hba.conf entry|not permitted to log in"
        '|role ".*" does not exist',
    ),
    ("3D000", 'database ".*" does not exist|not currently accepting connections'),
    ("57P03", "database system is (?:starting up|shutting down|in recovery|not)"),
)
_REFUSAL = re.compile("|".join(f"(?P<_{state}>{said})" for state, said in _REFUSALS))


async def connect(dsn: str, *, application: str, autocommit: bool = False) -> psycopg.AsyncConnection:
    """Open one connection; names are resolved anew each time. Of several hosts, the first that takes writes.

    `application` is what pg_stat_activity shows. Raises ConfigurationError for a DSN that cannot be parsed,
    and DatabaseUnavailable when the server cannot be reached or does not let us in.
    """
    parameters: dict[str, Any] = _CONNECT_DEFAULTS | _parse(dsn)
    parameters |= {"application_name": application, "client_encoding": "utf8"}
    if "," in str(parameters.get("host", "")):
        # After a failover the old primary may be a standby that answers, and stands first in the list.
        parameters.setdefault("target_session_attrs", "read-write")
    with translated(f"cannot connect to {_place(parameters)}"):
        return await psycopg.AsyncConnection.connect(
            **parameters,
            autocommit=autocommit,
            prepare_threshold=None,
        )


async def create_database(server_dsn: str, name: str) -> bool:
    """Create a database on the server of `server_dsn` unless it is there; return whether it was made."""
    async with await connect(server_dsn, application="scada-engine setup", autocommit=True) as server:
        with translated(f'cannot create the database "{name}"'):
            try:
                await server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            except errors.DuplicateDatabase:
                return False
    return True


def with_database(dsn: str, name: str) -> str:
    """Return the DSN with its database replaced; a URL stays a URL.

    Raises ConfigurationError for a DSN that cannot be parsed.
    """
    _parse(dsn)
    parts = urlsplit(dsn)
    if parts.scheme:
        url = urlunsplit(parts._replace(path="/" + quote(name, safe="")))
        # A URL may also name its database in the query (`?dbname=`), and that one counts.
        if _parse(url).get("dbname") == name:
            return url
    return make_conninfo(dsn, dbname=name)


def place(dsn: str) -> str:
    """Return `database "x" on host:port` for messages; never the user's password.

    Raises ConfigurationError for a DSN that cannot be parsed.
    """
    return _place(_parse(dsn))


def is_same_database(dsn: str, other: str) -> bool:
    """Tell whether two DSNs name the same database at the same address; they may log in differently.

    A DSN that cannot be parsed names none.
    """
    try:
        return _address(_parse(dsn)) == _address(_parse(other))
    except ConfigurationError:
        return False


def server_of(dsn: str) -> str:
    """Return which server a DSN is for: host and port, several as they stand there. A name is not resolved.

    Raises ConfigurationError for a DSN that cannot be parsed.
    """
    return _server(_parse(dsn))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise psycopg's errors as ours, by SQLSTATE; `what` begins the message and says what was tried."""
    try:
        yield
    except psycopg.Error as exc:
        raise _kind(exc)(f"{what}: {_one_line(exc)}", exc.sqlstate or _refusal_state(exc)) from exc


def _kind(exc: psycopg.Error) -> type[DatabaseError]:
    state = exc.sqlstate
    if state is None:
        return DatabaseUnavailable if isinstance(exc, psycopg.OperationalError) else DatabaseRejected
    if state in _NOT_MIGRATED:
        return DatabaseNotMigrated
    if state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE:
        return DatabaseUnavailable
    return DatabaseRejected


def _refusal_state(exc: psycopg.Error) -> str | None:
    """Return the SQLSTATE that a server which refuses a connection has put into words."""
    # An error that a statement got has its fields; one of a connection that never stood has a text.
    found = None if exc.diag.message_primary else _REFUSAL.search(str(exc))
    return found and (found.lastgroup or "").removeprefix("_")


def _one_line(exc: psycopg.Error) -> str:
    """The server's message with its detail; libpq's own messages span lines, an operator's log should not."""
    said = ". ".join(part for part in (exc.diag.message_primary, exc.diag.message_detail) if part) or str(exc)
    return " ".join(said.split())


def _parse(dsn: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq quotes the text that it could not parse, which may hold the password: the cause is left out.
        raise ConfigurationError(
            "the database's address is neither a postgresql:// URL nor a list of key=value"
        ) from None


def _place(parameters: dict[str, Any]) -> str:
    return f'database "{parameters.get("dbname") or parameters.get("user") or ""}" on {_server(parameters)}'


def _address(parameters: dict[str, Any]) -> tuple[object, ...]:
    return parameters.get("hostaddr"), parameters.get("dbname"), _server(parameters)


def _server(parameters: dict[str, Any]) -> str:
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    return f"{host}:{parameters.get('port') or '5432'}"
