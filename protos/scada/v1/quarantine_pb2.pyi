import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QuarantineReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUARANTINE_REASON_UNSPECIFIED: _ClassVar[QuarantineReason]
    QUARANTINE_REASON_TIMESTAMP: _ClassVar[QuarantineReason]
    QUARANTINE_REASON_TEXT: _ClassVar[QuarantineReason]
    QUARANTINE_REASON_REJECTED: _ClassVar[QuarantineReason]
    QUARANTINE_REASON_JOURNAL: _ClassVar[QuarantineReason]
QUARANTINE_REASON_UNSPECIFIED: QuarantineReason
QUARANTINE_REASON_TIMESTAMP: QuarantineReason
QUARANTINE_REASON_TEXT: QuarantineReason
QUARANTINE_REASON_REJECTED: QuarantineReason
QUARANTINE_REASON_JOURNAL: QuarantineReason

class QuarantineFilter(_message.Message):
    __slots__ = ("ids", "tag_ids", "well_id", "reason", "since_time", "until_time")
    IDS_FIELD_NUMBER: _ClassVar[int]
    TAG_IDS_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    tag_ids: _containers.RepeatedScalarFieldContainer[int]
    well_id: str
    reason: QuarantineReason
    since_time: _timestamp_pb2.Timestamp
    until_time: _timestamp_pb2.Timestamp
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., tag_ids: _Optional[_Iterable[int]] = ..., well_id: _Optional[str] = ..., reason: _Optional[_Union[QuarantineReason, str]] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListQuarantinedResponse(_message.Message):
    __slots__ = ("rows", "next_page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[QuarantinedReading]
    next_page_token: str
    def __init__(self, rows: _Optional[_Iterable[_Union[QuarantinedReading, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class QuarantinedReading(_message.Message):
    __slots__ = ("id", "quarantined_time", "reason", "sqlstate", "detail", "tag_id", "tag_name", "opc_node_id", "well_id", "well_name", "time_us", "status", "value", "text_begin", "text_size", "stream", "sequence", "place")
    ID_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SQLSTATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TAG_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_NAME_FIELD_NUMBER: _ClassVar[int]
    OPC_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TEXT_BEGIN_FIELD_NUMBER: _ClassVar[int]
    TEXT_SIZE_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    id: int
    quarantined_time: _timestamp_pb2.Timestamp
    reason: QuarantineReason
    sqlstate: str
    detail: str
    tag_id: int
    tag_name: str
    opc_node_id: str
    well_id: str
    well_name: str
    time_us: int
    status: int
    value: float
    text_begin: bytes
    text_size: int
    stream: str
    sequence: int
    place: int
    def __init__(self, id: _Optional[int] = ..., quarantined_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[_Union[QuarantineReason, str]] = ..., sqlstate: _Optional[str] = ..., detail: _Optional[str] = ..., tag_id: _Optional[int] = ..., tag_name: _Optional[str] = ..., opc_node_id: _Optional[str] = ..., well_id: _Optional[str] = ..., well_name: _Optional[str] = ..., time_us: _Optional[int] = ..., status: _Optional[int] = ..., value: _Optional[float] = ..., text_begin: _Optional[bytes] = ..., text_size: _Optional[int] = ..., stream: _Optional[str] = ..., sequence: _Optional[int] = ..., place: _Optional[int] = ...) -> None: ...

class RetryQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "replace_invalid", "any_time", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    REPLACE_INVALID_FIELD_NUMBER: _ClassVar[int]
    ANY_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    replace_invalid: bool
    any_time: bool
    page_token: str
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., replace_invalid: _Optional[bool] = ..., any_time: _Optional[bool] = ..., page_token: _Optional[str] = ...) -> None: ...

class RetryQuarantinedResponse(_message.Message):
    __slots__ = ("stored", "kept", "next_page_token")
    STORED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    stored: int
    kept: _containers.RepeatedCompositeFieldContainer[QuarantineCount]
    next_page_token: str
    def __init__(self, stored: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[QuarantineCount, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class QuarantineCount(_message.Message):
    __slots__ = ("reason", "rows")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    reason: QuarantineReason
    rows: int
    def __init__(self, reason: _Optional[_Union[QuarantineReason, str]] = ..., rows: _Optional[int] = ...) -> None: ...

class DropQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "everything", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    everything: bool
    page_token: str
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., everything: _Optional[bool] = ..., page_token: _Optional[str] = ...) -> None: ...

class DropQuarantinedResponse(_message.Message):
    __slots__ = ("dropped", "next_page_token")
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    next_page_token: str
    def __init__(self, dropped: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...
