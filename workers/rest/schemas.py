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

from engine.catalog import ConnectionSummary, NewConnection, NewTag, Tag
from workers.reading_pages import PAGE_ROWS_DEFAULT, PAGE_ROWS_MOST


class _Received(BaseModel):
    """Something that a caller sends. A field that does not exist is an error: it may be one that is misspelt."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", hide_input_in_errors=True)


class _Sent(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ConnectionBody(_Received):
    """An OPC UA server to read from."""

    well_id: UUID = Field(description="The well that its tags belong to, unless they say otherwise.")
    name: str
    description: str | None = None
    endpoint_url: str = Field(examples=["opc.tcp://10.0.0.5:4840"])
    security_mode: str = Field("None", description="None, Sign or SignAndEncrypt.")
    security_policy: str = Field("None", description="None, or such as Basic256Sha256.")
    username: str | None = None
    password: SecretStr | None = Field(
        None, description="Stored encrypted and never returned.", json_schema_extra={"writeOnly": True}
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
        )


class TagBody(_Received):
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


class ConnectionView(_Sent):
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
    last_connected_at: datetime | None
    last_error: str | None
    tag_count: int


class TagView(_Sent):
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
    seen = summary.last_connected_at
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
        "lastConnectedAt": None if seen is None else seen.astimezone(UTC),
        "lastError": summary.last_error,
        "tagCount": summary.tags,
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
    }
