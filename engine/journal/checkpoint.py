"""The checkpoint: a small file that saves a start some work, and that shows when the newest segment is gone.

Layout in engine/journal/__init__.py. It is never needed: what is committed, the database's mark says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from engine._fastpath import crc32c

if TYPE_CHECKING:
    from pathlib import Path

    from engine.journal.files import Files

log = structlog.get_logger(__name__)

CHECKPOINT = "checkpoint"
_MAGIC = b"SCADACKP"
_VERSION = 1
_HEAD = struct.Struct("<8sII")
_REST = struct.Struct("<16s16s16sQQQQqQ8x")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the journal was when it was saved."""

    stream: UUID
    tenant: UUID
    database: UUID
    epoch: int
    committed: int
    """Everything up to this sequence was in the database."""
    trimmed: int
    """The last sequence of the segments that were removed."""
    last: int
    """The sequence of the last frame."""
    saved_us: int
    closed: bool
    """The journal was closed after that: there are no later frames."""

    def encoded(self) -> bytes:
        """Return the content of the file."""
        rest = _REST.pack(
            self.stream.bytes,
            self.tenant.bytes,
            self.database.bytes,
            self.epoch,
            self.committed,
            self.trimmed,
            self.last,
            self.saved_us,
            self.closed,
        )
        return _HEAD.pack(_MAGIC, _VERSION, crc32c(rest)) + rest

    @classmethod
    def decoded(cls, data: bytes) -> Checkpoint | None:
        """Return what a file says; None if it is of another version or no checkpoint."""
        if len(data) != _HEAD.size + _REST.size:
            return None
        magic, version, checksum = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION or checksum != crc32c(data, _HEAD.size):
            return None
        (stream, tenant, database, epoch, committed, trimmed, last, saved_us, closed) = _REST.unpack_from(
            data, _HEAD.size
        )
        return cls(
            stream=UUID(bytes=stream),
            tenant=UUID(bytes=tenant),
            database=UUID(bytes=database),
            epoch=epoch,
            committed=committed,
            trimmed=trimmed,
            last=last,
            saved_us=saved_us,
            closed=bool(closed),
        )


def read_checkpoint(files: Files, folder: Path, tenant: UUID) -> Checkpoint | None:
    """Return the folder's checkpoint; None where there is none that can be used, and then the log says why."""
    try:
        data = files.read(folder / CHECKPOINT, 0, _HEAD.size + _REST.size + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        log.warning("the journal's checkpoint cannot be read: the start is slower", error=str(exc))
        return None
    found = Checkpoint.decoded(data)
    if found is None:
        log.warning("the journal's checkpoint is damaged: the start is slower", folder=str(folder))
    elif found.tenant != tenant:
        log.warning(
            "the journal's checkpoint is another tenant's", folder=str(folder), tenant_id=str(found.tenant)
        )
        return None
    return found


def save_checkpoint(files: Files, folder: Path, checkpoint: Checkpoint) -> None:
    """Put it in place of the one before; where the disk does not take it, remove that, because it is out of date."""
    try:
        files.replace(folder / CHECKPOINT, checkpoint.encoded())
    except OSError as exc:
        log.warning("the journal's checkpoint was not saved: the next start is slower", error=str(exc))
        try:
            files.remove(folder / CHECKPOINT)
        except OSError:
            log.debug("there is no checkpoint to remove")
