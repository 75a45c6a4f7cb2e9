"""How results are printed: tables for people, one JSON value a line for scripts.

Results go to stdout, everything else to stderr.

Text from databases and devices is printed with its control characters escaped: it must not move anyone's cursor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console

# A table that goes into a pipe or a file is not folded; nobody reads it through a window.
_PIPE_COLUMNS = 1_000


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints without interpreting what it is given."""
    from rich.console import Console  # noqa: PLC0415  (--json needs none of it)

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr, width=None if terminal else _PIPE_COLUMNS, highlight=False, markup=False, emoji=False
    )


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    click.echo(orjson.dumps(value, default=str))


def json_number(value: float | None) -> float | str | None:
    """Return a number as JSON can have it: NaN and infinities by name, as protobuf's JSON has them."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings; numbers to the right, None as an empty cell."""
    if not sys.stdout.isatty():
        _print_plain(columns, [[printable(cell) for cell in row] for row in rows])
        return
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    held = [tuple(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(held) and all(isinstance(row[index], int | float) for row in held)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in held:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for programs that take columns apart: nothing is folded, cut or coloured."""
    lines = [columns, *rows]
    widths = [max(len(row[index]) for row in lines) for index in range(len(columns))]
    for row in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(message: str) -> None:
    """Tell the person something that is not the result."""
    click.echo(message, err=True)


def printable(value: object) -> str:
    """Return text that is safe to print on one line."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
