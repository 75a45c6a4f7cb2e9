"""Runs migrations/master/*.sql and migrations/tenant/*.sql. Owns the ledger, schema_migrations.

It does not know what is in the files, nor which tenants there are: the caller names the databases.

A file is NNNN_name.sql; numbers may have gaps, and files are applied in their order. Each one runs in a
transaction of its own together with its row in the ledger, so a database is always between two migrations,
never within one. Each transaction first takes one advisory lock (PostgreSQL keeps those per database) and
only then looks at the ledger: of two runners at once, one waits and finds the work done. No lock outlives its
transaction, so a pooler in transaction mode may stand between.

An applied file is never changed: the ledger keeps its SHA-256 (line ends as \\n), and a difference is an
error. A ledger with a number that we have no file for was written by a newer engine: hands off.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable

import psycopg
from psycopg.rows import class_row

from engine import migrations_seed
from engine.database import connect, place, translated
from engine.errors import (
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseRejected,
    DatabaseTooNew,
    DatabaseUnavailable,
    MigrationError,
    ScadaError,
)
from engine.version import VERSION

_APPLICATION = "scada-engine migrate"
DEFAULT_PARALLEL = 8
"""Databases that are migrated at once: enough for a server with some processors, and few of its connections."""
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# "scada" and "migr" in ASCII: any constant will do, it only has to be the same in every engine.
_LOCK = 0x7363_6164_6D69_6772
# Another runner may be in a long migration; statements must not queue for long, as others queue behind them.
_OTHER_RUNNER_WAIT_MS = 600_000
_STATEMENT_LOCK_WAIT_MS = 60_000

_UNDEFINED_FILE = "58P01"
_CREATE_LEDGER = """
create table if not exists schema_migrations (
    version integer primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    engine_version text not null
)"""
_READ_LEDGER = (
    "select version, name, checksum, applied_at, engine_version from schema_migrations order by version"
)
# The lock, and only then the ledger, in one round trip: hundreds of databases have a handful of migrations each.
_TAKE_TURN = f"""
set local lock_timeout = {_OTHER_RUNNER_WAIT_MS};
select pg_advisory_xact_lock({_LOCK});
set local lock_timeout = {_STATEMENT_LOCK_WAIT_MS};
{_CREATE_LEDGER};
{_READ_LEDGER}
"""


class Which(StrEnum):
    """Which set of migrations a database gets."""

    MASTER = "master"
    TENANT = "tenant"


class State(StrEnum):
    """Where one migration stands in one database."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"  # applied, and the file is another one since
    UNKNOWN = "unknown"  # applied by a newer engine


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text, hexadecimal."""

    which: Which
    version: int
    name: str
    sql: bytes
    checksum: str

    @property
    def file(self) -> str:
        """The file's path below migrations/, for messages."""
        return f"{self.which}/{self.version:04}_{self.name}.sql"


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One line of `migrate status`; the last two are None for a pending migration."""

    version: int
    name: str
    state: State
    applied_at: datetime | None = None
    engine_version: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One database to migrate. `label` names it in reports: "master" or a tenant's slug."""

    label: str
    dsn: str
    which: Which

    def __repr__(self) -> str:
        return f"Target({self.label!r}, which={self.which!r})"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress callback gets: before each migration its file as `current`; None when the database is done.

    The last three are about all databases of the run: how many there are, and how many of them are done, or failed.
    """

    label: str
    done: int
    total: int
    current: str | None
    databases: int = 1
    finished: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done to one database, in order; in a dry run, what would be.

    `error` is None, or why it stopped after `applied`. `warnings` are for the operator, most are the server's.
    `moved_aside` are tables of the earlier system: what is in them is to be taken over (engine.seed_tables).
    """

    label: str
    which: Which
    applied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    error: ScadaError | None = None
    moved_aside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _LedgerRow:
    version: int
    name: str
    checksum: str
    applied_at: datetime
    engine_version: str


ProgressCallback = Callable[[Progress], None]


def load(which: Which, folder: Traversable | None = None) -> list[Migration]:
    """Return the migrations in order; `folder` holds master/ and tenant/ (default: the installed ones).

    Raises MigrationError for a file that is not named NNNN_name.sql or whose number is there twice.
    """
    found: dict[int, Migration] = {}
    for entry in (folder or resources.files("migrations")).joinpath(which).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            raise MigrationError(f"{which}/{entry.name}: a migration is named NNNN_name.sql")
        sql = entry.read_bytes().replace(b"\r\n", b"\n")
        version = int(match[1])
        migration = Migration(which, version, match[2], sql, hashlib.sha256(sql).hexdigest())
        if version in found:
            raise MigrationError(f"{migration.file}: number {version:04} is also {found[version].file}")
        found[version] = migration
    return [found[version] for version in sorted(found)]


