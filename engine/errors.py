"""The error tree. Each error says whether a retry of the same thing can make sense.

    ScadaError
    ├── ConfigurationError      a setting, flag or file is wrong; names the path and the value
    ├── InvalidInput            a value from outside does not fit; names the field and the value
    │   └── NotFound            the thing named does not exist
    ├── MalformedMessage        bytes from an OPC UA server break Part 6; carries the byte offset
    ├── ConnectionRefused       an OPC UA or gRPC server does not let us in, or not now               retry
    ├── DatabaseError           PostgreSQL refused or failed; carries the SQLSTATE where there is one
    │   ├── DatabaseUnavailable   down, full, restarting, too many connections, read-only             retry
    │   ├── DatabaseNotMigrated   tables are missing or older than this engine                        retry
    │   ├── DatabaseTooNew        a newer engine migrated it; this one must not touch it
    │   └── DatabaseRejected      the statement or a row is refused; the same bytes fail again
    └── MigrationError          a migration failed, or an applied file was changed

`retry` marks errors that may go away by themselves: the caller backs off and tries again. For all others a person
has to change something first.
"""

from __future__ import annotations


class ScadaError(Exception):
    """Base of everything this project raises on purpose; the message is written for the operator."""

    retry = False


class ConfigurationError(ScadaError):
    """A setting is unknown, missing or out of range. The message names its path and its value."""


class InvalidInput(ScadaError):
    """A value from outside does not fit. `field` is the name the caller used."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class NotFound(InvalidInput):
    """The tenant, well, connection or tag that the caller named does not exist."""


class MalformedMessage(ScadaError):
    """Bytes from an OPC UA server break OPC 10000-6; `offset` is the place in the message body."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset


class ConnectionRefused(ScadaError):
    """A server cannot be reached or refuses us: OPC UA's channel, session or subscription, or gRPC."""

    retry = True


class DatabaseError(ScadaError):
    """PostgreSQL refused or failed. `sqlstate` is None when no server answered."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(DatabaseError):
    """The database is down, full, restarting, read-only or has no connection left for us."""

    retry = True


class DatabaseNotMigrated(DatabaseError):
    """Tables that this engine needs are missing; `scada-engine migrate up` makes them."""

    retry = True


class DatabaseTooNew(DatabaseError):
    """The ledger names a migration that this engine does not have."""


class DatabaseRejected(DatabaseError):
    """The server refused the statement or a row for what it says; sending it again fails again."""


class MigrationError(ScadaError):
    """A migration failed, or a file that is already applied no longer has the recorded checksum."""
