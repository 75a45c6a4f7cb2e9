"""Writing records to segments so that they are durable. Runs in a thread; decides nothing but what has failed.

A failed write or fdatasync leaves a file of which nobody knows what the disk has (the kernel takes the pages for
clean). Such a file is spoiled: it is closed, and nothing goes to it any more. The one exception is a write for which
there was no room: the file is cut back to what it had, and may be used again.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.journal.files import AppendFile, Files


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
# What one write takes: IOV_MAX on Linux.
_MOST_PARTS = 1_024


class SegmentFile:
    """The segment that is being written."""

    def __init__(self, file: AppendFile, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self.spoiled = False

    @classmethod
    def create(cls, files: Files, path: Path, parts: Sequence[bytes | bytearray]) -> SegmentFile:
        """Make a new segment with its header and first records, durable. Raises OSError, and then there is none.

        A file that has the name already is of an attempt that failed: nobody was told that it holds anything. It stays
        until the new one takes its place, because a folder without a segment looks like one that has lost them.
        """
        made = path
        try:
            file = files.create(path)
        except FileExistsError:
            made = path.with_name(f"{path.name}.new")
            with suppress(FileNotFoundError):
                files.remove(made)
            file = files.create(made)
        try:
            size_bytes = _write(file, parts)
            file.sync()
            if made != path:
                files.rename(made, path)
                made = path
            files.sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                files.remove(made)
            raise
        return cls(file, size_bytes)

    def add(self, parts: Sequence[bytes | bytearray]) -> None:
        """Append records, durable. Raises OSError, and then none of them is in the file or the file is `spoiled`."""
        try:
            size_bytes = _write(self._file, parts)
        except OSError as exc:
            undone = self._cut_back()
            self.spoiled = exc.errno not in NO_ROOM or not undone
            raise
        try:
            self._file.sync()
        except OSError:
            self.spoiled = True
            # The page cache still has what the disk has not. A later start must not find it there and believe it.
            self._cut_back()
            raise
        self._size_bytes += size_bytes

    def close(self) -> None:
        """Close the file; what is durable is so already."""
        with suppress(OSError):
            self._file.close()

    def _cut_back(self) -> bool:
        try:
            self._file.truncate(self._size_bytes)
        except OSError:
            return False
        return True


def _write(file: AppendFile, parts: Sequence[bytes | bytearray]) -> int:
    """Write all of it, and return how many bytes that were."""
    left: list[bytes | bytearray | memoryview] = [*parts]
    at = size_bytes = 0
    while at < len(left):
        taken = file.write(*left[at : at + _MOST_PARTS])
        size_bytes += taken
        while at < len(left) and taken >= len(left[at]):
            taken -= len(left[at])
            at += 1
        if taken:
            left[at] = memoryview(left[at])[taken:]
    return size_bytes
