"""Hypothesis strategies for everything that a server may put into a publish response."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from tests.engine.reference_codec import (
    Item,
    Message,
    Variant,
    data_change,
    data_value,
    event_list,
    extension_object,
    numeric_node_id,
    status_change,
    string,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
strings = st.none() | st.binary(max_size=12) | st.text(max_size=8).map(str.encode)

FIXED_VALUES: dict[int, st.SearchStrategy[object]] = {
    1: st.booleans(),
    2: st.integers(-128, 127),
    3: st.integers(0, 255),
    4: st.integers(-(2**15), 2**15 - 1),
    5: st.integers(0, 2**16 - 1),
    6: st.integers(-(2**31), 2**31 - 1),
    7: UINT32,
    8: INT64 | st.sampled_from([2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 0]),
    9: st.integers(0, 2**64 - 1) | st.sampled_from([2**53, 2**53 + 1]),
    10: st.floats(width=32),
    11: st.floats(),
    13: INT64 | st.just(0),
    19: UINT32,
}

diagnostic_infos = st.recursive(
    st.sampled_from([b"\x00", b"\x01" + b"\x07\0\0\0", b"\x2f" + bytes(20), b"\x10" + string(b"more")]),
    lambda inner: inner.map(lambda each: b"\x40" + each),
    max_leaves=4,
)
node_ids = st.one_of(
    st.integers(0, 255).map(lambda n: numeric_node_id(n, 0)),
    UINT32.map(lambda n: numeric_node_id(n, 2)),
    st.tuples(st.sampled_from([3, 5]), strings).map(lambda p: struct.pack("<BH", p[0], 2) + string(p[1])),
    st.binary(min_size=16, max_size=16).map(lambda guid: b"\x04\x03\x00" + guid),
)
expanded_node_ids = node_ids | st.tuples(node_ids, strings, UINT32).map(
    lambda p: bytes([p[0][0] | 0xC0]) + p[0][1:] + string(p[1]) + struct.pack("<I", p[2])
)
localized_texts = st.one_of(
    st.just(b"\x00"),
    strings.map(lambda text: b"\x02" + string(text)),
    st.tuples(strings, strings).map(lambda p: b"\x03" + string(p[0]) + string(p[1])),
)
extension_objects = st.tuples(node_ids, strings, st.sampled_from([0, 1, 2])).map(
    lambda p: extension_object(p[0], p[1], p[2])
)
qualified_names = strings.map(lambda name: b"\x02\x00" + string(name))

STRUCTURES: dict[int, st.SearchStrategy[object]] = {
    12: strings,
    14: st.binary(min_size=16, max_size=16),
    15: strings,
    16: strings,
    17: node_ids,
    18: expanded_node_ids,
    20: qualified_names,
    21: localized_texts,
    22: extension_objects,
    25: diagnostic_infos,
    27: strings,
}


def _scalar(built_in: int, values: st.SearchStrategy[object]) -> st.SearchStrategy[Variant]:
    return values.map(lambda value: Variant(built_in, value))


def _scalars(values: dict[int, st.SearchStrategy[object]]) -> st.SearchStrategy[Variant]:
    return st.one_of(*(_scalar(built_in, each) for built_in, each in values.items()))


def _arrays(inner: st.SearchStrategy[Variant]) -> st.SearchStrategy[Variant]:
    element = {**FIXED_VALUES, **STRUCTURES, 24: inner}
    flat = st.sampled_from(sorted(element)).flatmap(
        lambda built_in: st.lists(element[built_in], max_size=6).map(lambda values: Variant(built_in, values))
    )
    return flat | flat.filter(lambda v: len(v.value) > 0).map(
        lambda v: Variant(v.built_in, v.value * 2, [2, len(v.value)])
    )


numbers = _scalars(FIXED_VALUES)
scalars = st.just(Variant(0)) | numbers | _scalars(STRUCTURES)
variants = st.recursive(
    scalars,
    lambda inner: _arrays(inner) | inner.map(lambda v: Variant(23, data_value(Item(0, v, status=7)))),
    max_leaves=4,
)

items = st.builds(
    Item,
    handle=st.integers(0, 9) | UINT32,
    value=st.none() | numbers | variants,
    status=st.none() | UINT32,
    source=st.none() | st.integers(-1, 2**63 - 1) | st.just(0),
    source_picoseconds=st.none() | st.integers(0, 65535),
    server=st.none() | INT64,
    server_picoseconds=st.none() | st.integers(0, 65535),
)

other_notifications = st.one_of(
    st.lists(st.lists(variants, max_size=3), max_size=3).map(event_list),
    UINT32.map(status_change),
    extension_objects.filter(lambda each: each[:4] != numeric_node_id(811)),
)


def messages(notifications: list[bytes] | None) -> st.SearchStrategy[Message]:
    """Return publish responses around these notifications."""
    return st.builds(
        Message,
        notifications=st.just(notifications),
        sequence_number=UINT32,
        subscription_id=UINT32,
        service_result=st.integers(0, 2**31 - 1),
        more_notifications=st.booleans(),
        available=st.none() | st.lists(UINT32, max_size=3),
        results=st.none() | st.lists(UINT32, max_size=3),
        string_table=st.none() | st.lists(strings, max_size=2),
        type_id=st.sampled_from([1, 2]).map(lambda form: numeric_node_id(829, form)),
        diagnostics=st.none() | st.lists(diagnostic_infos, max_size=2),
        header_diagnostics=diagnostic_infos,
    )


@st.composite
def traffic(draw: st.DrawFn) -> tuple[Message, list[Item]]:
    """Return a message with data changes between other notifications, and all of its items in order."""
    groups = draw(st.lists(st.lists(items, max_size=6), max_size=3))
    notifications = []
    for group in groups:
        notifications.append(data_change(group, form=draw(st.sampled_from([1, 2]))))
        notifications += draw(st.lists(other_notifications, max_size=1))
    return draw(messages(notifications)), [item for group in groups for item in group]
