"""What the catalog is made of: tenants, wells, connections and tags, as read and as asked for.

Owns no SQL and no rules. A record that carries a secret does not show it in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    pass


class Durability(StrEnum):
    """Where a tenant's readings are kept until its database has them."""

    DISK = "disk"
    """In a journal on disk, and acknowledged to the OPC UA server only then: they outlive the engine's process."""
    MEMORY = "memory"
    """In memory only, and acknowledged all the same: what a process holds is lost when it dies."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A company, and the address of its database."""

    id: UUID
    slug: str
    name: str
    status: str
    dsn: str = field(repr=False)
    durability: Durability = Durability.DISK


@dataclass(frozen=True, slots=True)
class Well:
    """A place that tags belong to."""

    id: UUID
    name: str
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSettings:
    """How a tag's node is read. None leaves it to the connection, and there to settings.opcua."""

    read_mode: str | None = None
    """"subscribe" (the server reports changes) or "poll" (we read every poll_interval_seconds)."""
    publishing_interval_ms: float | None = None
    sampling_interval_ms: float | None = None
    """-1: the publishing interval; 0: as fast as the server can."""
    queue_size: int | None = None
    discard_oldest: bool | None = None
    deadband_type: str | None = None
    """"None", "Absolute" (in raw units) or "Percent" (of the node's EURange)."""
    deadband_value: float | None = None
    data_change_trigger: str | None = None
    """"Status", "StatusValue" or "StatusValueTimestamp" (OPC 10000-4, 7.22.2)."""
    timestamps_to_return: str | None = None
    """"Source", "Server" or "Both"."""

    def chosen(self) -> dict[str, str | float | bool]:
        """Return only what is not None, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}

    def over(self, defaults: ItemSettings) -> ItemSettings:
        """Return these settings with what they leave open taken from `defaults`."""
        names = self.__slots__
        mine = {name: getattr(self, name) for name in names}
        return ItemSettings(
            **{name: getattr(defaults, name) if value is None else value for name, value in mine.items()}
        )


NO_SETTINGS = ItemSettings()
"""Of what has no settings of its own: one object for all of them."""
ITEM_COLUMNS = tuple(column.name for column in fields(ItemSettings))
"""The columns that scada_connections and tag_mappings have for ItemSettings."""


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
    settings: ItemSettings = NO_SETTINGS


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
    failover_urls: tuple[str, ...]
    settings: ItemSettings
    has_user_certificate: bool
    allow_deprecated_policies: bool
    allow_plain_password: bool
    last_connected_at: datetime | None
    last_error: str | None
    tags: int
    active: ActiveConnection | None
    """What is in use; None while it is not connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveConnection:
    """What a connection uses now: what was chosen, and what the server made of what we asked for."""

    endpoint_url: str
    security_mode: str
    security_policy: str
    monitored: int
    """Tags that are read, by a subscription or by polling."""
    revised_publishing_interval_ms: float | None = None
    revised_lifetime_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TagState:
    """How a tag is read now, as the engine saw it last."""

    monitored: bool
    reason: str | None
    """Why it is not read: a label of engine.metrics.MissingReason."""
    revised_sampling_interval_ms: float | None
    revised_queue_size: int | None
    updated_at: datetime


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
    failover_urls: tuple[str, ...] = ()
    settings: ItemSettings = NO_SETTINGS
    user_certificate: str | None = None
    user_private_key: str | None = field(default=None, repr=False)
    allow_deprecated_policies: bool = False
    allow_plain_password: bool = False


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
    settings: ItemSettings = NO_SETTINGS
