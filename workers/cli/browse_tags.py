"""Browsed variables as rows that `tags import` takes: names, types and units from the server as defaults.

Owns how a tag's name is made from a path, and which variables become no row and why. The columns are those of
tags_csv.py.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from typing import IO, TYPE_CHECKING

from engine.catalog import NewTag
from engine.catalog.node_ids import parse_node_id
from engine.catalog.rules import check_tags
from engine.errors import InvalidInput

if TYPE_CHECKING:
    from workers.opcua.browsing.browse import BrowsedNode

COLUMNS = ("tag_name", "opc_node_id", "data_type", "unit", "scaling_factor", "offset")
_NAME_MOST_CHARACTERS = 255
_UNIT_MOST_CHARACTERS = 50
# A spreadsheet takes a cell that begins so for a formula; the file is meant to be edited in one.
_FORMULA = re.compile(r"^[=+@\-](?=.)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

UNREADABLE = "variables may not be read"
UNTYPED = "variables may hold any type: DOUBLE is assumed"
ARRAYS = "arrays have one row each: for one element write [i] behind the node id"


class TagRows:
    """Collects the rows; `left_out` counts what became none, `remarks` what somebody should know."""

    def __init__(self, *, by_index: bool = False) -> None:
        """`by_index` writes node ids as ns=, which another order of namespaces makes wrong."""
        self.rows: list[tuple[str, ...]] = []
        self.left_out: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()
        self._by_index = by_index
        # Of every node that can be above another one: its parent, and its name.
        self._above: dict[str, tuple[str | None, str]] = {}
        self._names: set[str] = set()

    def add(self, node: BrowsedNode) -> None:
        """Take a node of the walk; a parent comes before what is below it."""
        self._above[node.node_id] = (node.parent, node.browse_name)
        facts = node.variable
        if facts is None:
            return
        if facts.readable is False:
            self.left_out[UNREADABLE] += 1
            return
        node_id = node.node_id if self._by_index else node.node_id_by_uri
        unit = _unit(facts.unit)
        tag = NewTag(self._tag_name(node), node_id, facts.data_type or "DOUBLE", unit)
        try:
            check_tags([tag])
            parse_node_id(node_id)
        except InvalidInput as exc:
            self.left_out[_reason(exc)] += 1
            return
        if node_id != node_id.strip():
            self.left_out["node ids begin or end with a space, which a CSV file does not keep"] += 1
            return
        if facts.data_type is None:
            self.remarks[UNTYPED] += 1
        if facts.value_rank is not None and facts.value_rank >= 1:
            self.remarks[ARRAYS] += 1
        self._names.add(tag.tag_name)
        self.rows.append((tag.tag_name, node_id, tag.data_type, unit or "", "", ""))

    def write(self, file: IO[str]) -> None:
        """Write the CSV file; an empty cell means the default."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.rows)

    def _tag_name(self, node: BrowsedNode) -> str:
        """Return the names from below the start node on, with dots; a number behind it where that is taken."""
        names: list[str] = []
        place: str | None = node.node_id
        while place is not None:
            parent, name = self._above[place]
            if parent is not None or not names:
                names.append(name)
            place = parent
        whole = _FORMULA.sub("_", _UNPRINTABLE.sub("_", ".".join(reversed(names))).strip()) or "_"
        number = 1
        name = _shortened(whole, "")
        while name in self._names:
            number += 1
            name = _shortened(whole, f"_{number}")
        return name


def _shortened(name: str, suffix: str) -> str:
    """Return the name with its suffix; of one that is too long, the end, which tells more than the beginning."""
    room = _NAME_MOST_CHARACTERS - len(suffix)
    return (name if len(name) <= room else f"…{name[len(name) - room + 1 :]}") + suffix


def _unit(unit: str | None) -> str | None:
    if unit is None:
        return None
    plain = _UNPRINTABLE.sub("", unit).strip()[:_UNIT_MOST_CHARACTERS].strip()
    return None if not plain or _FORMULA.match(plain) else plain


def _reason(exc: InvalidInput) -> str:
    """Return why a row would not be imported, the same text for all rows with the same trouble."""
    field = exc.field.rpartition(".")[2]
    return f"variables whose {field} `tags import` does not take"