async def status(dsn: str, which: Which, *, folder: Traversable | None = None) -> list[MigrationStatus]:
    """Return every migration that the files or the ledger name, in order. Changes nothing.

    Raises ConfigurationError, MigrationError (a bad file) or Database* errors.
    """
    files = {migration.version: migration for migration in load(which, folder)}
    connection = await connect(dsn, application=_APPLICATION, autocommit=True)
    async with connection:
        ledger = {row.version: row for row in await _read_ledger(connection)}
    lines = []
    for version in sorted(files.keys() | ledger.keys()):
        row, file = ledger.get(version), files.get(version)
        if row is not None:
            state = State.UNKNOWN if file is None else State.APPLIED
            if file is not None and file.checksum != row.checksum:
                state = State.CHANGED
            lines.append(MigrationStatus(version, row.name, state, row.applied_at, row.engine_version))
        elif file is not None:
            lines.append(MigrationStatus(version, file.name, State.PENDING))
    return lines


async def migrate_database(
    dsn: str,
    which: Which,
    *,
    label: str | None = None,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    folder: Traversable | None = None,
) -> Outcome:
    """Bring one database up to date, or with `dry_run` only say what that would apply.

    Raises MigrationError (a migration failed, or an applied file was changed), DatabaseTooNew,
    ConfigurationError or DatabaseUnavailable. What was applied before the error stays applied.
    """
    run = _Run(Target(label or which, dsn, which), _Tally(1, progress))
    await run.apply(load(which, folder), dry_run=dry_run)
    return run.outcome()


async def migrate_all(
    master_dsn: str,
    tenants: Callable[[], Awaitable[Sequence[Target]]],
    *,
    parallel: int = DEFAULT_PARALLEL,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    folder: Traversable | None = None,
) -> list[Outcome]:
    """Migrate the master, then all tenants, `parallel` at a time; return one outcome for each, master first.

    `tenants` is called once the master is up to date. A database that fails has its error in its outcome and
    the rest goes on; after a failing master there is no tenant to go on with. Raises only what `tenants`
    raises.
    """
    tally = _Tally(1, progress)
    master = await _attempt(Target("master", master_dsn, Which.MASTER), tally, dry_run, folder)
    if master.error is not None:
        return [master]
    try:
        targets = await tenants()
    except DatabaseNotMigrated:
        # A dry run on an empty master: the table of tenants is one of the things it would make.
        if dry_run and master.applied:
            return [master]
        raise
    tally.databases += len(targets)
    limit = asyncio.Semaphore(parallel)

    async def one(target: Target) -> Outcome:
        async with limit:
            return await _attempt(target, tally, dry_run, folder)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(target)) for target in targets]
    return [master, *(task.result() for task in tasks)]


async def _attempt(target: Target, tally: _Tally, dry_run: bool, folder: Traversable | None) -> Outcome:
    run = _Run(target, tally)
    try:
        await run.apply(load(target.which, folder), dry_run=dry_run)
    except ScadaError as exc:
        return run.outcome(exc)
    return run.outcome()


@dataclass(slots=True)
class _Tally:
    """How far a run over several databases is."""

    databases: int
    progress: ProgressCallback | None
    finished: int = 0
    failed: int = 0

    def report(self, label: str, done: int, total: int, current: str | None) -> None:
        if self.progress is not None:
            self.progress(Progress(label, done, total, current, self.databases, self.finished, self.failed))


