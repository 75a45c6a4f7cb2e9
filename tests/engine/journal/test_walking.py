"""From record to record in pieces of any size: the same records, and the same damage."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from engine._fastpath import encode_frame
from engine.journal.walking import Damage, Found, walk
from tests.engine.journal.journals import entry
from tests.engine.journal.model_files import ModelFiles, io_error

STREAM = UUID(int=5).bytes
PATH = Path("/a")


@given(
    parts=st.lists(
        st.integers(0, 9)
        | st.sampled_from([b"SREC", bytes(8), STREAM, b"SREC" + bytes([200, 0, 0, 0] * 3) + STREAM]),
        max_size=12,
    ),
    piece_bytes=st.integers(8, 60).map(lambda eight: 8 * eight),
)
def test_the_size_of_the_pieces_changes_nothing(parts: list[int | bytes], piece_bytes: int) -> None:
    content = b""
    expected: list[int] = []
    for number, part in enumerate(parts, 1):
        if isinstance(part, int):
            expected.append(number)
            content += encode_frame(entry(number, part), STREAM, 1 << 40 | number, 5)
        else:
            content += part + bytes(-len(part) % 8)
    files = ModelFiles()
    files.put(PATH, content)
    found = list(walk(files, PATH, STREAM, 0, len(content), piece_bytes=piece_bytes))
    records = [each for each in found if isinstance(each, Found)]
    assert [each.record.sequence & 0xFF for each in records] == expected
    covered = 0
    for each in found:
        assert each.offset == covered
        covered = each.end if isinstance(each, Damage) else covered + each.record.nbytes
    assert covered == len(content)


def test_a_block_that_cannot_be_read_costs_what_is_in_it() -> None:
    content = b"".join(
        bytes(encode_frame(entry(number, 40), STREAM, 1 << 40 | number, 5)) for number in range(1, 41)
    )
    files = ModelFiles()
    files.put(PATH, content)
    read = files.read

    def failing(path: Path, offset: int, most_bytes: int) -> bytes:
        if offset < 9_000 < offset + most_bytes:
            raise io_error()
        return read(path, offset, most_bytes)

    files.read = failing  # type: ignore[method-assign]
    found = [each for each in walk(files, PATH, STREAM, 0, len(content)) if isinstance(each, Found)]
    lost = set(range(1, 41)) - {each.record.sequence & 0xFF for each in found}
    nbytes = len(content) // 40
    assert lost == {
        number for number in range(1, 41) if (number - 1) * nbytes < 12_288 and number * nbytes > 8_192
    }
