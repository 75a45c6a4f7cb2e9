"""The folder corrupt/: bytes that were no records and segments of others, kept for a person to look at.

Nothing here is ever read again by the engine, and nothing is removed by it. Bytes are copied up to a bound for the
whole folder; beyond that the log only says where they were. Segments of others are moved, however large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from engine.journal.walking import PIECE_BYTES, read_around

if TYPE_CHECKING:
    from pathlib import Path

    from engine.journal.files import Files

log = structlog.get_logger(__name__)

CORRUPT = "corrupt"
_MOST_BYTES = 256 << 20


class Kept:
    """corrupt/ of one journal; used by one thread at a time."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._folder = folder / CORRUPT

    def copy(self, path: Path, offset: int, end: int) -> str | None:
        """Keep bytes of a file and return the name under which they are; empty where they are only zeros.

        None: they are not kept, because the disk or corrupt/ is full. The log says so.
        """
        name = f"{path.name}.{offset}-{end}"
        try:
            self._files.make_folder(self._folder)
            there = self._files.list(self._folder)
            if name in there:
                return f"{CORRUPT}/{name}"
            if self._are_zeros(path, offset, end):
                return ""
            have_bytes = sum(self._files.size_bytes(self._folder / each) for each in there)
            if have_bytes + end - offset <= _MOST_BYTES:
                self._copy(path, offset, end, name, there)
                return f"{CORRUPT}/{name}"
            why = f"corrupt/ has {have_bytes} bytes already"
        except OSError as exc:
            why = str(exc)
        log.error("damaged bytes of the journal are not kept", file=str(path), at=offset, end=end, error=why)
        return None

    def _copy(self, path: Path, offset: int, end: int, name: str, there: list[str]) -> None:
        part = self._folder / f"{name}.part"
        if part.name in there:
            self._files.remove(part)
        file = self._files.create(part)
        try:
            while offset < end:
                data = memoryview(read_around(self._files, path, offset, min(PIECE_BYTES, end - offset)))
                if not data:
                    break
                offset += len(data)
                while data:
                    data = data[file.write(data) :]
            file.sync()
        finally:
            file.close()
        self._files.rename(part, self._folder / name)
        self._files.sync_folder(self._folder)

    def move(self, path: Path) -> str:
        """Move a whole file here; return the name under which it is."""
        self._files.make_folder(self._folder)
        there = set(self._files.list(self._folder))
        name, number = path.name, 1
        while name in there:
            name, number = f"{path.name}.{number}", number + 1
        self._files.rename(path, self._folder / name)
        self._files.sync_folder(self._folder)
        self._files.sync_folder(path.parent)
        return f"{CORRUPT}/{name}"

    def _are_zeros(self, path: Path, offset: int, end: int) -> bool:
        while offset < end:
            data = read_around(self._files, path, offset, min(PIECE_BYTES, end - offset))
            if data.count(0) != len(data):
                return False
            if not data:
                break
            offset += len(data)
        return True
