import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from scada.v1 import readings_pb2 as _readings_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GapCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAP_CAUSE_UNSPECIFIED: _ClassVar[GapCause]
    GAP_CAUSE_OUTAGE: _ClassVar[GapCause]
    GAP_CAUSE_RESTART: _ClassVar[GapCause]
    GAP_CAUSE_MISSING_MESSAGE: _ClassVar[GapCause]
    GAP_CAUSE_OVERFLOW: _ClassVar[GapCause]
    GAP_CAUSE_JOURNAL: _ClassVar[GapCause]
GAP_CAUSE_UNSPECIFIED: GapCause
GAP_CAUSE_OUTAGE: GapCause
GAP_CAUSE_RESTART: GapCause
GAP_CAUSE_MISSING_MESSAGE: GapCause
GAP_CAUSE_OVERFLOW: GapCause
GAP_CAUSE_JOURNAL: GapCause

class ListGapsRequest(_message.Message):
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

class ListGapsResponse(_message.Message):
    __slots__ = ("gaps", "next_page_token")
    GAPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    gaps: _containers.RepeatedCompositeFieldContainer[Gap]
    next_page_token: str
    def __init__(self, gaps: _Optional[_Iterable[_Union[Gap, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("tag", "start_time", "end_time", "cause", "recorded_time")
    TAG_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    RECORDED_TIME_FIELD_NUMBER: _ClassVar[int]
    tag: _readings_pb2.Tag
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    cause: GapCause
    recorded_time: _timestamp_pb2.Timestamp
    def __init__(self, tag: _Optional[_Union[_readings_pb2.Tag, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[_Union[GapCause, str]] = ..., recorded_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
