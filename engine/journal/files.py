"""The file system as the journal uses it: so few calls that a model in the tests can stand in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class AppendFile(Protocol):
    """A file that is only written at its end. Each call may block; errors are OSError."""

    def write(self, *parts: bytes | bytearray | memoryview) -> int:
        """Write up to 1 024 parts in order at the end; return how many bytes were taken, which may be fewer."""

    def sync(self) -> None:
        """Return when everything written is on the disk (fdatasync)."""

    def truncate(self, size_bytes: int) -> None:
        """Cut the file off behind so many bytes."""

    def close(self) -> None:
        """Close it; nothing is synced by that."""


class Files(Protocol):
    """What the journal asks of a file system. Each call may block; errors are OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner can enter, with the folders above it; nothing happens if it is there."""

    def list(self, folder: Path) -> list[str]:
        """Return the names of what is in a folder, sorted."""

    def size_bytes(self, path: Path) -> int:
        """Return the size of a file."""

    def read(self, path: Path, offset: int, most_bytes: int) -> bytes:
        """Return up to so many bytes from an offset on; fewer only at the end of the file."""

    def create(self, path: Path) -> AppendFile:
        """Make a new file that only its owner can read; FileExistsError when it is there."""

    def append(self, path: Path) -> AppendFile:
        """Open a file that is there."""

    def replace(self, path: Path, content: bytes) -> None:
        """Put a small file in place of another, whole or not at all."""

    def rename(self, path: Path, to: Path) -> None:
        """Move a file within the file system."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def sync_folder(self, folder: Path) -> None:
        """Return when files that were made, renamed or removed in a folder are so on the disk."""

    def lock(self, path: Path) -> AppendFile:
        """Take the lock that this file stands for, until it is closed; BlockingIOError when another has it."""
