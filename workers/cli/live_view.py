"""What the demo shows while it runs: a table on a terminal, one line every two seconds in a pipe. Fetches nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.readings import Quality, quality_of
from workers.cli.output import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {Quality.GOOD: "green", Quality.UNCERTAIN: "yellow", Quality.BAD: "red"}
# Readings come in batches, one a flush; over this window the rate stands still when nothing changes.
_RATE_WINDOW_S = 10.0
# Older than several flushes: something is stuck, and the eye should go there.
_OLD_S = 10.0
_LINE_VALUES = 3


@dataclass(frozen=True, slots=True)
class LatestValue:
    """The newest reading of one tag, ready to be shown."""

    well: str
    tag: str
    unit: str
    value: float | None
    text: str | None
    status: int
    time_us: int

    @property
    def quality(self) -> Quality:
        """The severity of the status."""
        return quality_of(self.status)

    def shown_value(self) -> str:
        """The value with as many digits as help the eye."""
        if self.text is not None:
            return printable(self.text)
        return "-" if self.value is None else f"{self.value:,.1f}".replace(",", " ")

    def shown_quality(self) -> str:
        """Good, or the severity with the whole status."""
        return self.quality.label if self.status == 0 else f"{self.quality.label} 0x{self.status:08X}"


class Rate:
    """Readings per second over the last seconds, from a counter that only grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def per_s(self, total: int | None, *, now_s: float) -> float:
        """Take in the counter (None: not known now) and return its rate; 0 until it was known twice."""
        if total is not None:
            self._seen.append((now_s, total))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()
        if len(self._seen) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything on the screen at one moment; `trouble` says why something is missing, such as `total` (None)."""

    per_s: float
    total: int | None
    latest: Sequence[LatestValue]
    trouble: str = ""


def _count(total: int | None) -> str:
    return "?" if total is None else str(total)


def line(figures: Figures, *, turn: int) -> str:
    """Return the figures as one line; each turn shows other tags."""
    clock = datetime.now(UTC).strftime("%H:%M:%SZ")
    parts = [f"{clock}  {figures.per_s:.1f} readings/s  {_count(figures.total)} stored"]
    if figures.trouble:
        parts.append(figures.trouble)
    count = len(figures.latest)
    chosen = (
        figures.latest
        if count <= _LINE_VALUES
        else [figures.latest[(turn * _LINE_VALUES + place) % count] for place in range(_LINE_VALUES)]
    )
    parts += [
        " ".join(
            (
                printable(each.well),
                printable(each.tag),
                each.shown_value(),
                printable(each.unit),
                each.shown_quality(),
            )
        )
        for each in chosen
    ]
    return " | ".join(parts)


def screen(figures: Figures, commands: Sequence[str], foot: str) -> RenderableType:
    """Return the figures as a table, with what to try next below it."""
    from rich.console import Group  # noqa: PLC0415  (a pipe needs none of it)
    from rich.text import Text  # noqa: PLC0415

    head = Text()
    head.append(f"{figures.per_s:.1f}", "bold cyan").append(" readings/s   ")
    head.append(_count(figures.total), "bold").append(" stored   ").append(figures.trouble, "yellow")
    tries = [Text(f"  {command}", "cyan") for command in commands]
    return Group(
        head,
        Text(),
        _table(figures.latest),
        Text(),
        Text("Try in another terminal:"),
        *tries,
        Text(),
        Text(foot, "dim"),
    )


def _table(latest: Sequence[LatestValue]) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading, justify in (("well", "left"), ("tag", "left"), ("value", "right"), ("unit", "left"),
                             ("quality", "left"), ("age", "right")):  # fmt: skip
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
    now_us = time.time_ns() // 1_000
    previous = ""
    for each in latest:
        age_s = (now_us - each.time_us) / 1e6
        table.add_row(
            Text(printable(each.well) if each.well != previous else ""),
            Text(printable(each.tag)),
            Text(each.shown_value(), "bold"),
            Text(printable(each.unit)),
            Text(each.shown_quality(), _COLOURS[each.quality]),
            Text(f"{age_s:.1f} s", "red" if age_s > _OLD_S else "dim"),
        )
        previous = each.well
    return table
