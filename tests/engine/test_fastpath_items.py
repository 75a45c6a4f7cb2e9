"""CreateMonitoredItems and Read requests: the bytes that asyncua's own serializer writes and reads."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import nodeid_to_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import encode_create_items, encode_read
from tests.engine.reference_codec import Message, array, extension_object, header, numeric_node_id
from tests.engine.strategies import UINT32

# asyncua's number types are int at run time and distinct to a type checker.
number: Any = int
real: Any = float
new_node_id: Any = ua.NodeId

NULL_FILTER = extension_object(b"\x00\x00", None, 0)

texts = st.text(st.characters(codec="utf-8"), max_size=12)
node_ids = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: new_node_id(number(n), number(0))),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535)).map(
        lambda p: new_node_id(number(p[0]), number(p[1]))
    ),
    st.tuples(texts, st.integers(0, 65535)).map(lambda p: new_node_id(p[0], number(p[1]))),
    st.tuples(st.uuids(), st.integers(0, 65535)).map(lambda p: new_node_id(p[0], number(p[1]))),
    st.tuples(st.binary(max_size=9), st.integers(0, 65535)).map(lambda p: new_node_id(p[0], number(p[1]))),
)
ranges = st.sampled_from(["", "3", "1,2", "0:7"])


def parameters(sampling_ms: float = 100.0, queue_size: int = 1, discard_oldest: bool = True) -> bytes:
    """Return encoded MonitoringParameters without a ClientHandle and without a filter."""
    return struct.pack("<d", sampling_ms) + NULL_FILTER + struct.pack("<IB", queue_size, discard_oldest)


def created(
    results: list[tuple[int, int, float, int, bytes]] | None,
    service_result: int = 0,
    tail: bytes = array(None),
) -> bytes:
    """Return a CreateMonitoredItemsResponse."""
    head = header(Message(None, service_result=service_result, type_id=numeric_node_id(754)))
    encoded = None if results is None else [struct.pack("<IIdI", *r[:4]) + r[4] for r in results]
    return head + array(encoded) + tail


def columns(items: int) -> tuple[Any, Any, Any, Any]:
    """Return the arrays that a response is read into, filled with what no response says."""
    return (
        np.full(items, 7, np.uint32),
        np.full(items, 7, np.uint32),
        np.full(items, 7.0),
        np.full(items, 7, np.uint32),
    )


@settings(max_examples=100, deadline=None)
@given(
    asked=st.lists(st.tuples(node_ids, UINT32, ranges), max_size=6),
    numbers=st.tuples(UINT32, st.integers(0, 3), st.floats(-1, 1e6), UINT32),
    discard_oldest=st.booleans(),
    deadband=st.none() | st.floats(0, 100),
)
def test_a_create_request_is_the_one_that_asyncua_writes(
    asked: list[tuple[ua.NodeId, int, str]],
    numbers: tuple[int, int, float, int],
    discard_oldest: bool,
    deadband: float | None,
) -> None:
    subscription_id, timestamps, sampling_ms, queue_size = numbers
    wanted = (
        None
        if deadband is None
        else ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, number(1), real(deadband))
    )
    request = ua.CreateMonitoredItemsRequest()
    request.Parameters.SubscriptionId = number(subscription_id)
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn(timestamps)
    request.Parameters.ItemsToCreate = [
        ua.MonitoredItemCreateRequest(
            ua.ReadValueId(node_id, AttributeIds.Value, index_range or None),
            ua.MonitoringMode.Reporting,
            ua.MonitoringParameters(
                number(handle), real(sampling_ms), wanted, number(queue_size), discard_oldest
            ),
        )
        for node_id, handle, index_range in asked
    ]
    encoded_filter = NULL_FILTER
    if wanted is not None:
        encoded_filter = extension_object(numeric_node_id(724), bytes(struct_to_binary(wanted)))
    body = encode_create_items(
        subscription_id,
        timestamps,
        np.array([handle for _, handle, _ in asked], np.uint32),
        [bytes(nodeid_to_binary(node_id)) for node_id, _, _ in asked],
        [index_range for _, _, index_range in asked],
        struct.pack("<d", sampling_ms) + encoded_filter + struct.pack("<IB", queue_size, discard_oldest),
    )
    whole = numeric_node_id(751) + bytes(struct_to_binary(request.RequestHeader)) + body
    assert whole == bytes(struct_to_binary(request))


@settings(max_examples=100, deadline=None)
@given(
    asked=st.lists(st.tuples(node_ids, ranges), max_size=6),
    timestamps=st.integers(0, 3),
    max_age_ms=st.floats(0, 1e9),
    attribute=st.sampled_from([13, 14, 1]),
)
def test_a_read_request_is_the_one_that_asyncua_writes(
    asked: list[tuple[ua.NodeId, str]], timestamps: int, max_age_ms: float, attribute: int
) -> None:
    request = ua.ReadRequest()
    request.Parameters.MaxAge = real(max_age_ms)
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn(timestamps)
    request.Parameters.NodesToRead = [
        ua.ReadValueId(node_id, AttributeIds(attribute), index_range or None)
        for node_id, index_range in asked
    ]
    encoded = [bytes(nodeid_to_binary(node_id)) for node_id, _ in asked]
    body = encode_read(encoded, [each for _, each in asked], timestamps, max_age_ms, attribute)
    assert numeric_node_id(631) + bytes(struct_to_binary(request.RequestHeader)) + body == bytes(
        struct_to_binary(request)
    )
