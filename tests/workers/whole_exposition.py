"""A filled metrics page, and the same numbers as prometheus_client would render them: the oracle of the exposition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Metric

from engine.metrics import Counter, DropReason, Gauge, MetricsPage, MissingReason, PageSample
from workers.exposition import TENANT_FAMILIES, process_families


@dataclass
class Whole:
    """Every family, filled, for prometheus_client to render by itself."""

    sample: PageSample

    def collect(self) -> Iterable[Metric]:
        tenants = list(self.sample.tenants.values())
        differences = {slug: tenant.accounting_difference for slug, tenant in self.sample.tenants.items()}
        for family in TENANT_FAMILIES:
            shown = [tenant for tenant in tenants if tenant.active or not family.active_only]
            yield family.metric(
                [tenant.slug for tenant in shown],
                [family.numbers(shown, differences, second) for second in range(len(family.second_values))],
            )
        yield from process_families(self.sample)


def filled_page(tenants: int) -> MetricsPage:
    """Return a page with tenants on two shards, some of them inactive, one out of balance."""
    page = MetricsPage.create(2)
    for number in range(tenants):
        slots = page.shard(number % 2).tenant(f"tenant-{number}")
        for counter in Counter:
            slots.count(counter, number * 1_000_003 + counter)
        for reason in DropReason:
            slots.drop(reason, number + reason)
        for gauge in Gauge:
            slots.set(gauge, number + gauge)
        for missing in MissingReason:
            slots.set_missing(missing, number * missing)
        slots.observe_write(number, number / 100)
        slots.set_active(number % 7 != 0)
    return page
