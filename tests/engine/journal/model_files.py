"""A file system in memory that fails as real ones do: what is not synced can be lost, in any order, in part.

There are two states of everything, what a process sees (the page cache) and what is on disk. `write` changes the first,
`sync` brings a file's dirty pages to the second, `sync_folder` the names. `after_kill` is a machine whose process died;
`after_power_loss` one whose page cache died: of each dirty page either version is there, the size may be any between
the two, and of the changes of names that were not synced the first few have happened.

A sync that fails with EIO leaves the pages clean and not on disk, as Linux does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

PAGE_BYTES = 64


class Crashed(Exception):
    """The process or the machine is gone; no call comes back."""


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def io_error() -> OSError:
    return OSError(errno.EIO, "Input/output error")


@dataclass(eq=False)
class _Inode:
    cache: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)

    def touch(self, begin: int, end: int) -> None:
        self.dirty.update(range(begin // PAGE_BYTES, (max(end, begin + 1) - 1) // PAGE_BYTES + 1))

    def sync(self) -> None:
        if len(self.disk) < len(self.cache):
            self.disk.extend(bytes(len(self.cache) - len(self.disk)))
        del self.disk[len(self.cache) :]
        for page in self.dirty:
            place = slice(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(self.cache)))
            if place.start < place.stop:
                self.disk[place] = self.cache[place]
        self.dirty.clear()

    def lose(self, random: Random) -> _Inode:
        """Return the file as it is after the cache was lost."""
        low, high = sorted((len(self.disk), len(self.cache)))
        size = random.choice([len(self.disk), len(self.cache), random.randint(low, high)])
        if not self.dirty:
            size = len(self.disk)
        content = bytearray(self.disk[:size].ljust(size, b"\0"))
        for page in self.dirty:
            if random.random() < 0.5:
                place = slice(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(self.cache), size))
                if place.start < place.stop:
                    content[place] = self.cache[place]
        return _Inode(bytearray(content), bytearray(content))


class ModelFiles:
    """Implements engine.journal.files.Files."""

    def __init__(self, *, random: Random | None = None, capacity_bytes: int = 1 << 40) -> None:
        self.random = random
        """With it, writes may be short."""
        self.capacity_bytes = capacity_bytes
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, Path], None] = lambda *_: None
        """Called before each call takes effect; what it raises is what the call raises."""
        self._names: dict[Path, _Inode | None] = {}
        self._synced: dict[Path, _Inode | None] = {}
        self._changes: list[tuple[tuple[Path, _Inode | None], ...]] = []
        self._locks: set[Path] = set()
        self.crashed = False

    # Machines after this one.

    def after_kill(self) -> ModelFiles:
        """Return the machine after its process was killed."""
        after = ModelFiles(random=self.random, capacity_bytes=self.capacity_bytes)
        after._names, after._synced = dict(self._names), dict(self._synced)
        after._changes = list(self._changes)
        return after

    def after_power_loss(self, random: Random) -> ModelFiles:
        """Return the machine after it had no power."""
        after = ModelFiles(random=self.random, capacity_bytes=self.capacity_bytes)
        names = dict(self._synced)
        for change in self._changes[: random.randint(0, len(self._changes))]:
            _apply(names, change)
        lost = {id(inode): inode.lose(random) for inode in names.values() if inode is not None}
        after._names = {path: lost[id(inode)] if inode is not None else None for path, inode in names.items()}
        after._synced = dict(after._names)
        return after

    # What tests do to files.

    def content(self, path: Path) -> bytearray:
        """Return a file's bytes; changing them changes both the cache and the disk's bytes on `put`."""
        inode = self._names[path]
        assert inode is not None
        return bytearray(inode.cache)

    def put(self, path: Path, content: bytes | bytearray) -> None:
        """Have these bytes in a file, on disk."""
        inode = _Inode(bytearray(content), bytearray(content))
        self._names[path] = self._synced[path] = inode
        self._changes = []

    def paths(self) -> list[Path]:
        return sorted(path for path, inode in self._names.items() if inode is not None)

    # Files.

    def _call(self, call: str, path: Path) -> None:
        if self.crashed:
            raise Crashed
        self.calls.append((call, path.name))
        try:
            self.before(call, path)
        except Crashed:
            self.crashed = True
            raise

    def _used_bytes(self) -> int:
        inodes = {id(inode): inode for inode in self._names.values() if inode is not None}
        return sum(len(inode.cache) for inode in inodes.values())

    def _inode(self, path: Path) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return inode

    def _change(self, *changes: tuple[Path, _Inode | None]) -> None:
        self._changes.append(changes)
        _apply(self._names, changes)

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", path)

    def list(self, folder: Path) -> list[str]:
        self._call("list", folder)
        return [path.name for path in self.paths() if path.parent == folder]

    def size_bytes(self, path: Path) -> int:
        self._call("size_bytes", path)
        return len(self._inode(path).cache)

    def read(self, path: Path, offset: int, most_bytes: int) -> bytes:
        self._call("read", path)
        return bytes(self._inode(path).cache[offset : offset + most_bytes])

    def create(self, path: Path) -> ModelFile:
        self._call("create", path)
        if self._names.get(path) is not None:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        inode = _Inode()
        self._change((path, inode))
        return ModelFile(self, path, inode)

    def append(self, path: Path) -> ModelFile:
        self._call("append", path)
        return ModelFile(self, path, self._inode(path))

    def replace(self, path: Path, content: bytes) -> None:
        self._call("replace", path)
        if self._used_bytes() + len(content) > self.capacity_bytes:
            raise no_room()
        self._change((path, _Inode(bytearray(content), bytearray(content))))

    def rename(self, path: Path, to: Path) -> None:
        self._call("rename", path)
        self._change((to, self._inode(path)), (path, None))

    def remove(self, path: Path) -> None:
        self._call("remove", path)
        self._inode(path)
        self._change((path, None))

    def sync_folder(self, folder: Path) -> None:
        self._call("sync_folder", folder)
        # A file system with a journal brings earlier changes to the disk, too.
        self._synced = dict(self._names)
        self._changes = []

    def lock(self, path: Path) -> ModelFile:
        self._call("lock", path)
        if path in self._locks:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", str(path))
        self._locks.add(path)
        return ModelFile(self, path, _Inode(), locked=True)


def _apply(names: dict[Path, _Inode | None], changes: tuple[tuple[Path, _Inode | None], ...]) -> None:
    names.update(changes)


class ModelFile:
    """Implements engine.journal.files.AppendFile."""

    def __init__(self, files: ModelFiles, path: Path, inode: _Inode, *, locked: bool = False) -> None:
        self._files = files
        self._path = path
        self._inode = inode
        self._locked = locked

    def write(self, *parts: bytes | bytearray | memoryview) -> int:
        files, inode, data = self._files, self._inode, b"".join(parts)
        taken = len(data)
        if files.random is not None and files.random.random() < 0.3:
            taken = files.random.randint(1, taken)
        try:
            files._call("write", self._path)
        except (Crashed, OSError):
            # Something of it may have got into the file all the same.
            self._take(
                data[: files.random.randint(0, len(data)) if files.random is not None else len(data) // 2]
            )
            raise
        room = files.capacity_bytes - files._used_bytes()
        if room <= 0:
            raise no_room()
        taken = min(taken, room)
        self._take(data[:taken])
        assert self._inode is inode
        return taken

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        begin = len(self._inode.cache)
        self._inode.cache += data
        if len(data):
            self._inode.touch(begin, begin + len(data))

    def sync(self) -> None:
        try:
            self._files._call("sync", self._path)
        except OSError:
            self._inode.dirty.clear()
            raise
        self._inode.sync()

    def truncate(self, size_bytes: int) -> None:
        self._files._call("truncate", self._path)
        cache = self._inode.cache
        if size_bytes < len(cache):
            self._inode.touch(size_bytes, len(cache))
            del cache[size_bytes:]

    def close(self) -> None:
        if self._locked:
            self._files._locks.discard(self._path)
