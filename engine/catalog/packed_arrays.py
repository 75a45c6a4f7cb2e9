"""numpy columns as parameters of a statement: PostgreSQL's binary arrays, made without an object for each element.

Layout, all big-endian: int32 dimensions (1), int32 has nulls (0), int32 oid of the element; int32 elements, int32 lower
bound (1); then for each element int32 bytes, and the element. The statement says the type: `%(tag_id)s::int[]`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from psycopg import AsyncCursor

# dtype of a column -> oid of the element in pg_type, and how it is sent. Unsigned ones become the next larger.
_SENT: dict[str, tuple[int, str]] = {
    "bool": (16, "?"),
    "uint8": (23, ">i4"),
    "int32": (23, ">i4"),
    "uint32": (20, ">i8"),
    "float64": (701, ">f8"),
}


@dataclass(frozen=True, slots=True)
class PackedArray:
    """An array in PostgreSQL's binary form."""

    data: bytes


class _PackedArrayDumper(Dumper):
    format = Format.BINARY
    # No type: the statement's cast says it.
    oid = 0

    def dump(self, obj: PackedArray) -> bytes:
        return obj.data


def packed(column: NDArray[Any]) -> PackedArray:
    """Return a column of bool, uint8, int32 (as int[]), uint32 (as bigint[]) or float64 in binary form."""
    oid, sent_as = _SENT[column.dtype.name]
    elements = np.empty(len(column), [("bytes", ">i4"), ("value", sent_as)])
    elements["bytes"] = np.dtype(sent_as).itemsize
    elements["value"] = column
    # An array without elements has no dimensions.
    header = (
        struct.pack(">iiiii", 1, 0, oid, len(column), 1) if len(column) else struct.pack(">iii", 0, 0, oid)
    )
    return PackedArray(header + elements.tobytes())


def take_packed_arrays(cursor: AsyncCursor[Any]) -> None:
    """Let a cursor take PackedArray as parameters."""
    cursor.adapters.register_dumper(PackedArray, _PackedArrayDumper)
