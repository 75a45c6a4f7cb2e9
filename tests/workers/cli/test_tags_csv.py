"""The CSV file of tags: what is read, and that every fault is found with its line and column."""

from __future__ import annotations

import io
from decimal import Decimal
from uuid import uuid4

import pytest

from engine.catalog import ItemSettings
from workers.cli import tags_csv
from workers.cli.tags_csv import TagFile, read_tags

WELL_ID = uuid4()
HEAD = "tag_name,opc_node_id,unit,scaling_factor,offset,well\n"


def read(text: str | bytes) -> TagFile:
    """Read a file's text with one known well."""
    return read_tags(io.BytesIO(text.encode() if isinstance(text, str) else text), wells={"Well 7": WELL_ID})


def problems(text: str | bytes) -> list[tuple[int, str]]:
    """Return line and column of each problem."""
    return [(problem.line, problem.column) for problem in read(text).problems]


def test_a_row_becomes_a_tag_with_exact_numbers() -> None:
    found = read(HEAD + "P,ns=2;s=P,PSI,0.00005,-1.10,Well 7\n")
    (tag,) = found.tags
    assert (tag.tag_name, tag.opc_node_id, tag.data_type, tag.unit) == ("P", "ns=2;s=P", "DOUBLE", "PSI")
    assert (tag.scaling_factor, tag.offset, tag.well_id) == (Decimal("0.00005"), Decimal("-1.10"), WELL_ID)
    assert (found.lines, found.problems) == ([2], [])


def test_settings_are_read_in_any_case_and_an_empty_cell_leaves_them_to_the_connection() -> None:
    found = read(
        "tag_name,opc_node_id,read_mode,publishing_interval_ms,sampling_interval_ms,queue_size,discard_oldest,"
        "deadband_type,deadband_value,data_change_trigger,timestamps_to_return\n"
        "A,i=1,Subscribe,250,-1,7,No,percent,0.5,statusvalue,both\nB,i=2,,,,,,,,,\n"
    )
    assert found.problems == []
    assert [tag.settings for tag in found.tags] == [
        ItemSettings(
            read_mode="subscribe",
            publishing_interval_ms=250.0,
            sampling_interval_ms=-1.0,
            queue_size=7,
            discard_oldest=False,
            deadband_type="Percent",
            deadband_value=0.5,
            data_change_trigger="StatusValue",
            timestamps_to_return="Both",
        ),
        ItemSettings(),
    ]


def test_settings_that_cannot_be_read_are_told() -> None:
    text = "tag_name,opc_node_id,queue_size,discard_oldest,deadband_value\nA,i=1,1.5,maybe,a lot\n"
    assert [(problem.column, problem.message) for problem in read(text).problems] == [
        ("queue_size", "'1.5' is not a whole number"),
        ("discard_oldest", "'maybe' is not yes or no"),
        ("deadband_value", "'a lot' is not a number"),
    ]


def test_a_byte_order_mark_spaces_empty_lines_and_windows_line_ends_are_no_problem() -> None:
    found = read("\ufefftag_name , opc_node_id\r\n\r\n P , ns=2;s=P \r\n,\r\n".encode())
    assert [(tag.tag_name, tag.opc_node_id) for tag in found.tags] == [("P", "ns=2;s=P")]
    assert (found.lines, found.problems) == ([3], [])


def test_a_row_that_spans_lines_counts_from_its_first() -> None:
    assert problems(HEAD + '"P\nQ",,,,,\nX,ns=2;s=X,,y,,\n') == [(2, "opc_node_id"), (4, "scaling_factor")]


def test_all_problems_of_a_row_are_told() -> None:
    assert problems(HEAD + ",,,a,b,Nowhere\n") == [
        (2, "tag_name"), (2, "opc_node_id"), (2, "scaling_factor"), (2, "offset"), (2, "well"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("tag_name\nP\n", [(1, "opc_node_id")]),
        ("tag_name,opc_node_id,colour\nP,i=1,red\n", [(1, "colour")]),
        ("tag_name,opc_node_id,unit,unit\nP,i=1,a,b\n", [(1, "unit"), (1, "unit")]),
        ("", [(1, "tag_name"), (1, "opc_node_id")]),
    ],
)
def test_headings_that_do_not_fit_are_told(head: str, found: list[tuple[int, str]]) -> None:
    assert problems(head) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEAD, 1),
        (HEAD + "P,ns=2;s=P\n", 2),
        (HEAD.encode() + b"P,ns=2;s=\xff,,,,\n", 2),
        (HEAD + 'P,"ns=2;s=P"x,,,,\n', 2),
        (HEAD + 'P,"ns=2;s=P\n', 2),
    ],
)
def test_a_line_that_is_no_row_is_told(text: str | bytes, line: int) -> None:
    assert problems(text) == [(line, "")]


def test_a_file_that_is_too_large_is_refused_before_it_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags_csv, "MOST_BYTES", 100)
    stream = io.BytesIO(b"x" * 1_000)
    assert [problem.line for problem in read_tags(stream, wells={}).problems] == [1]
    assert stream.tell() == 101
