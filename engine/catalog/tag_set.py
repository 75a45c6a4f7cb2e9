"""The tags of one connection as columns: what a worker keeps of each while it runs.

A fleet has millions of tags, so a worker keeps no object for one: numbers in arrays, node ids in one text, what
few tags differ in (settings) once. A tag's place in the set is its client handle in OPC UA. Names, units and wells stay
in the database; who needs them asks for them by tag_id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from engine.catalog.records import ItemSettings, Tag

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TagSet:
    """Columns of n tags, in the order of their places; never changed once made.

    tag_id int32, scaling_factor and offset float64, profile uint16 (place in `profiles`), each of shape (n,).
    """

    __slots__ = (
        "_data_type",
        "_data_types",
        "_end",
        "_node_ids",
        "offset",
        "profile",
        "profiles",
        "scaling_factor",
        "tag_id",
    )

    def __init__(
        self,
        *,
        tag_id: NDArray[np.int32],
        scaling_factor: NDArray[np.float64],
        offset: NDArray[np.float64],
        node_ids: bytes,
        node_id_end: NDArray[np.uint32],
        data_types: tuple[str, ...],
        data_type: NDArray[np.uint8],
        profiles: tuple[ItemSettings, ...],
        profile: NDArray[np.uint16],
    ) -> None:
        """Take the columns. `node_ids` is all node ids one after the other in UTF-8, `node_id_end` where each ends."""
        self.tag_id = tag_id
        self.scaling_factor = scaling_factor
        self.offset = offset
        self.profiles = profiles
        self.profile = profile
        self._node_ids = node_ids
        self._end = node_id_end
        self._data_types = data_types
        self._data_type = data_type

    @classmethod
    def of(cls, tags: Iterable[Tag]) -> TagSet:
        """Return the set of these tags, in their order."""
        tag_id: list[int] = []
        scaling_factor: list[float] = []
        offset: list[float] = []
        node_ids = bytearray()
        ends: list[int] = []
        data_types: dict[str, int] = {}
        data_type = bytearray()
        profiles: dict[ItemSettings, int] = {}
        profile: list[int] = []
        for tag in tags:
            tag_id.append(tag.tag_id)
            scaling_factor.append(tag.scaling_factor)
            offset.append(tag.offset)
            node_ids += tag.opc_node_id.encode("utf-8", "surrogateescape")
            ends.append(len(node_ids))
            data_type.append(data_types.setdefault(tag.data_type, len(data_types)))
            profile.append(profiles.setdefault(tag.settings, len(profiles)))
        return cls(
            tag_id=np.array(tag_id, np.int32),
            scaling_factor=np.array(scaling_factor, np.float64),
            offset=np.array(offset, np.float64),
            node_ids=bytes(node_ids),
            node_id_end=np.array(ends, np.uint32),
            data_types=tuple(data_types),
            data_type=np.frombuffer(bytes(data_type), np.uint8),
            profiles=tuple(profiles),
            profile=np.array(profile, np.uint16),
        )

    def __len__(self) -> int:
        return len(self.tag_id)

    def node_id(self, place: int) -> str:
        """Return the node id of a tag as its owner wrote it."""
        start = int(self._end[place - 1]) if place else 0
        return self._node_ids[start : int(self._end[place])].decode("utf-8", "surrogateescape")

    def node_ids(self) -> Iterator[str]:
        """Yield every node id, in the order of the places."""
        return (self.node_id(place) for place in range(len(self)))

    def encoded_node_ids(self, places: NDArray[np.integer]) -> list[bytes]:
        """Return the node ids of some tags in UTF-8: what a batch of requests is made of."""
        text, starts, ends = self.spans(places)
        return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def spans(self, places: NDArray[np.integer]) -> tuple[bytes, NDArray[np.uint32], NDArray[np.uint32]]:
        """Return all node ids one after the other in UTF-8, and where those of some tags start and end in it."""
        return self._node_ids, np.where(places > 0, self._end[places - 1], np.uint32(0)), self._end[places]

    def places_of(self, *, first: bytes = b"", last: bytes = b"") -> NDArray[np.int32]:
        """Return the places of the node ids whose text begins with this byte, or ends with that one."""
        if not len(self):
            return np.empty(0, np.int32)
        text = np.frombuffer(self._node_ids + b"\0", np.uint8)
        end = self._end.astype(np.int64)
        start = np.concatenate(([0], end[:-1]))
        fits = end > start
        if first:
            fits &= text[start] == first[0]
        if last:
            fits &= text[end - 1] == last[0]
        return np.flatnonzero(fits).astype(np.int32)

    def data_type(self, place: int) -> str:
        """Return the data type of a tag: one of catalog.DATA_TYPES."""
        return self._data_types[int(self._data_type[place])]

    def places_typed(self, data_type: str) -> NDArray[np.int32]:
        """Return the places of the tags of one data type."""
        if data_type not in self._data_types:
            return np.empty(0, np.int32)
        return np.flatnonzero(self._data_type == self._data_types.index(data_type)).astype(np.int32)

    def settings(self, place: int) -> ItemSettings:
        """Return what is particular about how a tag is read."""
        return self.profiles[int(self.profile[place])]

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        columns = (self.tag_id, self.scaling_factor, self.offset, self.profile, self._end, self._data_type)
        return sum(column.nbytes for column in columns) + len(self._node_ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TagSet):
            return NotImplemented
        return (
            self._node_ids == other._node_ids
            and np.array_equal(self._end, other._end)
            and np.array_equal(self.tag_id, other.tag_id)
            and np.array_equal(self.scaling_factor, other.scaling_factor)
            and np.array_equal(self.offset, other.offset)
            and [self._data_types[code] for code in self._data_type]
            == [other._data_types[code] for code in other._data_type]
            and [self.profiles[code] for code in self.profile]
            == [other.profiles[code] for code in other.profile]
        )

    __hash__ = None  # type: ignore[assignment]
