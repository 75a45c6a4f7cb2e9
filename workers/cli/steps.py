"""Says what is being done and how long it took: a spinner on a terminal, one line for each step that is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Steps:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Name what the body does, and then its seconds; an error leaves no line."""
        started_s = time.monotonic()
        with self._console.status(f"{what} ...") if self._console.is_terminal else nullcontext():
            yield
        self.say(f"{what} ... {time.monotonic() - started_s:.1f} s")

    def say(self, text: str) -> None:
        """Write a line at once, also into a pipe."""
        self._console.print(text, soft_wrap=True)
        self._console.file.flush()
