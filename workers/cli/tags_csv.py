"""Reads tags from a CSV file. Owns the columns, and which line and column every problem is in.

The first line names the columns, in any order: tag_name and opc_node_id, and as needed data_type, unit, scaling_factor,
offset, well (name or id; without it, the connection's well), and the settings of ItemSettings. An empty cell means the
default, or for a setting the connection's. UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO
from uuid import UUID

from engine.catalog import (
    DATA_CHANGE_TRIGGERS,
    DEADBAND_TYPES,
    ITEM_COLUMNS,
    NO_SETTINGS,
    READ_MODES,
    TIMESTAMPS_TO_RETURN,
    ItemSettings,
    NewTag,
)
from engine.errors import InvalidInput

REQUIRED = ("tag_name", "opc_node_id")
OPTIONAL = ("data_type", "unit", "scaling_factor", "offset", "well", *ITEM_COLUMNS)
COLUMNS = REQUIRED + OPTIONAL
# What is kept in memory of a file from outside: two million tags of some 100 bytes are 200 MB.
MOST_BYTES = 256 * 1024 * 1024
# Between two of these whoever waits learns how far it is.
_LINES_PER_STEP = 10_000
_ONE, _ZERO = Decimal(1), Decimal(0)
_YES_OR_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ROW_FIELD = re.compile(r"tags\[(\d+)\]\.(\w+)")


def _word(choices: Sequence[str]) -> Callable[[str], str]:
    """Read one of a few words in upper or lower case; any other stays as it is, for the catalog to refuse."""
    return lambda cell: next((choice for choice in choices if choice.lower() == cell.lower()), cell)


def _yes_or_no(cell: str) -> bool:
    if cell.lower() not in _YES_OR_NO:
        raise ValueError(cell)
    return _YES_OR_NO[cell.lower()]


# How the cells of a column are read that are not taken as they stand. What fits is the catalog's to say.
_CELLS: dict[str, Callable[[str], Any]] = {
    "scaling_factor": Decimal,
    "offset": Decimal,
    "read_mode": _word(READ_MODES),
    "publishing_interval_ms": float,
    "sampling_interval_ms": float,
    "queue_size": int,
    "discard_oldest": _yes_or_no,
    "deadband_type": _word(DEADBAND_TYPES),
    "deadband_value": float,
    "data_change_trigger": _word(DATA_CHANGE_TRIGGERS),
    "timestamps_to_return": _word(TIMESTAMPS_TO_RETURN),
}
_KINDS: dict[Callable[[str], Any], str] = {int: "a whole number", _yes_or_no: "yes or no"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit; lines count from 1, column is the heading or empty for the whole line."""

    line: int
    column: str
    message: str


@dataclass(slots=True)
class TagFile:
    """What a file holds: its tags with the line of each, and every problem found."""

    tags: list[NewTag] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_problems(self, found: Iterable[InvalidInput]) -> None:
        """Take over what the catalog says about `tags[3].unit` as a problem of the line that it is from."""
        for problem in found:
            message = str(problem).removeprefix(f"{problem.field}: ")
            place = _ROW_FIELD.fullmatch(problem.field)
            line, column = (self.lines[int(place[1])], place[2]) if place else (1, problem.field)
            # "is already tags[4]" means nothing to whoever wrote the file.
            message = re.sub(r"tags\[(\d+)\]", lambda match: f"in line {self.lines[int(match[1])]}", message)
            self.problems.append(Problem(line, column, message))
        self.problems.sort(key=lambda problem: problem.line)


def read_tags(
    stream: BinaryIO, *, wells: Mapping[str, UUID], progress: Callable[[int, int], None] | None = None
) -> TagFile:
    """Read a whole file; `wells` maps names and ids of wells to ids. Problems are collected, not raised.

    `progress` is called now and then with the lines that are read, and with those that there are.
    """
    data = stream.read(MOST_BYTES + 1)
    result = TagFile()
    if len(data) > MOST_BYTES:
        result.problems.append(Problem(1, "", f"the file is larger than {MOST_BYTES >> 20} MiB"))
        return result
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        result.problems.append(Problem(line, "", f"the byte 0x{data[exc.start]:02x} is not UTF-8"))
        return result
    rows = _rows(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), result)
    if not _check_header(heading := next(rows, (1, [])), result):
        return result
    columns = heading[1]
    lines = data.count(b"\n")
    for place, (line, cells) in enumerate(rows):
        _add_row(line, columns, cells, wells, result)
        if progress is not None and place % _LINES_PER_STEP == 0:
            progress(line, lines)
    if not result.tags and not result.problems:
        result.problems.append(Problem(heading[0], "", "there are no tags below the headings"))
    return result


def _rows(text: io.TextIOBase, result: TagFile) -> Iterator[tuple[int, list[str]]]:
    """Yield each line that is not empty, with its number; a row in quotes counts from its first line."""
    reader = csv.reader(text, strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            result.problems.append(Problem(line, "", f"this is not CSV: {exc}"))
            return
        if any(cell.strip() for cell in cells):
            yield line, [cell.strip() for cell in cells]
        line = reader.line_num + 1


def _check_header(heading: tuple[int, Sequence[str]], result: TagFile) -> bool:
    line, columns = heading
    found = len(result.problems)
    for name in columns:
        if name not in COLUMNS:
            result.problems.append(
                Problem(line, name, f"there is no such column; there are {', '.join(COLUMNS)}")
            )
        elif columns.count(name) > 1:
            result.problems.append(Problem(line, name, "is there twice"))
    result.problems += [
        Problem(line, name, "this column is missing") for name in REQUIRED if name not in columns
    ]
    return len(result.problems) == found


def _add_row(
    line: int, columns: Sequence[str], cells: Sequence[str], wells: Mapping[str, UUID], result: TagFile
) -> None:
    if len(cells) != len(columns):
        result.problems.append(
            Problem(line, "", f"has {len(cells)} cells, and there are {len(columns)} headings")
        )
        return
    row = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    problems = [Problem(line, name, "is empty") for name in REQUIRED if name not in row]
    values: dict[str, Any] = {}
    for name, read in _CELLS.items():
        if name in row:
            try:
                values[name] = read(row[name])
            except (InvalidOperation, ValueError):
                kind = _KINDS.get(read, "a number")
                problems.append(Problem(line, name, f"{row[name]!r} is not {kind}"))
    if "well" in row and row["well"] not in wells:
        problems.append(Problem(line, "well", f"there is no well {row['well']!r}"))
    if problems:
        result.problems += problems
        return
    result.lines.append(line)
    result.tags.append(
        NewTag(
            tag_name=row["tag_name"],
            opc_node_id=row["opc_node_id"],
            # One object for all that are the same, here and below: a file may have a million lines.
            data_type=sys.intern(row.get("data_type", "DOUBLE").upper()),
            unit=row.get("unit"),
            scaling_factor=values.pop("scaling_factor", _ONE),
            offset=values.pop("offset", _ZERO),
            well_id=wells[row["well"]] if "well" in row else None,
            settings=ItemSettings(**values) if values else NO_SETTINGS,
        )
    )
