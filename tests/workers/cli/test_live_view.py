"""What the demo's view shows of given figures."""

from __future__ import annotations

import io
import time

from rich.console import Console

from workers.cli.live_view import Figures, LatestValue, Rate, line, screen


def value(
    tag: str, *, number: float | None = 1234.56, text: str | None = None, status: int = 0
) -> LatestValue:
    """Return a value of one well, measured now."""
    return LatestValue("Well 7", tag, "PSI", number, text, status, time.time_ns() // 1_000)


def shown(figures: Figures) -> str:
    """Return the screen as plain text."""
    console = Console(file=io.StringIO(), width=100)
    console.print(screen(figures, ["curl localhost"], "Ctrl-C"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_screen_shows_values_units_qualities_and_commands() -> None:
    text = shown(Figures(9.96, 42, [value("P"), value("Q", number=None, status=0x80AB0000)]))
    assert "10.0 readings/s   42 stored" in text
    assert "1 234.6   PSI" in text
    assert "-   PSI    Bad 0x80AB0000" in text
    assert "  curl localhost\n" in text


def test_what_is_not_known_is_said() -> None:
    assert "? stored   the gRPC front is away" in shown(Figures(0.0, None, [], "the gRPC front is away"))
    assert "? stored | the gRPC front is away" in line(
        Figures(0.0, None, [], "the gRPC front is away"), turn=0
    )


def test_text_from_devices_cannot_move_the_cursor_or_colour_anything() -> None:
    text = shown(Figures(1.0, 1, [value("[red]P", text="\x1b[2Jhello\r")]))
    assert "[red]P" in text
    assert "\\x1b[2Jhello\\r" in text


def test_lines_take_turns_through_the_tags() -> None:
    figures = Figures(1.0, 1, [value(f"T{number}") for number in range(4)])
    named = [
        [f"T{number}" for number in range(4) if f" T{number} " in line(figures, turn=turn)]
        for turn in range(2)
    ]
    assert named == [["T0", "T1", "T2"], ["T0", "T1", "T3"]]


def test_the_rate_is_taken_over_seconds_and_survives_a_missing_figure() -> None:
    rate = Rate()
    assert rate.per_s(100, now_s=0.0) == 0.0
    assert rate.per_s(120, now_s=2.0) == 10.0
    assert rate.per_s(None, now_s=3.0) == 10.0
    for second in range(4, 31):
        last = rate.per_s(120 + second, now_s=float(second))
    assert last == 1.0