class _Run:
    """One database being migrated; keeps what was done so far, so that a failure can report it."""

    def __init__(self, target: Target, tally: _Tally) -> None:
        self._target = target
        self._tally = tally
        self._applied: list[str] = []
        self._warnings: list[str] = []
        self._moved_aside: tuple[str, ...] = ()
        self._total = 0
        self._started = time.monotonic()

    def outcome(self, error: ScadaError | None = None) -> Outcome:
        """Return what was done; this database is at its end."""
        self._tally.finished += 1
        self._tally.failed += error is not None
        self._tally.report(self._target.label, len(self._applied), self._total, None)
        seconds = time.monotonic() - self._started
        applied, warnings = tuple(self._applied), tuple(self._warnings)
        label, which = self._target.label, self._target.which
        return Outcome(label, which, applied, warnings, seconds, error, self._moved_aside)

    async def apply(self, files: list[Migration], *, dry_run: bool) -> None:
        connection = await connect(self._target.dsn, application=_APPLICATION, autocommit=True)
        connection.add_notice_handler(self._note)
        async with connection:
            ledger = await _read_ledger(connection)
            pending = _pending(files, ledger, place(self._target.dsn))
            self._total = len(pending)
            if self._target.which is Which.TENANT and not ledger:
                await self._set_aside(connection, dry_run=dry_run)
            if dry_run:
                self._applied += [migration.file for migration in pending]
                return
            for done, migration in enumerate(pending):
                self._tally.report(self._target.label, done, self._total, migration.file)
                if await _apply_one(connection, migration, files):
                    self._applied.append(migration.file)

    async def _set_aside(self, connection: psycopg.AsyncConnection, *, dry_run: bool) -> None:
        """Move tables of the earlier system aside, where a database has some; it never had a migration of ours."""
        with translated("cannot move the earlier system's tables aside"):
            tables = await migrations_seed.find_tables(connection)
            if tables and not dry_run:
                async with connection.transaction():
                    # Another runner may have been here in the meantime.
                    ledger = await _taken_turn(connection)
                    tables = [] if ledger else await migrations_seed.find_tables(connection)
                    await migrations_seed.set_aside(connection, tables)
                self._moved_aside = tuple(tables)
        self._applied += [f"{name} moved aside to {migrations_seed.aside(name)}" for name in tables]
        if tables:
            self._warnings.append(
                "tables of the earlier system were moved aside; scada_readings shows their readings, too: "
                f"scada-engine tenant take-over {self._target.label}"
            )

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.message_primary:
            self._warnings.append(diagnostic.message_primary)


def _pending(files: list[Migration], ledger: list[_LedgerRow], where: str) -> list[Migration]:
    """Return what the ledger does not have yet; refuse a ledger that does not fit the files."""
    by_version = {migration.version: migration for migration in files}
    for row in ledger:
        migration = by_version.get(row.version)
        if migration is None:
            raise DatabaseTooNew(
                f"{where} has migration {row.version:04}_{row.name} of engine {row.engine_version}, "
                f"which this engine ({VERSION}) does not know: use that version or a later one"
            )
        if migration.checksum != row.checksum:
            raise MigrationError(
                f"{migration.file} was changed after it was applied to {where} on {row.applied_at:%Y-%m-%d}: "
                "restore the file, and put the change into a new migration"
            )
    applied = {row.version for row in ledger}
    return [migration for migration in files if migration.version not in applied]


async def _read_ledger(connection: psycopg.AsyncConnection) -> list[_LedgerRow]:
    """Return the ledger's rows by version; none where there is no ledger yet."""
    try:
        with translated("cannot read schema_migrations"):
            async with connection.cursor(row_factory=class_row(_LedgerRow)) as cursor:
                found = await connection.execute("select to_regclass('schema_migrations')")
                if await found.fetchone() == (None,):
                    return []
                await cursor.execute(_READ_LEDGER)
                return await cursor.fetchall()
    except DatabaseUnavailable as exc:
        if exc.sqlstate == _UNDEFINED_FILE and "timescaledb" in str(exc):
            raise MigrationError(
                f"{exc}: the server's TimescaleDB is another version than this database's; "
                "in a new psql -X session, run first: alter extension timescaledb update"
            ) from exc
        raise


async def _apply_one(
    connection: psycopg.AsyncConnection, migration: Migration, files: list[Migration]
) -> bool:
    """Apply one migration and write it into the ledger; False if another runner did so meanwhile."""
    try:
        with translated(migration.file):
            async with connection.transaction():
                if migration not in _pending(files, await _taken_turn(connection), "this database"):
                    return False
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into schema_migrations (version, name, checksum, engine_version)"
                    " values (%s, %s, %s, %s)",
                    [migration.version, migration.name, migration.checksum, VERSION],
                )
    except (DatabaseRejected, DatabaseNotMigrated) as exc:
        raise MigrationError(f"{exc}{_line(exc, migration)}") from exc
    return True


async def _taken_turn(connection: psycopg.AsyncConnection) -> list[_LedgerRow]:
    """Wait for the lock, in a transaction; return the ledger, which nobody else writes until its end.

    No lock is waited for long from then on.
    """
    async with connection.cursor(row_factory=class_row(_LedgerRow)) as cursor:
        await cursor.execute(_TAKE_TURN)
        while cursor.nextset():
            pass
        return await cursor.fetchall()


def _line(exc: DatabaseError, migration: Migration) -> str:
    """Return where in the file the server found the fault, if it said so."""
    position = exc.__cause__.diag.statement_position if isinstance(exc.__cause__, psycopg.Error) else None
    if position is None:
        return ""
    # Counted in characters, from 1.
    return f" (line {migration.sql.decode()[: int(position)].count(chr(10)) + 1})"
