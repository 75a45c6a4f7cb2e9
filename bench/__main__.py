"""python -m bench NAME: run one claim; without a name, list them. Exit status 1: a target does not hold."""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.report import Report
from engine.errors import ScadaError

CLAIMS = {
    "decode": "publish responses into the ring, against asyncua's decoder and handlers",
    "copy": "commits in every storage mode, against pre-encoded COPY and the earlier service's INSERT ... unnest",
    "subscribe": "100,000 monitored items, against the time the server needs; memory a tag",
    "receive": "400,000 values/s from open62541 into the ring, and the core that takes, against asyncua",
    "journal": "readings on disk before they are acknowledged and back again, against plain write and fdatasync",
    "metrics": "a scrape of 300 tenants, against prometheus-client's own rendering",
    "start": "command to ready engine, and a worker's memory, against the bare imports",
    "tenants": "300 tenants on one server: connections, migrations, readings, against one after the other",
}


def _listing() -> str:
    return "\n".join(f"  {name:<9} {what}" for name, what in CLAIMS.items())


@click.command(
    help="Run one claim, or `all`, and print a table of its figures.\n\n\b\nClaims:\n" + _listing(),
    epilog="Exit status 0: every target holds. 1: one does not. 2: wrong usage, or a claim cannot be measured here.",
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a claim as the last line.")
@click.option(
    "--ratios", is_flag=True, help="Let ratios, counts and sizes alone decide the status: for noisy machines."
)
@click.option(
    "--dsn",
    help="Database server for `copy`, `start` and `tenants`; default: SCADA_TEST_DATABASE_URL, else one is started.",
)
def main(name: str | None, as_json: bool, ratios: bool, dsn: str | None) -> None:
    """Run what the command line says."""
    if name is None:
        click.echo("Claims (python -m bench NAME, or all):\n" + _listing())
        return
    if name != "all" and name not in CLAIMS:
        raise click.UsageError(f"there is no claim {name!r}; there are: {', '.join(CLAIMS)}, all")
    names = list(CLAIMS) if name == "all" else [name]
    options = {"dsn": dsn} if dsn else {}
    reports = [
        _run(each, as_json=as_json, **(options if each in {"copy", "start", "tenants"} else {}))
        for each in names
    ]
    held = [report.holds_on_any_machine if ratios else report.holds for report in reports]
    sys.exit(0 if all(held) else 1)


def _run(name: str, *, as_json: bool, **options: Any) -> Report:
    claim = importlib.import_module(f"bench.{name}")
    messages = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal)
        )
        task = progress.add_task(f"bench {name}", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            report: Report = claim.run(advance, **options)
        except ScadaError as exc:
            raise _CannotMeasure(f"bench {name}: {exc}") from exc
    report.show(messages if as_json else Console())
    if as_json:
        click.echo(orjson.dumps(report.as_json()).decode())
    return report


class _CannotMeasure(click.ClickException):
    exit_code = 2


if __name__ == "__main__":
    main()
