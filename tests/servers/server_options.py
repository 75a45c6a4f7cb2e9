"""What a test may ask of any of the OPC UA servers. Each server's module says what it makes of it.

`running_server` starts any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.servers.identities import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server announces in its ServerCapabilities and holds clients to; 0: no limit."""

    items_per_call: int = 0
    items_per_subscription: int = 0
    nodes_per_read: int = 0
    nodes_per_browse: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server shall be. The defaults are a server without security and limits that admits everybody."""

    identity: Identity | None = None
    """Brings all policies, each with Sign and SignAndEncrypt, beside None."""
    only_secure: bool = False
    """Refuse sessions without security."""
    deprecated: bool = False
    """Offer Basic128Rsa15 and Basic256, too."""
    users: tuple[tuple[str, str], ...] = ()
    """Names and passwords that may log in."""
    user_certificate: Identity | None = None
    """Whose certificate may log in; None: every user certificate may."""
    anonymous: bool = True
    trusted_client: Identity | None = None
    """The only client that is let in; None: all are."""
    limits: Limits = field(default_factory=Limits)
    history_page: int = 0
    """Counters keep their history, and one HistoryRead answers this many values; 0: no history."""
    session_ms: float = 0.0
    """The longest session timeout; 0: the server's own."""
    lifetime_count: int = 0
    """The longest lifetime of a subscription, in publishing intervals; 0: the server's own."""
    namespace_before: bool = False
    """Register another namespace before the moving one, whose index then is another."""
    service_level: int = 255
