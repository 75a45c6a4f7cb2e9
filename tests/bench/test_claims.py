"""python -m bench: its command line and its JSON are a contract, and claims measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import copy, journal, receive, subscribe
from bench.report import Report, Target, interleaved, median_ratio
from engine.store import StorageMode
from tests.servers.databases import Server

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench` as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_without_a_name_the_claims_are_listed() -> None:
    done = bench()
    assert done.returncode == 0
    assert "decode" in done.stdout
    assert "copy" in done.stdout


def test_an_unknown_claim_is_an_error_that_names_those_there_are() -> None:
    done = bench("decoding")
    assert done.returncode == 2
    assert "there is no claim 'decoding'; there are: decode, copy, " in done.stderr
    assert ", tenants, all" in done.stderr


def test_decode_prints_one_json_object_as_its_last_line_and_its_status_says_what_held() -> None:
    done = bench("decode", "--json")
    said = json.loads(done.stdout.splitlines()[-1])
    assert list(said) == ["bench", "figures", "targets", "machine"]
    assert said["bench"] == "decode"
    assert set(said["figures"]) == {
        "ns_per_value",
        "baseline_ns_per_value",
        "us_per_message",
        "decode_us_per_message",
        "speedup",
    }
    limits = {target["figure"]: (target["op"], target["limit"]) for target in said["targets"]}
    assert limits == {
        "ns_per_value": ("<=", 25),
        "us_per_message": ("<=", 40),
        "speedup": (">=", 500),
    }
    assert done.returncode == (0 if all(target["holds"] for target in said["targets"]) else 1)


def test_receive_accounts_for_every_value_beside_asyncua(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "VARIABLES", 200)
    monkeypatch.setattr(receive, "INTERVAL_MS", 20.0)
    monkeypatch.setattr(receive, "BASELINE_INTERVAL_MS", 100.0)
    monkeypatch.setattr(receive, "SETTLE_S", 0.1)
    monkeypatch.setattr(receive, "MEASURE_S", 0.5)
    monkeypatch.setattr(receive, "BASELINE_MEASURE_S", 0.5)
    report = receive.run(lambda *_: None)
    assert set(report.figures) == set(receive.MEANING)
    assert (report.figures["lost_values"], report.figures["missed_messages"]) == (0, 0)
    for figure in ("values_per_s", "core_share", "baseline_values_per_s", "baseline_core_share"):
        assert report.figures[figure] > 0
    limits = {target.figure: (target.op, target.limit) for target in report.targets}
    assert limits["values_per_s"] == (">=", 400_000)
    assert limits["core_share"] == ("<=", 0.6)


def test_values_that_are_missing_or_doubled_are_found() -> None:
    slots = np.array([0, 1, 0, 1], np.uint32)
    assert (
        receive.lost_values([(slots, np.array([5.0, 7.0, 6.0, 8.0])), (slots[:2], np.array([7.0, 9.0]))]) == 0
    )
    assert receive.lost_values([(slots, np.array([5.0, 7.0, 8.0, 8.0]))]) == 2
    assert receive.lost_values([(slots, np.array([5.0, 7.0, 5.0, 8.0]))]) == 1
    assert receive.lost_values([]) == 0


def test_subscribe_measures_the_server_and_the_memory_of_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribe, "ITEMS", 1_500)
    monkeypatch.setattr(subscribe, "FEW_ITEMS", 500)
    monkeypatch.setattr(subscribe, "ROUNDS", 1)
    report = subscribe.run(lambda *_: None)
    assert set(report.figures) == set(subscribe.MEANING)
    assert report.figures["items_per_s"] > 0
    assert report.figures["vs_server_time"] > 0
    limits = {target.figure: (target.op, target.limit) for target in report.targets}
    assert limits == {"vs_server_time": ("<=", 1.2), "bytes_per_tag": ("<=", 120)}


@pytest.mark.parametrize(("timed", "status"), [(True, True), (False, False)])
def test_a_target_that_depends_on_the_machine_does_not_count_where_only_ratios_do(
    timed: bool, status: bool
) -> None:
    report = Report("name", {"figure": 6.0}, [Target("figure", "<=", 5.0, timed=timed)])
    assert report.holds_on_any_machine is status
    assert not report.holds


def test_copy_measures_every_mode_that_the_server_has(
    any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "ROUNDS", 1)
    monkeypatch.setattr(copy, "SORTING_ROUNDS", 1)
    monkeypatch.setattr(copy, "BATCHES", {mode: {1_000: 3, 2_000: 2} for mode in StorageMode})
    monkeypatch.setattr(copy, "UNNEST_BATCH_ROWS", 1_000)
    steps: list[tuple[int, int]] = []
    report = copy.run(lambda done, total: steps.append((done, total)), dsn=any_server.dsn)
    modes = {mode for mode in StorageMode if f"{mode}_rows_per_s" in report.figures}
    assert "plain" in modes
    assert ("hypertable" in modes) == (any_server.kind == "timescale")
    of_modes = [
        *("rows_per_s", "preencoded_rows_per_s", "unnest_rows_per_s", "unnest_ready_rows_per_s"),
        *("vs_preencoded", "vs_preencoded_1000", "vs_preencoded_2000", "vs_unnest"),
    ]
    assert set(report.figures) == {f"{mode}_{name}" for mode in modes for name in of_modes} | {
        "sort_encode_ns_per_row",
        "sort_encode_numpy_ns_per_row",
        "sort_encode_vs_numpy",
    }
    assert set(report.meaning) == set(report.figures)
    assert all(value > 0 for value in report.figures.values())
    limits = {target.figure: (target.op, target.limit) for target in report.targets}
    assert limits.pop("sort_encode_ns_per_row") == ("<=", 60)
    for mode in modes:
        assert limits.pop(f"{mode}_vs_preencoded") == (">=", 0.9)
    least = {"columnstore_vs_unnest": (">=", 20), "hypertable_vs_unnest": (">=", 6)}
    assert limits == {f"{mode}_vs_unnest": least[f"{mode}_vs_unnest"] for mode in modes - {"plain"}}
    assert steps[-1] == (5 * len(modes), 5 * len(modes))


def test_journal_reads_back_what_it_wrote_beside_plain_writes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "ROUNDS", 1)
    monkeypatch.setattr(journal, "GROUPS", 3)
    monkeypatch.setattr(journal, "PACED_FRAMES", 10)
    report = journal.run(lambda *_: None)
    assert set(report.figures) == set(journal.MEANING)
    for figure in ("ns_per_reading", "ack_p99_ms", "replay_readings_per_s", "vs_plain"):
        assert report.figures[figure] > 0
    limits = {target.figure: (target.op, target.limit) for target in report.targets}
    assert limits["ns_per_reading"] == ("<=", 60)
    assert limits["ack_p99_ms"] == ("<=", 25)
    assert limits["replay_readings_per_s"] == (">=", 1_000_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("op", "value", "holds"), [("<=", 5.0, True), ("<=", 5.1, False), (">=", 4.9, False)]
)
def test_a_report_holds_when_each_figure_keeps_its_limit(op: str, value: float, holds: bool) -> None:
    report = Report("name", {"figure": value}, [Target("figure", op, 5.0)])  # type: ignore[arg-type]
    assert report.holds is holds
    assert report.as_json()["targets"][0]["holds"] is holds
    console = Console(record=True, width=100)
    report.show(console)
    assert ("NO" in console.export_text()) is not holds


def test_measures_take_turns_and_begin_with_another_one_each_round() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = interleaved(2, {"a": lambda: measure("a"), "b": lambda: measure("b")}, lambda *_: None)
    assert order == ["a", "b", "b", "a"]
    assert results == {"a": [1.0, 4.0], "b": [2.0, 3.0]}


def test_ratios_are_made_within_a_round() -> None:
    assert median_ratio([10.0, 200.0, 30.0], [1.0, 100.0, 1.0]) == 10.0
