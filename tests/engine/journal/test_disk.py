"""The real file system: modes, the lock, short files; and a journal on it, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.journal.disk import DISK
from tests.engine.journal.journals import numbers, open_journal, read_all

APPENDING = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from engine.journal.disk import DISK
from tests.engine.journal.journals import DATABASE, entry, open_journal

async def run():
    journal = await open_journal(DISK, folder=Path(sys.argv[1]), threads=ThreadPoolExecutor(2))
    await journal.begin(1, DATABASE)
    number = 0
    while True:
        number += 1
        await journal.append([entry(number)])
        print(number, flush=True)

asyncio.run(run())
"""


def test_folders_and_files_are_their_owners_only(tmp_path: Path) -> None:
    DISK.make_folder(tmp_path / "a" / "b")
    DISK.make_folder(tmp_path / "a" / "b")
    file = DISK.create(tmp_path / "a" / "b" / "c")
    assert file.write(b"12345") == 5
    file.sync()
    file.truncate(3)
    file.close()
    file = DISK.append(tmp_path / "a" / "b" / "c")
    file.write(b"67")
    file.close()
    DISK.replace(tmp_path / "a" / "b" / "d", b"whole")
    DISK.sync_folder(tmp_path / "a" / "b")
    assert DISK.list(tmp_path / "a" / "b") == ["c", "d"]
    assert [oct((tmp_path / path).stat().st_mode & 0o777) for path in ("a", "a/b", "a/b/c", "a/b/d")] == [
        "0o700",
        "0o700",
        "0o600",
        "0o600",
    ]
    assert DISK.read(tmp_path / "a" / "b" / "c", 1, 99) == b"2367"
    assert DISK.read(tmp_path / "a" / "b" / "c", 9, 99) == b""
    assert DISK.size_bytes(tmp_path / "a" / "b" / "c") == 5
    with pytest.raises(FileExistsError):
        DISK.create(tmp_path / "a" / "b" / "c")


def test_a_lock_is_one_processs_until_it_is_closed(tmp_path: Path) -> None:
    lock = DISK.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        DISK.lock(tmp_path / "lock")
    lock.close()
    DISK.lock(tmp_path / "lock").close()


def killed_while_appending(folder: Path) -> int:
    """Append in a process of its own until it is killed; return how many frames it said are durable."""
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = 0
    for line in child.stdout:
        if line.strip().isdigit():
            told = int(line)
        if told >= 50:
            break
    os.kill(child.pid, signal.SIGKILL)
    for line in child.stdout:
        told = int(line) if line.endswith("\n") else told
    child.wait()
    child.stdout.close()
    return told


async def test_a_killed_process_leaves_what_it_was_told_is_durable_and_no_lock(tmp_path: Path) -> None:
    told = killed_while_appending(tmp_path / "j")
    with ThreadPoolExecutor(2) as threads:
        journal = await open_journal(DISK, folder=tmp_path / "j", threads=threads)
        found, losses = await read_all(journal)
        assert losses == []
        assert numbers(found)[:told] == list(range(1, told + 1))
        assert len(found) <= told + 1
        await journal.close()
