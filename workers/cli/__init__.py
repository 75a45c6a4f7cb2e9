"""The command line, `scada-engine`. Owns the table of commands, the exit codes, and how an error reaches the user.

Each command group has a file of its own, imported when it is asked for: `--help` takes a tenth of a second, and
`run` loads neither psycopg, gRPC, asyncua nor numpy into the supervisor.

Exit codes (docs/command-line.md):

    0    done
    1    any other error; also when whoever reads the output goes away (`query | head`)
    2    wrong usage, or a setting that is missing, unknown or out of range
    3    something named does not exist, or input does not fit
    4    a database is down, not migrated or refuses; a migration failed
    5    a server cannot be reached or refuses: OPC UA or gRPC
    130  stopped by Ctrl-C
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from importlib import import_module
from typing import NoReturn

import click

from engine.errors import (
    ConfigurationError,
    ConnectionRefused,
    DatabaseError,
    DatabaseNotMigrated,
    InvalidInput,
    MigrationError,
    ScadaError,
)
from engine.version import VERSION


class Exit(IntEnum):
    """What an exit status means."""

    DONE = 0
    OTHER = 1
    USAGE = 2
    INPUT = 3
    DATABASE = 4
    NETWORK = 5
    INTERRUPTED = 130


# Name -> module:attribute, and its line in `scada-engine --help`, in the order in which a newcomer needs them.
# A test compares each line with the command's own, so that the help needs no import.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "Run everything here: database, simulator, engine, live view."),
    "run": ("run:run", "Run the engine: ingest workers, metrics, gRPC."),
    "migrate": ("migrate:migrate", "Bring databases to this version's schema."),
    "tenant": ("tenants:tenant", "Add, change, list and disable tenants."),
    "connection": ("connections:connection", "Add OPC UA connections, list and try them."),
    "tags": ("tags:tags", "Import and list tags."),
    "seed": ("connections:seed", "Fill a tenant with two wells, two connections, ten tags."),
    "query": ("query:query", "Show readings that the engine has stored."),
    "gaps": ("gaps:gaps", "List intervals in which readings are missing."),
    "quarantine": ("quarantine:quarantine", "Readings that the database could not take."),
    "simulate": ("simulate:simulate", "Serve two simulated wells over OPC UA."),
    "config": ("config:config", "Show the settings in force."),
}

_EXITS: tuple[tuple[type[ScadaError], Exit], ...] = (
    (ConfigurationError, Exit.USAGE),
    (InvalidInput, Exit.INPUT),
    (DatabaseError, Exit.DATABASE),
    (MigrationError, Exit.DATABASE),
    (ConnectionRefused, Exit.NETWORK),
)

_MIGRATE = "; `scada-engine migrate up` makes what this version needs"


def exit_of(error: ScadaError) -> Exit:
    """Return the exit status that an error stands for."""
    return next((status for kind, status in _EXITS if isinstance(error, kind)), Exit.OTHER)


class CommandTable(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"workers.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(
    cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(VERSION, "--version", prog_name="scada-engine", message="%(prog)s %(version)s")
def scada_engine() -> None:
    """Ingest OPC UA readings of many tenants into TimescaleDB.

    New here? `scada-engine demo` needs nothing else and shows readings in seconds.
    """


def main() -> NoReturn:
    """Run the command that the arguments name; exit with its status."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command; return its exit status. Expected errors become one line on stderr."""
    try:
        status = scada_engine.main(arguments, prog_name="scada-engine", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except ScadaError as exc:
        # Said where a table or column is missed; what misses it does not know that it is run from a command line.
        untold = isinstance(exc, DatabaseNotMigrated) and "migrate up" not in str(exc)
        click.echo(f"scada-engine: {exc}{_MIGRATE if untold else ''}", err=True)
        return exit_of(exc)
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; it must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OTHER
    return Exit.DONE if status is None else int(status)
