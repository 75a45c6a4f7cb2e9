"""`scada-engine run`: the engine in the foreground. Owns the command only; workers.supervisor does the work.

This process becomes the supervisor.
"""

from __future__ import annotations

import click

from engine.settings import Settings
from workers.cli.options import with_settings


@click.command(short_help="Run the engine: ingest workers, metrics, gRPC.")
@click.option("--workers", metavar="N|auto", help="Ingest processes; auto is one a processor.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to log."
)
@click.option(
    "--log-format", type=click.Choice(["auto", "json", "console"]), help="auto: console on a terminal."
)
@click.option("--check-config", is_flag=True, help="Check the settings and exit: 0 valid, 2 not.")
@with_settings("workers", "log_level", "log_format", process="supervisor")
def run(*, settings: Settings, check_config: bool) -> None:
    """Run the engine: ingest workers, metrics, gRPC.

    TERM or Ctrl-C drains and flushes, then exits; a second one exits at once.
    """
    if check_config:
        click.echo("the configuration is valid")
        return

    from workers.supervisor import become_supervisor  # noqa: PLC0415  (--check-config and --help need none of it)

    become_supervisor(settings)
