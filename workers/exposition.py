"""The page as Prometheus text: which families there are, and how a snapshot becomes their lines.

prometheus_client negotiates the format and renders every family; but that takes 10 us a line, 50 ms for 300 tenants.
So a family with a line a tenant is rendered by it once, with a placeholder for the tenant, and that line is repeated
here: the same text in a tenth of the time (a test compares the two). Slugs need no escaping: the page refuses those
that would.
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

from engine.metrics import Counter, DropReason, Gauge, MissingReason, ProcessState, names
from engine.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from engine.metrics import HistogramSample, PageSample, ProcessSample, TenantSample

    Encoder = Callable[[Collector], bytes]
    # Slug, and whether a worker works for it.
    _Tenants = tuple[tuple[str, bool], ...]

# A process that has not said for so long that its event loop turns does not work, whatever its state says.
HEARTBEAT_FRESH_S = 5.0
_SYSTEM_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PLACEHOLDER = "@"
# Of the formats that a client can negotiate, Prometheus uses one; each costs 300 KB for 300 tenants.
_MOST_FORMATS = 4


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
    """A family with the label `tenant`: one line a tenant, or one for each value of a second label.

    `numbers` gives one number for each of these tenants, and is called for each place in `second_values`.
    """

    described: names.Described
    kind: type[CounterMetricFamily | GaugeMetricFamily]
    numbers: Callable[[Sequence[TenantSample], Mapping[str, int], int], list[int]]
    second_label: str | None = None
    second_values: tuple[str, ...] = ("",)
    # Of a tenant that nobody works for (disabled, or its worker is just starting) nothing is known now: no line.
    active_only: bool = False

    def metric(self, slugs: Sequence[str], columns: Sequence[Sequence[int]]) -> Metric:
        """Return the family as prometheus_client has it, with a column for each value of the second label."""
        labels = ["tenant"] if self.second_label is None else ["tenant", self.second_label]
        family = self.kind(self.described.name, self.described.help, labels=labels)
        for second, column in zip(self.second_values, columns, strict=True):
            for slug, number in zip(slugs, column, strict=True):
                family.add_metric([slug, second][: len(labels)], number)
        return family


def _counter(counter: Counter) -> _TenantFamily:
    place = counter.value  # a plain integer: a member costs a look-up for each tenant
    return _TenantFamily(
        names.COUNTERS[counter],
        CounterMetricFamily,
        lambda tenants, _differences, _: [tenant.counters[place] for tenant in tenants],
    )


def _gauge(gauge: Gauge) -> _TenantFamily:
    place = gauge.value
    return _TenantFamily(
        names.GAUGES[gauge],
        GaugeMetricFamily,
        lambda tenants, _differences, _: [int(tenant.gauges[place]) for tenant in tenants],
        active_only=True,
    )


TENANT_FAMILIES = (
    *map(_counter, Counter),
    _TenantFamily(
        names.DROPPED,
        CounterMetricFamily,
        lambda tenants, _, reason: [tenant.dropped[reason] for tenant in tenants],
        second_label="reason",
        second_values=tuple(reason.label for reason in DropReason),
    ),
    *map(_gauge, Gauge),
    _TenantFamily(
        names.UNMONITORED,
        GaugeMetricFamily,
        lambda tenants, _, reason: [tenant.missing[reason] for tenant in tenants],
        second_label="reason",
        second_values=tuple(reason.label for reason in MissingReason),
        active_only=True,
    ),
    _TenantFamily(
        names.ACCOUNTING_DIFFERENCE,
        GaugeMetricFamily,
        lambda tenants, differences, _: [differences[tenant.slug] for tenant in tenants],
    ),
)


class Exposition:
    """Renders snapshots; keeps the text around the numbers for each format that was asked for."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[_Tenants, str]] = {}

    def render(self, sample: PageSample, differences: Mapping[str, int], accept: str) -> tuple[bytes, str]:
        """Return the text and its content type for an Accept header. `differences` is by tenant slug."""
        encoder, content_type = choose_encoder(accept)
        tenants = list(sample.tenants.values())
        active = [tenant for tenant in tenants if tenant.active]
        numbers: list[int] = []
        for family in TENANT_FAMILIES:
            for second in range(len(family.second_values)):
                numbers += family.numbers(active if family.active_only else tenants, differences, second)
        form = self._form(encoder, content_type, tuple((tenant.slug, tenant.active) for tenant in tenants))
        rest = encoder(_Families(tuple(process_families(sample))))
        return (form % tuple(numbers)).encode() + rest, content_type

    def _form(self, encoder: Encoder, content_type: str, tenants: _Tenants) -> str:
        """Return the text with a %d for each number; it is the same until a tenant comes, goes or rests."""
        of, form = self._forms.get(content_type, ((), ""))
        if of != tenants or not form:
            form = "".join(_family_form(encoder, family, tenants) for family in TENANT_FAMILIES)
            if len(self._forms) >= _MOST_FORMATS:
                self._forms.clear()
            self._forms[content_type] = (tenants, form)
        return form


def process_families(sample: PageSample) -> Iterator[Metric]:
    """Yield the families without a tenant: histograms of all tenants, processes, the build."""
    tenants = sample.tenants.values()
    yield _histogram(names.BATCH_SIZE, names.BATCH_ROWS_BOUNDS, [tenant.batch_rows for tenant in tenants])
    yield _histogram(
        names.WRITE_LATENCY, names.WRITE_SECONDS_BOUNDS, [tenant.write_seconds for tenant in tenants]
    )
    yield _histogram(
        names.SYNC_LATENCY, names.SYNC_SECONDS_BOUNDS, [tenant.sync_seconds for tenant in tenants]
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


def _family_form(encoder: Encoder, family: _TenantFamily, tenants: _Tenants) -> str:
    metric = family.metric([_PLACEHOLDER], [[0]] * len(family.second_values))
    lines = encoder(_Families((metric,))).decode().replace("%", "%%").splitlines(keepends=True)
    text = [line for line in lines if line.startswith("#") and line != "# EOF\n"]
    slugs = [slug.replace("%", "%%") for slug, active in tenants if active or not family.active_only]
    for line in lines:
        if not line.startswith("#"):
            before, _, after = line.rpartition(" ")[0].partition(_PLACEHOLDER)
            text += [f"{before}{slug}{after} %d\n" for slug in slugs]
    return "".join(text)


def _histogram(
    described: names.Described, bounds: Sequence[float], samples: Sequence[HistogramSample]
) -> HistogramMetricFamily:
    none = (0,) * (len(bounds) + 1)
    buckets = map(sum, zip(none, *(sample.buckets for sample in samples), strict=True))
    le = [*map(floatToGoString, bounds), "+Inf"]
    family = HistogramMetricFamily(described.name, described.help)
    family.add_metric(
        [],
        buckets=list(zip(le, accumulate(buckets), strict=True)),
        sum_value=sum(sample.sum for sample in samples),
    )
    return family


def _resident_bytes(process: ProcessSample) -> int | None:
    if process.pid == 0 or process.exited:
        return None
    try:
        statm = Path(f"/proc/{process.pid}/statm").read_text("ascii")
    except OSError:  # it has just died
        return None
    return int(statm.split()[1]) * _SYSTEM_PAGE_BYTES
