"""What requests and answers look like in JSON, and so in OpenAPI. What a value must look like is engine.catalog's.

Answers are not built from these: their bytes are made at once, and these only describe them (tests compare the two).
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from engine.catalog import ITEM_COLUMNS, ConnectionSummary, ItemSettings, NewConnection, NewTag, Tag
from workers.reading_pages import PAGE_ROWS_DEFAULT, PAGE_ROWS_MOST


class _Received(BaseModel):
    """Something that a caller sends. A field that does not exist is an error: it may be one that is misspelt."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", hide_input_in_errors=True)


class _Sent(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class _ItemFields(BaseModel):
    """How tags are read. A tag's null leaves it to its connection, a connection's null to the engine's settings."""

    read_mode: str | None = Field(None, description="subscribe, or poll every pollIntervalSeconds.")
    publishing_interval_ms: float | None = Field(None, description="How often the server reports changes.")
    sampling_interval_ms: float | None = Field(
        None, description="How often it looks for one; -1 is the publishing interval, 0 as fast as it can."
    )
    queue_size: int | None = Field(None, description="Changes that it keeps between two reports.")
    discard_oldest: bool | None = Field(None, description="Which one goes when the queue is full.")
    deadband_type: str | None = Field(
        None, description="None, Absolute (raw units) or Percent (of the node's EURange)."
    )
    deadband_value: float | None = Field(None, description="The least change to report.")
    data_change_trigger: str | None = Field(None, description="Status, StatusValue or StatusValueTimestamp.")
    timestamps_to_return: str | None = Field(None, description="Source, Server or Both.")

    def settings(self) -> ItemSettings:
        """Return them as the catalog has them."""
        return ItemSettings(**{name: getattr(self, name) for name in ITEM_COLUMNS})


class ConnectionBody(_ItemFields, _Received):
    """An OPC UA server to read from."""

    well_id: UUID = Field(description="The well that its tags belong to, unless they say otherwise.")
    name: str
    description: str | None = None
    endpoint_url: str = Field(examples=["opc.tcp://10.0.0.5:4840"])
    failover_urls: list[str] = Field(
        [], description="Its other addresses, or its redundant partners; at most 8."
    )
    security_mode: str = Field(
        "None", description="None, Sign, SignAndEncrypt, or Auto: the strongest there is."
    )
    security_policy: str = Field("None", description="None, Auto, or such as Basic256Sha256.")
    allow_deprecated_policies: bool = Field(False, description="Also Basic128Rsa15 and Basic256.")
    username: str | None = None
    password: SecretStr | None = Field(
        None, description="Stored encrypted and never returned.", json_schema_extra={"writeOnly": True}
    )
    allow_plain_password: bool = Field(
        False, description="Send the password readable where the server offers nothing better."
    )
    user_certificate: str | None = Field(
        None, description="The user's X509 certificate, PEM.", json_schema_extra={"writeOnly": True}
    )
    user_private_key: SecretStr | None = Field(
        None,
        description="Its key, PEM. Stored encrypted and never returned.",
        json_schema_extra={"writeOnly": True},
    )
    poll_interval_seconds: int = Field(60, description="1 to 86400.")
    is_enabled: bool = True

    def wanted(self) -> NewConnection:
        """Return what the catalog is asked for."""
        return NewConnection(
            well_id=self.well_id,
            name=self.name,
            endpoint_url=self.endpoint_url,
            description=self.description,
            security_mode=self.security_mode,
            security_policy=self.security_policy,
            username=self.username,
            password=None if self.password is None else self.password.get_secret_value(),
            poll_interval_seconds=self.poll_interval_seconds,
            is_enabled=self.is_enabled,
            failover_urls=tuple(self.failover_urls),
            settings=self.settings(),
            user_certificate=self.user_certificate,
            user_private_key=None
            if self.user_private_key is None
            else self.user_private_key.get_secret_value(),
            allow_deprecated_policies=self.allow_deprecated_policies,
            allow_plain_password=self.allow_plain_password,
        )


class TagBody(_ItemFields, _Received):
    """An OPC UA node to read: raw x scalingFactor + offset is what is stored."""

    tag_name: str = Field(examples=["CASING_PRESSURE"])
    opc_node_id: str = Field(examples=["ns=2;s=Well1.Pressure"])
    data_type: str = Field("DOUBLE", examples=["DOUBLE", "INT", "STRING", "BOOLEAN"])
    unit: str | None = Field(None, examples=["PSI"])
    scaling_factor: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    well_id: UUID | None = Field(None, description="Another well than the connection's.")

    def wanted(self) -> NewTag:
        """Return what the catalog is asked for."""
        return NewTag(
            tag_name=self.tag_name,
            opc_node_id=self.opc_node_id,
            data_type=self.data_type,
            unit=self.unit,
            scaling_factor=self.scaling_factor,
            offset=self.offset,
            well_id=self.well_id,
            settings=self.settings(),
        )


class TagsBody(_Received):
    """Tags to add: all of them or none."""

    tags: list[TagBody]


class ConnectionsQuery(_Received):
    """Which page of the connections."""

    limit: int = Field(100, ge=1, le=1_000)
    cursor: UUID | None = Field(None, description="X-Next-Cursor of the page before.")


class ReadingsQuery(_Received):
    """Which readings: of a well, from `from` on and before `to`."""

    well_id: UUID
    from_: str = Field(
        alias="from",
        description="ISO 8601 (without an offset it is UTC) or milliseconds since 1970; belongs to the range.",
        examples=["2026-11-23T14:00:00Z"],
    )
    to: str | None = Field(
        None,
        description="The same; does not belong to the range. Without it: now.",
        examples=["1795442400000"],
    )
    limit: int = Field(PAGE_ROWS_DEFAULT, ge=1, le=PAGE_ROWS_MOST)
    cursor: str = Field("", max_length=200, description="X-Next-Cursor of the page before.")


class ActiveView(_Sent):
    """What a connection uses now, and what the server made of what was asked for."""

    endpoint_url: str
    security_mode: str
    security_policy: str
    monitored: int = Field(description="Tags that are read, by a subscription or by polling.")
    revised_publishing_interval_ms: float | None
    revised_lifetime_ms: float | None


class ConnectionView(_ItemFields, _Sent):
    """An OPC UA server and how it is doing."""

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
    failover_urls: list[str]
    has_user_certificate: bool
    allow_deprecated_policies: bool
    allow_plain_password: bool
    last_connected_at: datetime | None
    last_error: str | None
    tag_count: int
    active: ActiveView | None = Field(description="null while it is not connected.")


class TagView(_ItemFields, _Sent):
    """A tag. `tagId` is its number in gRPC and in the tables."""

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


class ReadingView(_Sent):
    """A reading in engineering units."""

    timestamp: datetime = Field(description="UTC, to the microsecond.")
    well_id: UUID
    tag_node_id: str
    value: float | None = Field(description="null for no number, NaN and infinities.")
    quality: Literal["Good", "Uncertain", "Bad"]
    tag_name: str
    unit: str | None
    text_value: str | None = Field(
        None, description="Only there for text, and for numbers that are not exact."
    )


class FieldProblem(_Sent):
    """One thing that does not fit."""

    field: str
    message: str


class ErrorDetail(_Sent):
    """What is wrong: with which field, if it is one, and everything in `problems` if it is more than one."""

    field: str | None
    message: str
    problems: list[FieldProblem] | None = None


class ErrorView(_Sent):
    """The body of every answer that is an error."""

    error: ErrorDetail


def connection_of(summary: ConnectionSummary) -> dict[str, Any]:
    """Return a connection as ConnectionView describes it."""
    seen, active = summary.last_connected_at, summary.active
    return {
        "id": summary.id,
        "wellId": summary.well_id,
        "name": summary.name,
        "description": summary.description,
        "endpointUrl": summary.endpoint_url,
        "securityMode": summary.security_mode,
        "securityPolicy": summary.security_policy,
        "username": summary.username,
        "pollIntervalSeconds": summary.poll_interval_seconds,
        "isEnabled": summary.is_enabled,
        "failoverUrls": summary.failover_urls,
        "hasUserCertificate": summary.has_user_certificate,
        "allowDeprecatedPolicies": summary.allow_deprecated_policies,
        "allowPlainPassword": summary.allow_plain_password,
        **_settings_of(summary.settings),
        "lastConnectedAt": None if seen is None else seen.astimezone(UTC),
        "lastError": summary.last_error,
        "tagCount": summary.tags,
        "active": active
        and {
            "endpointUrl": active.endpoint_url,
            "securityMode": active.security_mode,
            "securityPolicy": active.security_policy,
            "monitored": active.monitored,
            "revisedPublishingIntervalMs": active.revised_publishing_interval_ms,
            "revisedLifetimeMs": active.revised_lifetime_ms,
        },
    }


def tag_of(tag: Tag) -> dict[str, Any]:
    """Return a tag as TagView describes it."""
    return {
        "tagId": tag.tag_id,
        "id": tag.id,
        "connectionId": tag.connection_id,
        "wellId": tag.well_id,
        "tagName": tag.tag_name,
        "opcNodeId": tag.opc_node_id,
        "dataType": tag.data_type,
        "unit": tag.unit,
        "scalingFactor": tag.scaling_factor,
        "offset": tag.offset,
        **_settings_of(tag.settings),
    }


def _settings_of(settings: ItemSettings) -> dict[str, Any]:
    return {to_camel(name): getattr(settings, name) for name in ITEM_COLUMNS}
