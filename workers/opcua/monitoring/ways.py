"""In which way tags are read: what is left open in their settings filled in, and encoded once for all that share it.

Owns the precedence (tag, connection, settings.opcua), the bytes of MonitoringParameters, and how many different
publishing intervals a connection may have. Pure: no request is made here.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.catalog.records import ItemSettings

if TYPE_CHECKING:
    from engine.catalog.tag_set import TagSet
    from engine.settings import OpcuaSettings

# Each interval is a subscription of its own, and small devices have two or ten of them in all.
INTERVALS_MOST = 8
_TRIGGERS = {"Status": 0, "StatusValue": 1, "StatusValueTimestamp": 2}  # OPC 10000-4, 7.10
_DEADBANDS = {"None": 0, "Absolute": 1, "Percent": 2}  # OPC 10000-4, 7.22.2
_TIMESTAMPS = {"Source": 0, "Server": 1, "Both": 2}  # OPC 10000-4, 7.40
_NO_FILTER = b"\0\0\0"
# An ExtensionObject: NodeId i=724 (DataChangeFilter_Encoding_DefaultBinary), body of bytes, its length.
_FILTER = struct.Struct("<BBHBiIId")
_FILTER_ID, _FILTER_BYTES = 724, 16
_QUEUE = struct.Struct("<IB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the tags of one profile are read, with nothing left open."""

    polled: bool
    interval_ms: float
    """Of the subscription; the requested publishing interval."""
    parameters: bytes
    """MonitoringParameters from SamplingInterval on (OPC 10000-4, 7.21), their ClientHandle left out."""
    unfiltered: bytes | None
    """The same without a filter, for a server that refuses it; None where there is no filter."""
    timestamps: int
    filter_refused: bool = False

    def without_filter(self) -> Way:
        """Return the way of a server that refuses the filter."""
        return replace(
            self, parameters=self.unfiltered or self.parameters, unfiltered=None, filter_refused=True
        )


def ways_of(tags: TagSet, defaults: ItemSettings, settings: OpcuaSettings) -> tuple[tuple[Way, ...], str]:
    """Return a way for each of `tags.profiles`, and a sentence for the operator where intervals had to be shared."""
    ours = ItemSettings(
        read_mode="subscribe",
        publishing_interval_ms=settings.publishing_interval_ms,
        sampling_interval_ms=settings.sampling_interval_ms,
        queue_size=settings.queue_size,
        discard_oldest=True,
        deadband_type="None",
        deadband_value=0.0,
        data_change_trigger="StatusValue",
        timestamps_to_return="Both",
    )
    ways = tuple(_way(profile.over(defaults).over(ours)) for profile in tags.profiles)
    return _share_intervals(ways, np.bincount(tags.profile, minlength=len(ways)).tolist())


def _way(wanted: ItemSettings) -> Way:
    sampling = struct.pack("<d", wanted.sampling_interval_ms or 0.0)
    queue = _QUEUE.pack(wanted.queue_size or 1, wanted.discard_oldest is not False)
    condition = _filter(wanted)
    return Way(
        polled=wanted.read_mode == "poll",
        interval_ms=float(wanted.publishing_interval_ms or 0.0),
        parameters=sampling + (condition or _NO_FILTER) + queue,
        unfiltered=sampling + _NO_FILTER + queue if condition else None,
        timestamps=_TIMESTAMPS[wanted.timestamps_to_return or "Both"],
    )


def _filter(wanted: ItemSettings) -> bytes | None:
    """Return the DataChangeFilter, None where the server's own behaviour is what is wanted."""
    trigger = _TRIGGERS[wanted.data_change_trigger or "StatusValue"]
    deadband = _DEADBANDS[wanted.deadband_type or "None"]
    value = float(wanted.deadband_value or 0.0) if deadband else 0.0
    if value <= 0.0:
        deadband = 0
    if trigger == _TRIGGERS["StatusValue"] and not deadband:
        return None
    return _FILTER.pack(1, 0, _FILTER_ID, 1, _FILTER_BYTES, trigger, deadband, value)


def _share_intervals(ways: tuple[Way, ...], tags: list[int]) -> tuple[tuple[Way, ...], str]:
    """Keep the intervals that most tags ask for, and give the others the nearest of these."""
    wanted: dict[float, int] = {}
    for way, count in zip(ways, tags, strict=True):
        if not way.polled:
            wanted[way.interval_ms] = wanted.get(way.interval_ms, 0) + count
    if len(wanted) <= INTERVALS_MOST:
        return ways, ""
    kept = sorted(sorted(wanted), key=lambda interval: -wanted[interval])[:INTERVALS_MOST]

    def nearest(interval_ms: float) -> float:
        return min(kept, key=lambda one: abs(math.log(one) - math.log(interval_ms)))

    shared = tuple(way if way.polled else replace(way, interval_ms=nearest(way.interval_ms)) for way in ways)
    note = (
        f"{len(wanted)} different publishing intervals are asked for, and {INTERVALS_MOST} are used: tags with"
        " another one have the nearest of these"
    )
    return shared, note
