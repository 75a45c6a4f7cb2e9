"""The typed client of the ReadingService, for the command line and for scripts. Blocking; one connection.

    with ReadingClient("127.0.0.1:50051", "permian-oil") as client:
        found = client.range(from_us=..., to_us=..., well_id=...)
        for batch in found:
            ...                 # engine.readings.Batch; found.tags[tag_id].tag_name

What a server refuses is raised as InvalidInput or NotFound with its field, all else as ScadaError in its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from engine.query import Latest, TagName
from scada.v1 import readings_pb2 as pb
from scada.v1.readings_pb2_grpc import ReadingServiceStub
from workers.rpc.columns import MESSAGE_MOST_BYTES, batch_of
from workers.rpc.status import TENANT, error_of

if TYPE_CHECKING:
    from engine.readings import Batch

_UNARY_S = 60.0


class RangeOfReadings:
    """The answer to a range query: `tags` by tag_id, and the batches as they arrive, oldest first; iterate once."""

    def __init__(self, stream: Any, address: str) -> None:
        """Wait for the first message of the stream, which has the tags."""
        self._stream = stream
        self._address = address
        with _raised_as_ours(address):
            first = next(stream, pb.StreamReadingsResponse())
        self.tags = {tag.tag_id: _tag_name(tag) for tag in first.tags}

    def __iter__(self) -> Iterator[Batch]:
        try:
            with _raised_as_ours(self._address):
                for message in self._stream:
                    yield batch_of(message.columns)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the query, if it still runs."""
        self._stream.cancel()


class ReadingClient:
    """A connection to a front, for one tenant; without a tenant, the server's only one is meant."""

    def __init__(self, address: str, tenant: str | None = None) -> None:
        """Make the client; the connection is made by the first call. `address` is host:port."""
        self._address = address
        self._metadata = ((TENANT, tenant),) if tenant else ()
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", MESSAGE_MOST_BYTES)]
        )
        self._stub: Any = ReadingServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def range(
        self, *, from_us: int, to_us: int, well_id: UUID | None = None, tag_ids: Sequence[int] = ()
    ) -> RangeOfReadings:
        """Return the readings in [from_us, to_us), microseconds since 1970, of a well or of these tags."""
        request = pb.StreamReadingsRequest(
            well_id=str(well_id) if well_id else "",
            tag_ids=tag_ids,
            start_time=_timestamp(from_us),
            end_time=_timestamp(to_us),
        )
        return RangeOfReadings(self._stub.StreamReadings(request, metadata=self._metadata), self._address)

    def latest(self, *, well_id: UUID | None = None, tag_ids: Sequence[int] = ()) -> list[Latest]:
        """Return the newest reading of each tag of a well, of these tags, or (neither given) of all tags."""
        request = pb.GetLatestReadingsRequest(well_id=str(well_id) if well_id else "", tag_ids=tag_ids)
        with _raised_as_ours(self._address):
            answer = self._stub.GetLatestReadings(request, metadata=self._metadata, timeout=_UNARY_S)
        return [_latest(reading) for reading in answer.readings]

    def close(self) -> None:
        """Close the connection; what still runs is cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _raised_as_ours(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as exc:
        raise error_of(exc, address) from exc


def _timestamp(us: int) -> Timestamp:
    seconds, rest_us = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest_us * 1_000)


def _tag_name(tag: pb.Tag) -> TagName:
    return TagName(
        tag_id=tag.tag_id,
        tag_name=tag.tag_name,
        opc_node_id=tag.opc_node_id,
        unit=tag.unit or None,
        well_id=UUID(tag.well_id),
        well_name=tag.well_name,
    )


def _latest(reading: pb.LatestReading) -> Latest:
    return Latest(
        tag=_tag_name(reading.tag),
        ts_us=reading.time.seconds * 1_000_000 + reading.time.nanos // 1_000,
        status=reading.status,
        value=reading.value if reading.HasField("value") else None,
        text_value=reading.text_value if reading.HasField("text_value") else None,
    )
