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
    ├── JournalError            a tenant's journal cannot be used; carries the file or folder
    │   ├── JournalUnavailable    its disk is full or fails, or another process has it              retry
    │   ├── JournalTooNew         a newer engine wrote it; this one must not touch it
    │   └── JournalForeign        it was written for another database than the tenant's
    ├── StreamTakenOver         another process has taken over this stream; this one must stop
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

    def __init__(self, message: str, sqlstate: str | None = None, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self._timed_out = timed_out

    @property
    def is_timeout(self) -> bool:
        """It took too long: less at a time may go through. 57014 statement, 55P03 lock, 25P04 transaction."""
        return self._timed_out or self.sqlstate in {"57014", "55P03", "25P04"}

    @property
    def is_conflict(self) -> bool:
        """Another transaction was in the way (40001, 40P01): the same thing may go through at once."""
        return self.sqlstate is not None and self.sqlstate.startswith("40")

    @property
    def is_about_rows(self) -> bool:
        """What a row holds is refused, 22 data or 23 constraint: the other rows may go through."""
        return self.sqlstate is not None and self.sqlstate.startswith(("22", "23"))


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


class JournalError(ScadaError):
    """A tenant's journal cannot be used. `path` is the file or the folder that it is about."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class JournalUnavailable(JournalError):
    """The journal's disk is full or fails, or another process has the journal open."""

    retry = True


class JournalTooNew(JournalError):
    """A segment was written by a newer engine, in a format that this one does not know."""


class JournalForeign(JournalError):
    """The journal was written for another database than the one that the tenant has now."""


class StreamTakenOver(ScadaError):
    """Another process has taken over the stream: its epoch is higher. Whoever gets this must stop writing."""


class MigrationError(ScadaError):
    """A migration failed, or a file that is already applied no longer has the recorded checksum."""
