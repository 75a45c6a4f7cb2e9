"""What a claim measured, and how it is shown: a table for people, one JSON object for scripts.

The keys of the JSON object are a contract: {"bench", "figures", "targets": [{"figure", "op", "limit", "holds"}],
"machine"}. Progress and tables go to stderr and stdout; the JSON object is the last line of stdout.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that a figure has to keep."""

    figure: str
    op: Literal["<=", ">="]
    limit: float
    timed: bool = False
    """How fast the machine is decides, too: on one that is slow or shared a miss says nothing of our code."""

    def holds(self, value: float) -> bool:
        """Return whether the value keeps the limit."""
        return value <= self.limit if self.op == "<=" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one claim, in the order to show them; `meaning` explains each."""

    bench: str
    figures: dict[str, float]
    targets: Sequence[Target]
    meaning: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """Whether all targets hold."""
        return self.holds_on_any_machine and all(self._holds(target) for target in self.targets)

    @property
    def holds_on_any_machine(self) -> bool:
        """Whether all targets hold that are ratios, counts or sizes."""
        return all(self._holds(target) for target in self.targets if not target.timed)

    def _holds(self, target: Target) -> bool:
        return target.holds(self.figures[target.figure])

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "bench": self.bench,
            "figures": self.figures,
            "targets": [
                {
                    "figure": target.figure,
                    "op": target.op,
                    "limit": target.limit,
                    "holds": self._holds(target),
                }
                for target in self.targets
            ],
            "machine": machine(),
        }

    def show(self, console: Console) -> None:
        """Print the table."""
        targets = {target.figure: target for target in self.targets}
        table = Table("figure", "value", "target", "holds", "meaning", title=f"bench {self.bench}")
        table.columns[0].no_wrap = True
        for column in table.columns[1:3]:
            column.justify = "right"
        for name, value in self.figures.items():
            target = targets.get(name)
            verdict = "" if target is None else "yes" if target.holds(value) else "[bold red]NO[/]"
            limit = "" if target is None else f"{target.op} {target.limit:g}"
            table.add_row(name, _digits(value), limit, verdict, self.meaning.get(name, ""))
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, processors that this process may use, versions."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def interleaved(
    rounds: int, measures: Mapping[str, Callable[[], float]], progress: Progress
) -> dict[str, list[float]]:
    """Run each measure once a round, beginning with another one each time; return their results by round.

    What disturbs the machine for a while then disturbs all of them, and ratios within a round stay fair.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    names = list(measures)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            results[name].append(measures[name]())
            progress(sum(map(len, results.values())), rounds * len(names))
    return results


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
