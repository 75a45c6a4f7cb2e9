"""What a connection tells whoever owns the ring and the catalog: rows that were stored, and how it is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """What is true of a connection now.

    `error` says why it is not connected; when it is, which tags are not monitored, or None.
    """

    connection_id: UUID
    connected: bool
    error: str | None
    monitored: int
    wanted: int


class Sink(Protocol):
    """Whoever owns the ring and the catalog."""

    def stored(self, rows: int) -> None:
        """Take note of rows that went into the ring, and count them as received."""

    async def wait_for_space(self) -> None:
        """Return after rows of the ring were freed."""

    def report(self, report: ConnectionReport) -> None:
        """Take note of a change of state."""
