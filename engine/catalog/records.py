"""What the catalog is made of: tenants, wells, connections and tags, as read and as asked for.

Owns no SQL and no rules. A record that carries a secret does not show it in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Tenant:
    """A company, and the address of its database."""

    id: UUID
    slug: str
    name: str
    status: str
    dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Well:
    """A place that tags belong to."""

    id: UUID
    name: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """An OPC UA node that is read, and how its raw value becomes engineering units."""

    tag_id: int
    id: UUID
    connection_id: UUID
    well_id: UUID
    tag_name: str
    opc_node_id: str
    data_type: str
    unit: str | None
    scaling_factor: float
    offset: float


@dataclass(frozen=True, slots=True)
class Connection:
    """An OPC UA server with everything a session to it needs."""

    id: UUID
    well_id: UUID
    name: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str | None
    password: str | None = field(repr=False)
    poll_interval_seconds: int
    is_enabled: bool
    updated_at: datetime
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class ConnectionSummary:
    """An OPC UA server as lists show it: how it is doing, and no secret."""

    id: UUID
    well_id: UUID
    name: str
    description: str | None
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str | None
    poll_interval_seconds: int
    is_enabled: bool
    last_connected_at: datetime | None
    last_error: str | None
    tags: int


@dataclass(frozen=True, slots=True)
class NewConnection:
    """A connection that somebody asks for; `catalog.add_connection` checks it."""

    well_id: UUID
    name: str
    endpoint_url: str
    description: str | None = None
    security_mode: str = "None"
    security_policy: str = "None"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    poll_interval_seconds: int = 60
    is_enabled: bool = True


@dataclass(frozen=True, slots=True)
class NewTag:
    """A tag that somebody asks for; `catalog.add_tags` checks it. Without a well it belongs to its connection's."""

    tag_name: str
    opc_node_id: str
    data_type: str = "DOUBLE"
    unit: str | None = None
    scaling_factor: float | Decimal = 1.0
    offset: float | Decimal = 0.0
    well_id: UUID | None = None
