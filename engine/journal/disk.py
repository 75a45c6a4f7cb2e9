"""The real file system, as engine/journal/files.py asks for it."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Readings are nobody else's business: only the engine's user may read them.
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class DiskFile:
    """An open file descriptor that is written at its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, *parts: bytes | bytearray | memoryview) -> int:
        """Write at the end; return how many bytes were taken."""
        return os.writev(self._descriptor, parts)

    def sync(self) -> None:
        """fdatasync: the data, and the size, which is needed to read it back."""
        os.fdatasync(self._descriptor)

    def truncate(self, size_bytes: int) -> None:
        """Cut the file off behind so many bytes."""
        os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        """Close the descriptor, and with it a lock that it holds."""
        os.close(self._descriptor)


class Disk:
    """Files by way of the operating system; no state."""

    def make_folder(self, path: Path) -> None:
        """Make a folder of mode 0700, with the folders above it, each durable in the one above."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            self.sync_folder(folder.parent)

    def list(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(entry.name for entry in folder.iterdir())

    def size_bytes(self, path: Path) -> int:
        """Return the size of a file."""
        return path.stat().st_size

    def read(self, path: Path, offset: int, most_bytes: int) -> bytes:
        """Return up to so many bytes from an offset on; fewer only at the end of the file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, most_bytes, offset)
            if not data or len(data) == most_bytes:
                return data
            parts = [data]
            have = len(data)
            while have < most_bytes and (data := os.pread(descriptor, most_bytes - have, offset + have)):
                parts.append(data)
                have += len(data)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def create(self, path: Path) -> DiskFile:
        """Make a new file; FileExistsError when it is there."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return DiskFile(os.open(path, flags, _FILE_MODE))

    def append(self, path: Path) -> DiskFile:
        """Open a file that is there."""
        return DiskFile(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def replace(self, path: Path, content: bytes) -> None:
        """Write a new file, sync it, and give it the name of the old one."""
        new = path.with_name(f"{path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.rename(path)

    def rename(self, path: Path, to: Path) -> None:
        """Move a file within the file system."""
        path.rename(to)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Sync the folder: the names in it."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> DiskFile:
        """flock(2), which ends with the process at the latest; BlockingIOError when another has it."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return DiskFile(descriptor)


DISK = Disk()
