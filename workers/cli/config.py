"""`scada-engine config show`: the settings in force, as TOML or JSON, with secrets masked."""

from __future__ import annotations

from typing import Any

import click
import orjson

from engine.settings import Settings, show
from workers.cli.options import json_option, with_settings
from workers.cli.output import print_json


@click.group(short_help="Show the settings in force.")
def config() -> None:
    """Show the settings in force."""


@config.command("show")
@json_option
@with_settings(database=False)
def show_settings(*, settings: Settings, as_json: bool) -> None:
    """Show every setting and its value, secrets masked.

    From flags, environment, file and defaults. The output is valid for --config once the secrets are filled in.
    """
    shown = show(settings)
    if as_json:
        print_json(shown)
        return
    for line in toml_lines(shown):
        click.echo(line)


def toml_lines(table: dict[str, Any], path: str = "") -> list[str]:
    """Return a nested dictionary of plain values as lines of TOML, subtables last."""
    lines = [f"{name} = {_toml(value)}" for name, value in table.items() if not isinstance(value, dict)]
    for name, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{path}{name}]", *toml_lines(value, f"{path}{name}.")]
    return lines


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A TOML basic string escapes what JSON escapes (and DEL, which no setting can hold).
        return orjson.dumps(value).decode()
    return str(value)
