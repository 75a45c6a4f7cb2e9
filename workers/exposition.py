"""The page as Prometheus text: which families there are, and how a snapshot becomes their lines.

The only importer of prometheus_client. It negotiates the format and renders every family; but it spends about 10 us on
a line, 50 ms for 300 tenants. So families with a line a tenant are rendered by it once, with a placeholder for the
tenant, and that line is repeated here with each tenant's slug and number: the same text in a tenth of the time (a test
compares the two).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from engine import metric_names as names
from engine.metrics import Counter, DropReason, Gauge, HistogramSample, ProcessState
from engine.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from engine.metrics import PageSample, ProcessSample, TenantSample

    Encoder = Callable[[Collector], bytes]

# A process that has not said for so long that its event loop turns does not work, whatever its state says.
HEARTBEAT_FRESH_S = 5.0
_SYSTEM_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PLACEHOLDER = "@"
# Formats that a client can negotiate: two, times their versions and escapings; a bound in case there come more.
_MOST_FORMATS = 32


def not_ready(process: ProcessSample) -> str | None:
    """Return why a process is not ready, in words; None when it is."""
    if process.exited:
        how = f"signal {-process.exit_status}" if process.exit_status < 0 else f"status {process.exit_status}"
        return f"exited with {how}; it is being restarted (deaths so far: {process.restarts})"
    if process.state is ProcessState.ABSENT:
        return "not started yet"
    age_s = process.heartbeat_age_s
    if age_s is None or age_s > HEARTBEAT_FRESH_S:
        return f"no heartbeat for {age_s or 0:.1f} s (at most {HEARTBEAT_FRESH_S:.0f} s): hung, stopped or killed"
    return None if process.state is ProcessState.READY else process.state.label


@dataclass(frozen=True, slots=True)
class _TenantFamily:
    """A family with the label `tenant`: one line a tenant, or one for each value of a second label."""

    described: names.Described
    kind: type[CounterMetricFamily | GaugeMetricFamily]
    # From all tenants to (slug, number) of one line each; called once for each value of the second label.
    column: Callable[[Sequence[TenantSample], Mapping[str, int], int], list[tuple[str, int]]]
    second_label: str | None = None
    second_values: tuple[str, ...] = ("",)

    def metric(self, columns: Sequence[Sequence[tuple[str, int]]]) -> Metric:
        """Return the family as prometheus_client has it, with a column for each value of the second label."""
        labels = ["tenant"] if self.second_label is None else ["tenant", self.second_label]
        family = self.kind(self.described.name, self.described.help, labels=labels)
        for second, column in zip(self.second_values, columns, strict=True):
            for slug, number in column:
                family.add_metric([slug, second][: len(labels)], number)
        return family


def _counter(counter: Counter) -> _TenantFamily:
    return _TenantFamily(
        names.COUNTERS[counter],
        CounterMetricFamily,
        lambda tenants, _differences, _: [(tenant.slug, tenant.counters[counter]) for tenant in tenants],
    )


def _gauge(gauge: Gauge) -> _TenantFamily:
    # Of a tenant that nobody works for (disabled, or its worker is just starting) nothing is known: no line.
    return _TenantFamily(
        names.GAUGES[gauge],
        GaugeMetricFamily,
        lambda tenants, _differences, _: [
            (tenant.slug, int(tenant.gauges[gauge])) for tenant in tenants if tenant.active
        ],
    )


TENANT_FAMILIES = (
    *map(_counter, Counter),
    _TenantFamily(
        names.DROPPED,
        CounterMetricFamily,
        lambda tenants, _, reason: [(tenant.slug, tenant.dropped[reason]) for tenant in tenants],
        second_label="reason",
        second_values=tuple(reason.label for reason in DropReason),
    ),
    *map(_gauge, Gauge),
    _TenantFamily(
        names.ACCOUNTING_DIFFERENCE,
        GaugeMetricFamily,
        lambda tenants, differences, _: [(tenant.slug, differences[tenant.slug]) for tenant in tenants],
    ),
)


class Exposition:
    """Renders snapshots; keeps, for each format that was asked for, the lines to repeat."""

    def __init__(self) -> None:
        self._templates_by_format: dict[str, list[_Template]] = {}

    def render(self, sample: PageSample, differences: Mapping[str, int], accept: str) -> tuple[bytes, str]:
        """Return the text and its content type for an Accept header. `differences` is by tenant slug."""
        encoder, content_type = choose_encoder(accept)
        templates = self._templates_by_format.get(content_type)
        if templates is None:
            templates = [_template(encoder, family) for family in TENANT_FAMILIES]
            if len(self._templates_by_format) < _MOST_FORMATS:
                self._templates_by_format[content_type] = templates
        tenants = list(sample.tenants.values())
        text: list[str] = []
        for template, family in zip(templates, TENANT_FAMILIES, strict=True):
            text.append(template.head)
            for second, (before, after) in enumerate(template.lines):
                column = family.column(tenants, differences, second)
                text += [f"{before}{slug}{after} {number}\n" for slug, number in column]
        return "".join(text).encode() + encoder(_Families(tuple(process_families(sample)))), content_type


def process_families(sample: PageSample) -> Iterator[Metric]:
    """Yield the families without a tenant: histograms of all tenants, processes, the build."""
    tenants = sample.tenants.values()
    yield _histogram(names.BATCH_SIZE, names.BATCH_ROWS_BOUNDS, [tenant.batch_rows for tenant in tenants])
    yield _histogram(
        names.WRITE_LATENCY, names.WRITE_SECONDS_BOUNDS, [tenant.write_seconds for tenant in tenants]
    )
    labels = ["process", "index"]
    up = GaugeMetricFamily(names.PROCESS_UP.name, names.PROCESS_UP.help, labels=labels)
    restarts = CounterMetricFamily(names.PROCESS_RESTARTS.name, names.PROCESS_RESTARTS.help, labels=labels)
    resident = GaugeMetricFamily(
        names.PROCESS_RESIDENT_BYTES.name, names.PROCESS_RESIDENT_BYTES.help, labels=labels
    )
    for process in sample.processes:
        label = [str(process.kind), str(process.index)]
        up.add_metric(label, not_ready(process) is None)
        restarts.add_metric(label, process.restarts)
        if (resident_bytes := _resident_bytes(process)) is not None:
            resident.add_metric(label, resident_bytes)
    yield from (up, restarts, resident)
    build = names.BUILD_INFO
    yield InfoMetricFamily(build.name.removesuffix("_info"), build.help, value={"version": VERSION})


@dataclass(frozen=True, slots=True)
class _Families:
    """What prometheus_client calls a collector."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.families


