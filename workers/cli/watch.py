"""The demo's view while it runs: fetches the figures again and again, and shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.live import Live

from workers.cli.engine_figures import EngineFigures
from workers.cli.live_view import line, screen

if TYPE_CHECKING:
    from rich.console import Console

    from engine.settings import Settings

_SCREEN_S = 0.5
_LINE_S = 2.0
_FOOT = "Ctrl-C stops everything; the data stays."


def watch(console: Console, settings: Settings, *, tenant: str, commands: Sequence[str]) -> Iterator[None]:
    """Show the engine's figures for ever; yields after each time, so that the caller can look after its children."""
    figures = EngineFigures(metrics_port=settings.metrics_port, grpc_port=settings.grpc_port, tenant=tenant)
    with figures:
        yield from (_screens if console.is_terminal else _lines)(console, figures, commands)


def _screens(console: Console, figures: EngineFigures, commands: Sequence[str]) -> Iterator[None]:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(screen(figures.now(now_s=time.monotonic()), commands, _FOOT), refresh=True)
            yield
            time.sleep(_SCREEN_S)


def _lines(console: Console, figures: EngineFigures, commands: Sequence[str]) -> Iterator[None]:
    console.print(
        "Try in another terminal:", *(f"  {command}" for command in commands), sep="\n", soft_wrap=True
    )
    turn = 0
    while True:
        console.print(line(figures.now(now_s=time.monotonic()), turn=turn), soft_wrap=True)
        console.file.flush()
        turn += 1
        yield
        time.sleep(_LINE_S)
