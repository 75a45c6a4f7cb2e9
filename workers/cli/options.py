"""The options that commands share, and how flags become Settings. Owns no setting: those are in engine.settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from engine.errors import ConfigurationError
from engine.settings import load

Command = Callable[..., Any]

NO_DATABASE = (
    "no database is set: give DATABASE_URL in the environment, --database-url, or database_url in the --config file "
    "(postgresql://user:password@host:5432/scada_master). Without a database, try `scada-engine demo`"
)


def with_settings(
    *flags: str, database: bool = True, process: str = "command"
) -> Callable[[Command], Command]:
    """Give a command --config, --database-url and --set, and pass it `settings`.

    `flags` are parameters of the command that stand for a setting of the same name. With `database`, a missing
    DATABASE_URL is a ConfigurationError before the command starts, and what the engine's parts log goes to stderr, as
    from `process`.
    """

    def decorate(function: Command) -> Command:
        @click.option(
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Read settings from a TOML file.",
        )
        @click.option(
            "--database-url", metavar="URL", help="The master database. [environment: DATABASE_URL]"
        )
        @click.option(
            "--set",
            "assignments",
            metavar="PATH=VALUE",
            multiple=True,
            help="Any other setting, such as opcua.queue_size=20; `config show` lists them.",
        )
        @wraps(function)
        def command(
            *args: Any,
            config_file: Path | None,
            database_url: str | None,
            assignments: tuple[str, ...],
            **parameters: Any,
        ) -> Any:
            values: dict[str, Any] = dict(_assignment(text) for text in assignments)
            values |= {name: parameters.pop(name) for name in flags}
            settings = load(flags=values | {"database_url": database_url}, file=config_file)
            if database:
                if not settings.database_url:
                    raise ConfigurationError(NO_DATABASE)
                from workers import logs  # noqa: PLC0415  (a tenth of a second that --help need not wait)

                logs.configure(settings, process=process, index=0)
            return function(*args, settings=settings, **parameters)

        return command

    return decorate


def json_option(function: Command) -> Command:
    """Give a command --json, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def tenant_option(function: Command) -> Command:
    """Give a command --tenant, passed as `tenant`."""
    return click.option(
        "--tenant", metavar="SLUG", help="Which tenant; not needed while there is only one active tenant."
    )(function)


def _assignment(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigurationError(f"--set {text}: expected PATH=VALUE, such as opcua.queue_size=20")
    return path, value
