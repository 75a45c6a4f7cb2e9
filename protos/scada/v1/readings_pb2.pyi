import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Quality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUALITY_UNSPECIFIED: _ClassVar[Quality]
    QUALITY_GOOD: _ClassVar[Quality]
    QUALITY_UNCERTAIN: _ClassVar[Quality]
    QUALITY_BAD: _ClassVar[Quality]
QUALITY_UNSPECIFIED: Quality
QUALITY_GOOD: Quality
QUALITY_UNCERTAIN: Quality
QUALITY_BAD: Quality

class StreamReadingsRequest(_message.Message):
    __slots__ = ("well_id", "tag_ids", "start_time", "end_time")
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_IDS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    well_id: str
    tag_ids: _containers.RepeatedScalarFieldContainer[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, well_id: _Optional[str] = ..., tag_ids: _Optional[_Iterable[int]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StreamReadingsResponse(_message.Message):
    __slots__ = ("tags", "columns")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    columns: ReadingColumns
    def __init__(self, tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., columns: _Optional[_Union[ReadingColumns, _Mapping]] = ...) -> None: ...

class ListReadingsRequest(_message.Message):
    __slots__ = ("well_id", "tag_ids", "start_time", "end_time", "page_size", "page_token")
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_IDS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    well_id: str
    tag_ids: _containers.RepeatedScalarFieldContainer[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, well_id: _Optional[str] = ..., tag_ids: _Optional[_Iterable[int]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReadingsResponse(_message.Message):
    __slots__ = ("tags", "columns", "next_page_token")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    columns: ReadingColumns
    next_page_token: str
    def __init__(self, tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., columns: _Optional[_Union[ReadingColumns, _Mapping]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetLatestReadingsRequest(_message.Message):
    __slots__ = ("well_id", "tag_ids")
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_IDS_FIELD_NUMBER: _ClassVar[int]
    well_id: str
    tag_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, well_id: _Optional[str] = ..., tag_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GetLatestReadingsResponse(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[LatestReading]
    def __init__(self, readings: _Optional[_Iterable[_Union[LatestReading, _Mapping]]] = ...) -> None: ...

class LatestReading(_message.Message):
    __slots__ = ("tag", "time", "status", "quality", "value", "text_value")
    TAG_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TEXT_VALUE_FIELD_NUMBER: _ClassVar[int]
    tag: Tag
    time: _timestamp_pb2.Timestamp
    status: int
    quality: Quality
    value: float
    text_value: str
    def __init__(self, tag: _Optional[_Union[Tag, _Mapping]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status: _Optional[int] = ..., quality: _Optional[_Union[Quality, str]] = ..., value: _Optional[float] = ..., text_value: _Optional[str] = ...) -> None: ...

class Tag(_message.Message):
    __slots__ = ("tag_id", "tag_name", "opc_node_id", "unit", "well_id", "well_name")
    TAG_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_NAME_FIELD_NUMBER: _ClassVar[int]
    OPC_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_NAME_FIELD_NUMBER: _ClassVar[int]
    tag_id: int
    tag_name: str
    opc_node_id: str
    unit: str
    well_id: str
    well_name: str
    def __init__(self, tag_id: _Optional[int] = ..., tag_name: _Optional[str] = ..., opc_node_id: _Optional[str] = ..., unit: _Optional[str] = ..., well_id: _Optional[str] = ..., well_name: _Optional[str] = ...) -> None: ...

class ReadingColumns(_message.Message):
    __slots__ = ("time_us", "tag_id", "status", "value", "null_row", "text_row", "text_value")
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    TAG_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NULL_ROW_FIELD_NUMBER: _ClassVar[int]
    TEXT_ROW_FIELD_NUMBER: _ClassVar[int]
    TEXT_VALUE_FIELD_NUMBER: _ClassVar[int]
    time_us: _containers.RepeatedScalarFieldContainer[int]
    tag_id: _containers.RepeatedScalarFieldContainer[int]
    status: _containers.RepeatedScalarFieldContainer[int]
    value: _containers.RepeatedScalarFieldContainer[float]
    null_row: _containers.RepeatedScalarFieldContainer[int]
    text_row: _containers.RepeatedScalarFieldContainer[int]
    text_value: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, time_us: _Optional[_Iterable[int]] = ..., tag_id: _Optional[_Iterable[int]] = ..., status: _Optional[_Iterable[int]] = ..., value: _Optional[_Iterable[float]] = ..., null_row: _Optional[_Iterable[int]] = ..., text_row: _Optional[_Iterable[int]] = ..., text_value: _Optional[_Iterable[str]] = ...) -> None: ...
