"""Saves the checkpoint and removes segments whose time has come, one at a time and beside everything else."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from engine.journal.checkpoint import Checkpoint, save_checkpoint
from engine.journal.segment import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from engine.journal.files import Files
    from engine.journal.retention import Retention

    R = TypeVar("R")

log = structlog.get_logger(__name__)

_REMOVE_RETRY_S = 1.0
# Besides when a segment has become committed, so that the next start knows how far the stream had come.
_CHECKPOINT_EACH_S = 30.0


class Tender:
    """The task that tends a journal's folder; `begin` starts it."""

    def __init__(
        self,
        folder: Path,
        *,
        files: Files,
        threads: Executor,
        retention: Retention,
        checkpoint: Callable[[], Checkpoint],
        trimmed: Callable[[], None],
    ) -> None:
        """`checkpoint` makes one of what is true now; `trimmed` is called when segments have gone."""
        self.reading: list[int] = []
        """Sequences behind which somebody reads now: what is needed for that must stay."""
        self._folder = folder
        self._files = files
        self._threads = threads
        self._retention = retention
        self._checkpoint = checkpoint
        self._trimmed = trimmed
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._checkpoint_due = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to tend."""
        self._task = asyncio.create_task(self._tend())

    async def end(self) -> None:
        """Stop, and save a last checkpoint, if it ever began."""
        if self._task is None:
            return
        async with self._lock:  # nobody is removing anything now
            self._task.cancel()
            await self._in_thread(
                save_checkpoint, self._files, self._folder, replace(self._checkpoint(), closed=True)
            )

    def save_soon(self) -> None:
        """Save the checkpoint, and look which segments may go."""
        self._checkpoint_due = True
        self._wake.set()

    async def _tend(self) -> None:
        """Save the checkpoint when it is due, and remove segments whose grace is over."""
        least_s = 0.0
        while True:
            now_s = time.monotonic()
            due_s = self._retention.next_removal_s()
            wait_s = (
                _CHECKPOINT_EACH_S if due_s is None else min(max(due_s - now_s, least_s), _CHECKPOINT_EACH_S)
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()
            if self._checkpoint_due or time.monotonic() - now_s >= _CHECKPOINT_EACH_S:
                await self._save()
            # What could not go although it was time is tried again, but not at once.
            least_s = 0.0 if await self.trim() else _REMOVE_RETRY_S

    async def _save(self) -> None:
        async with self._lock:
            self._checkpoint_due = False
            if not self._retention.segments:
                return  # it would say that there are some
            await self._in_thread(save_checkpoint, self._files, self._folder, self._checkpoint())

    async def trim(self, least_bytes: int = 0) -> bool:
        """Remove segments whose grace is over, and others that may go for so many bytes; return whether any went."""
        # A thread cannot be stopped: whoever gives up waiting must not let another begin.
        return await asyncio.shield(asyncio.create_task(self._remove(least_bytes)))

    async def _remove(self, least_bytes: int) -> bool:
        async with self._lock:
            before = min(self.reading, default=NO_LIMIT)
            segments = self._retention.removable(time.monotonic(), before, least_bytes)
            if not segments:
                return False
            # What is committed is known before its segment is gone.
            checkpoint = replace(self._checkpoint(), trimmed=max(self._retention.trimmed, segments[-1].last))

            def remove() -> int:
                save_checkpoint(self._files, self._folder, checkpoint)
                removed = 0
                try:
                    for segment in segments:
                        with suppress(FileNotFoundError):
                            self._files.remove(segment.path)
                        removed += 1
                    self._files.sync_folder(self._folder)
                except OSError as exc:
                    log.warning("a committed segment could not be removed", error=str(exc))
                return removed

            removed = await self._in_thread(remove)
            self._retention.remove(segments[:removed])
        self._trimmed()
        return removed > 0

    async def _in_thread(self, call: Callable[..., R], *arguments: object) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, call, *arguments)
