"""A connection as a worker holds it: address, secrets and settings of a server, with its tags as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from engine.catalog.records import ItemSettings
from engine.catalog.tag_set import TagSet


@dataclass(frozen=True, slots=True)
class Connection:
    """An OPC UA server with everything a session to it needs. Two are equal when no session has to be made again."""

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
    tags: TagSet
    failover_urls: tuple[str, ...] = ()
    """Other addresses of the same server, or of its redundant partners; the healthiest is used."""
    settings: ItemSettings = field(default_factory=ItemSettings)
    """What holds for tags that do not say otherwise."""
    user_certificate: str | None = None
    """PEM; with its key, the X509 identity of the user."""
    user_private_key: str | None = field(default=None, repr=False)
    allow_deprecated_policies: bool = False
    """Basic128Rsa15 and Basic256 may be used (both rest on SHA-1)."""
    allow_plain_password: bool = False
    """The password may go out readable, where a server offers nothing better."""

    @property
    def endpoint_urls(self) -> tuple[str, ...]:
        """Every address, the first one preferred."""
        return (self.endpoint_url, *self.failover_urls)
