"""What is counted, and the shared-memory page that every process counts into.

names       every counter, gauge and reason with its Prometheus name, once
page        the page: made by the supervisor, attached by every other process
layout      where each number stands in it
slots       the writing side: one writer a block
samples     the reading side
"""

from engine.metrics.names import Counter, DropReason, Gauge, MissingReason, ProcessKind, ProcessState
from engine.metrics.page import MetricsPage
from engine.metrics.samples import HistogramSample, PageSample, ProcessSample, TenantSample
from engine.metrics.slots import ProcessSlots, ShardSlots, TenantSlots

__all__ = [
    "Counter",
    "DropReason",
    "Gauge",
    "HistogramSample",
    "MetricsPage",
    "MissingReason",
    "PageSample",
    "ProcessKind",
    "ProcessSample",
    "ProcessSlots",
    "ProcessState",
    "ShardSlots",
    "TenantSample",
    "TenantSlots",
]
