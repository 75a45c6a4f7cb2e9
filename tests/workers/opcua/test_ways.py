"""Tags' settings: which one holds, and the bytes that say so to a server, read back by asyncua."""

from __future__ import annotations

from uuid import uuid4

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from engine.catalog.records import ItemSettings, Tag
from engine.catalog.tag_set import TagSet
from engine.settings import OpcuaSettings
from workers.opcua.monitoring.ways import INTERVALS_MOST, Way, ways_of

OURS = OpcuaSettings(publishing_interval_ms=500, sampling_interval_ms=250, queue_size=7)


def tags_with(*settings: ItemSettings) -> TagSet:
    this = uuid4()
    return TagSet.of(
        Tag(place + 1, this, this, this, f"T{place}", f"i={place}", "DOUBLE", None, 1.0, 0.0, wanted)
        for place, wanted in enumerate(settings)
    )


def way_of(tag: ItemSettings, connection: ItemSettings | None = None) -> Way:
    ways, note = ways_of(tags_with(tag), connection or ItemSettings(), OURS)
    assert not note
    return ways[0]


def parameters_of(encoded: bytes) -> ua.MonitoringParameters:
    """What a server reads, with the client handle that is written before."""
    buffer = Buffer(b"\x2a\0\0\0" + encoded)
    read = struct_from_binary(ua.MonitoringParameters, buffer)
    assert len(buffer) == 0
    return read


def test_without_any_setting_the_engine_s_hold_and_no_filter_is_sent() -> None:
    way = way_of(ItemSettings())
    read = parameters_of(way.parameters)
    assert (read.SamplingInterval, read.QueueSize, read.DiscardOldest) == (250, 7, True)
    assert read.Filter == ua.ExtensionObject()
    assert (way.polled, way.interval_ms, way.timestamps, way.unfiltered) == (False, 500, 2, None)


def test_a_tag_s_setting_goes_before_its_connection_s_and_that_before_the_engine_s() -> None:
    connection = ItemSettings(queue_size=20, sampling_interval_ms=0, read_mode="poll", discard_oldest=False)
    way = way_of(
        ItemSettings(queue_size=30, publishing_interval_ms=100, timestamps_to_return="Source"), connection
    )
    read = parameters_of(way.parameters)
    assert (read.SamplingInterval, read.QueueSize, read.DiscardOldest) == (0, 30, False)
    assert (way.polled, way.interval_ms, way.timestamps) == (True, 100, 0)


@pytest.mark.parametrize(
    ("wanted", "trigger", "deadband", "value"),
    [
        (ItemSettings(deadband_type="Absolute", deadband_value=0.5), 1, 1, 0.5),
        (ItemSettings(deadband_type="Percent", deadband_value=10), 1, 2, 10.0),
        (ItemSettings(data_change_trigger="Status"), 0, 0, 0.0),
        (
            ItemSettings(
                data_change_trigger="StatusValueTimestamp", deadband_type="Absolute", deadband_value=2
            ),
            2,
            1,
            2.0,
        ),
    ],
)
def test_a_filter_is_written_as_the_standard_has_it_and_can_be_left_out(
    wanted: ItemSettings, trigger: int, deadband: int, value: float
) -> None:
    way = way_of(wanted)
    read = parameters_of(way.parameters)
    # asyncua has two classes of this name; it reads the other one.
    assert read.Filter is not None
    assert type(read.Filter).__name__ == "DataChangeFilter"
    assert (read.Filter.Trigger, read.Filter.DeadbandType, read.Filter.DeadbandValue) == (
        trigger,
        deadband,
        value,
    )
    plain = way.without_filter()
    assert parameters_of(plain.parameters).Filter == ua.ExtensionObject()
    assert plain.filter_refused
    assert plain.unfiltered is None


def test_a_tag_can_switch_off_its_connection_s_deadband() -> None:
    connection = ItemSettings(deadband_type="Absolute", deadband_value=3)
    assert way_of(ItemSettings(deadband_type="None"), connection).unfiltered is None
    assert way_of(ItemSettings(deadband_value=0), connection).unfiltered is None
    assert way_of(ItemSettings(), connection).unfiltered is not None


def test_few_intervals_are_kept_and_of_many_the_rare_ones_get_the_nearest() -> None:
    often = [ItemSettings(publishing_interval_ms=100 * 2**step) for step in range(INTERVALS_MOST)]
    ways, note = ways_of(tags_with(*often), ItemSettings(), OURS)
    assert [way.interval_ms for way in ways] == [100 * 2**step for step in range(INTERVALS_MOST)]
    assert not note
    rare = [ItemSettings(publishing_interval_ms=110), ItemSettings(publishing_interval_ms=9_000_000)]
    polled = ItemSettings(publishing_interval_ms=77, read_mode="poll")
    ways, note = ways_of(tags_with(*often, *often, *rare, polled), ItemSettings(), OURS)
    assert [way.interval_ms for way in ways[-3:]] == [100, 12_800, 77]
    assert "10 different publishing intervals" in note
