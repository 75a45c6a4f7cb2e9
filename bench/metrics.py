"""Claim `metrics`: what a scrape costs with 300 tenants: copy the shared-memory page and render it as Prometheus text.

`render_ms` is ours, snapshot included; `baseline_render_ms` is prometheus-client rendering the same families by itself.
Both in CPU time of one thread, median of interleaved rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from prometheus_client.exposition import choose_encoder

from bench.report import Progress, Report, Target, interleaved, median_ratio
from tests.workers.whole_exposition import Whole, filled_page
from workers.exposition import Exposition

TENANTS = 300
ROUNDS = 30

MEANING = {
    "render_ms": f"snapshot and text of {TENANTS} tenants",
    "baseline_render_ms": "prometheus-client alone, the same families",
    "speedup": "baseline / ours, median of rounds",
    "lines": "lines of the text",
}


def run(progress: Progress) -> Report:
    """Measure the claim."""
    page = filled_page(TENANTS)
    encode, _ = choose_encoder("")
    exposition = Exposition()

    def ours() -> bytes:
        sample = page.snapshot()
        return exposition.render(sample, dict.fromkeys(sample.tenants, 0), "")[0]

    def theirs() -> bytes:
        return encode(Whole(page.snapshot()))

    results = interleaved(
        ROUNDS, {"ours": lambda: _cpu_ms(ours), "theirs": lambda: _cpu_ms(theirs)}, progress
    )
    lines = ours().count(b"\n")
    page.close()
    return Report(
        "metrics",
        {
            "render_ms": statistics.median(results["ours"]),
            "baseline_render_ms": statistics.median(results["theirs"]),
            "speedup": median_ratio(results["theirs"], results["ours"]),
            "lines": lines,
        },
        [Target("render_ms", "<=", 10.0, timed=True)],
        MEANING,
    )


def _cpu_ms(work: Callable[[], bytes]) -> float:
    began_s = time.thread_time()
    work()
    return (time.thread_time() - began_s) * 1e3
