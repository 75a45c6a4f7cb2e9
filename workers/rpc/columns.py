"""A Batch as ReadingColumns and back. Owns how arrays become packed fields; what a row means is engine/readings.py.

A packed field of fixed width is its key, its length in bytes and then the numbers, little-endian, one after the other:
what numpy holds in memory (https://protobuf.dev/programming-guides/encoding/#packed). So the columns are put together
as bytes and parsed by the protobuf library, without a Python object for each number. Measured for 10 000 rows: 0.03 ms,
and 2 ms by way of `extend`; serialising the message takes 0.2 ms either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ScadaError
from engine.readings import Batch, Kind
from scada.v1.readings_pb2 import ReadingColumns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Clients take 4 MiB unless told otherwise; the rest is for tags and framing.
PART_BYTES = 3 << 20
# Only a single text can make a message this large: OPC UA servers may send one of 16 MiB.
MESSAGE_MOST_BYTES = 64 << 20
# time_us, tag_id, status and value: what a row without text takes, give or take a null_row.
ROW_BYTES = 24
# Most bytes that a text_row and the frame of a text_value take beside the text.
_TEXT_FRAME_BYTES = 12
_LENGTH_DELIMITED = 2  # the wire type of packed fields


def columns_of(batch: Batch) -> ReadingColumns:
    """Return the batch as a message; NaN and infinities stay as they are."""
    has_number = (batch.kind & Kind.NUMBER) != 0
    value = batch.value if has_number.all() else np.where(has_number, batch.value, 0.0)
    columns = ReadingColumns.FromString(
        b"".join(
            (
                *_packed(ReadingColumns.TIME_US_FIELD_NUMBER, batch.ts_us.astype("<i8", copy=False)),
                *_packed(ReadingColumns.TAG_ID_FIELD_NUMBER, batch.tag_id.astype("<i4", copy=False)),
                *_packed(ReadingColumns.STATUS_FIELD_NUMBER, batch.status.astype("<u4", copy=False)),
                *_packed(ReadingColumns.VALUE_FIELD_NUMBER, value.astype("<f8", copy=False)),
            )
        )
    )
    columns.null_row.extend(np.flatnonzero(~has_number).tolist())
    for row in sorted(batch.texts):
        columns.text_row.append(row)
        columns.text_value.append(batch.texts[row])
    return columns


def batch_of(columns: ReadingColumns) -> Batch:
    """Return the message as a batch. Raises ScadaError when its columns do not fit together."""
    rows = len(columns.time_us)
    # np.array takes the library's own buffer; 0.006 ms a column of 10 000.
    batch = Batch(
        ts_us=np.array(columns.time_us, dtype=np.int64),
        tag_id=np.array(columns.tag_id, dtype=np.int32),
        status=np.array(columns.status, dtype=np.uint32),
        value=np.array(columns.value, dtype=np.float64),
        kind=np.full(rows, Kind.NUMBER, dtype=np.uint8),
        texts=dict(zip(columns.text_row, columns.text_value, strict=False)),
    )
    null_rows = np.array(columns.null_row, dtype=np.int64)
    text_rows = np.array(columns.text_row, dtype=np.int64)
    lengths = {len(batch.tag_id), len(batch.status), len(batch.value), rows}
    beyond = max(null_rows.max(initial=-1), text_rows.max(initial=-1)) >= rows
    if len(lengths) != 1 or beyond or len(columns.text_value) != len(text_rows):
        raise ScadaError(
            f"the columns of an answer do not fit together: {rows} times, lengths {sorted(lengths)}"
        )
    batch.kind[null_rows] = Kind.NULL
    batch.kind[text_rows] |= np.uint8(Kind.TEXT)
    return batch


def parts_of(batch: Batch, most_bytes: int) -> Iterator[Batch]:
    """Cut the batch so that each part takes at most `most_bytes` as a message, or has one row only."""
    first, used_bytes = 0, 0
    if not batch.texts and len(batch) * ROW_BYTES <= most_bytes:
        yield batch
        return
    for row in range(len(batch)):
        text = batch.texts.get(row)
        row_bytes = ROW_BYTES + (len(text.encode()) + _TEXT_FRAME_BYTES if text is not None else 0)
        if row > first and used_bytes + row_bytes > most_bytes:
            yield batch.part(first, row)
            first, used_bytes = row, 0
        used_bytes += row_bytes
    yield batch.part(first, len(batch))


def _packed(field_number: int, numbers: NDArray[np.generic]) -> tuple[bytes, bytes]:
    body = numbers.tobytes()
    return _varint(field_number << 3 | _LENGTH_DELIMITED) + _varint(len(body)), body


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
