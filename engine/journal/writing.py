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
    from pathlib import Path

    from engine.journal.files import AppendFile, Files


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class SegmentFile:
    """The segment that is being written."""

    def __init__(self, file: AppendFile, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self.spoiled = False

    @classmethod
    def create(cls, files: Files, path: Path, content: bytes) -> SegmentFile:
        """Make a new segment with its header and first records, durable. Raises OSError, and then there is none.

        A file that has the name already is of an attempt that failed: nobody was told that it holds anything.
        """
        try:
            file = files.create(path)
        except FileExistsError:
            files.remove(path)
            file = files.create(path)
        try:
            _write(file, content)
            file.sync()
            files.sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                files.remove(path)
            raise
        return cls(file, len(content))

    def add(self, content: bytes) -> None:
        """Append records, durable. Raises OSError, and then none of them is in the file or the file is `spoiled`."""
        try:
            _write(self._file, content)
        except OSError as exc:
            self.spoiled = exc.errno not in NO_ROOM or not self._cut_back()
            raise
        try:
            self._file.sync()
        except OSError:
            self.spoiled = True
            raise
        self._size_bytes += len(content)

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


def _write(file: AppendFile, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
