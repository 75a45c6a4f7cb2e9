"""CreateMonitoredItems and Read requests: the bytes that asyncua's own serializer writes and reads."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import nodeid_to_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import decode_created_items, encode_create_items, encode_read, encode_string_node_ids
from engine.errors import MalformedMessage
from tests.engine.reference_codec import Message, array, extension_object, header, numeric_node_id
from tests.engine.strategies import UINT32, diagnostic_infos, extension_objects
from tests.engine.test_fastpath_malformed import exact

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


results = st.tuples(UINT32, UINT32, st.floats(allow_nan=False), UINT32, extension_objects)


@settings(max_examples=100, deadline=None)
@given(items=st.lists(results, max_size=6), diagnostics=st.none() | st.lists(diagnostic_infos, max_size=2))
def test_what_became_of_each_item_is_read_into_its_place(
    items: list[tuple[int, int, float, int, bytes]], diagnostics: list[bytes] | None
) -> None:
    arrays = columns(len(items))
    message = exact(created(items, tail=array(diagnostics)))
    assert decode_created_items(message, *arrays) == 0
    assert [column.tolist() for column in arrays] == [[each[n] for each in items] for n in range(4)]


def test_an_answer_as_the_serializer_of_asyncua_writes_it_is_understood() -> None:
    response = ua.CreateMonitoredItemsResponse()
    response.Results = [
        ua.MonitoredItemCreateResult(
            MonitoredItemId=number(5), RevisedSamplingInterval=real(250.0), RevisedQueueSize=number(2)
        ),
        ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(number(0x80340000))),
    ]
    status, item_id, sampling_ms, queue_size = columns(2)
    message = bytes(struct_to_binary(response))
    assert decode_created_items(message, status, item_id, sampling_ms, queue_size) == 0
    assert status.tolist() == [0, 0x80340000]
    assert (item_id[0], sampling_ms[0], queue_size[0]) == (5, 250.0, 2)


@pytest.mark.parametrize("type_id", [754, 397])
def test_a_bad_result_of_the_service_leaves_the_arrays_alone(type_id: int) -> None:
    arrays = columns(2)
    message = header(Message(None, service_result=0x80280000, type_id=numeric_node_id(type_id))) + b"\xff"
    assert decode_created_items(message, *arrays) == 0x80280000
    assert all((column == 7).all() for column in arrays)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_than_of_items_is_refused(count: int) -> None:
    arrays = columns(2)
    with pytest.raises(MalformedMessage, match=f"{count} results where 2 items"):
        decode_created_items(created([(0, 1, 1.0, 1, NULL_FILTER)] * count), *arrays)
    assert all((column == 7).all() for column in arrays)


def test_a_service_fault_that_says_good_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="ServiceFault with the result 0x00000000"):
        decode_created_items(header(Message(None, type_id=numeric_node_id(397))), *columns(1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"handles": 3}, "handles: 3 for 2 node ids"),
        ({"index_ranges": [""]}, "index_ranges: 1 for 2 node ids"),
        ({"index_ranges": ["", 1]}, "index_ranges: int at 1"),
        ({"node_ids": [b"\x00\x01", "i=85"]}, "node_ids: str at 1"),
        ({"node_ids": [b"\x00\x01", b""]}, "node_ids: no encoded NodeId at 1: 1 bytes expected"),
        ({"node_ids": [b"\x00\x01\x02", b"\x00\x01"]}, "node_ids: no encoded NodeId at 0: 1 bytes behind"),
        ({"node_ids": [b"\x00\x01", b"\x07\x01"]}, "NodeId encoding 0x07"),
        ({"parameters": b""}, "parameters: no encoded MonitoringParameters: 8 bytes expected"),
        ({"parameters": parameters() + b"x"}, "1 bytes behind the end of DiscardOldest"),
    ],
)
def test_a_request_of_what_does_not_belong_together_is_refused_with_the_place(
    change: dict[str, Any], why: str
) -> None:
    request: dict[str, Any] = {
        "handles": 2,
        "node_ids": [b"\x00\x01", b"\x00\x02"],
        "index_ranges": None,
        "parameters": parameters(),
    } | change
    handles = np.zeros(request.pop("handles"), np.uint32)
    with pytest.raises(ValueError, match=why):
        encode_create_items(1, 2, handles, *request.values())
    if "handles" not in change and "parameters" not in change:
        with pytest.raises(ValueError, match=why):
            encode_read(request["node_ids"], request["index_ranges"], 2)


def test_arrays_of_different_lengths_are_refused() -> None:
    status, item_id, sampling_ms, queue_size = columns(2)
    with pytest.raises(ValueError, match="different lengths: 2, 1, 2, 2"):
        decode_created_items(b"", status, item_id[:1], sampling_ms, queue_size)


def spans(*node_ids: str) -> tuple[bytes, Any, Any]:
    """Return texts one after the other, and where each starts and ends."""
    encoded = [text.encode() for text in node_ids]
    ends = np.cumsum([len(text) for text in encoded]).astype(np.uint32)
    starts = ends - np.array([len(text) for text in encoded], np.uint32)
    return b"".join(encoded), starts, ends


@given(names=st.lists(st.text(min_size=1, max_size=9), max_size=5))
def test_node_ids_that_begin_alike_are_those_that_asyncua_writes(names: list[str]) -> None:
    texts, starts, ends = spans(*(f"ns=2;s={name}" for name in names))
    found = encode_string_node_ids(texts, starts, ends, b"ns=2;s=", b"\x03\x02\x00", 4_096)
    assert found == [bytes(nodeid_to_binary(new_node_id(name, number(2)))) for name in names]


def test_node_ids_that_are_not_all_alike_are_left_to_others() -> None:
    for odd in ("ns=3;s=b", "ns=2;s=", "ns=2", "", "ns=2;s=" + 20 * "x"):
        texts, starts, ends = spans("ns=2;s=a", odd)
        assert encode_string_node_ids(texts, starts, ends, b"ns=2;s=", b"\x03\x02\x00", 20) is None


def test_node_ids_outside_of_their_text_are_refused() -> None:
    texts, starts, ends = spans("ns=2;s=a")
    for wrong_start, wrong_end in ((starts, ends + 1), (ends, starts), (starts, ends[:0])):
        with pytest.raises(ValueError, match=r"text 0|starts"):
            encode_string_node_ids(texts, wrong_start, wrong_end, b"ns=2;s=", b"\x03\x02\x00", 20)