@dataclass(frozen=True, slots=True)
class _Template:
    """How a family reads around a tenant's slug; `head` is what stands before its first line."""

    head: str
    lines: tuple[tuple[str, str], ...]


def _template(encoder: Encoder, family: _TenantFamily) -> _Template:
    metric = family.metric([[(_PLACEHOLDER, 0)]] * len(family.second_values))
    lines = encoder(_Families((metric,))).decode().splitlines(keepends=True)
    head = "".join(line for line in lines if line.startswith("#") and line != "# EOF\n")
    around = [line.rpartition(" ")[0].partition(_PLACEHOLDER) for line in lines if not line.startswith("#")]
    return _Template(head, tuple((before, after) for before, _, after in around))


def _histogram(
    described: names.Described, bounds: Sequence[float], samples: Sequence[HistogramSample]
) -> HistogramMetricFamily:
    total = sum(samples, start=HistogramSample((0,) * (len(bounds) + 1), 0.0))
    le = [*map(floatToGoString, bounds), "+Inf"]
    family = HistogramMetricFamily(described.name, described.help)
    family.add_metric([], buckets=list(zip(le, accumulate(total.buckets), strict=True)), sum_value=total.sum)
    return family


def _resident_bytes(process: ProcessSample) -> int | None:
    if process.pid == 0 or process.exited:
        return None
    try:
        statm = Path(f"/proc/{process.pid}/statm").read_text("ascii")
    except OSError:  # it has just died
        return None
    return int(statm.split()[1]) * _SYSTEM_PAGE_BYTES
