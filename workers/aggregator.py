"""The metrics process: reads the shared-memory page and answers /metrics, /livez and /readyz.

Owns these three pages and what ready means. The page's numbers are engine.metrics, the Prometheus text is
workers.exposition, the sockets are workers.plain_http.

    /metrics   200, Prometheus text or OpenMetrics
    /livez     200 while this process runs
    /readyz    200 when every ingest worker, every front and REST is ready and its heartbeat is fresh; else 503,
               and the JSON names each process that is not, and why

The page is read at each request, nothing is kept: a figure is never older than its request.
"""

from __future__ import annotations

import asyncio
import signal
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
import structlog

from engine.metrics import ProcessKind, ProcessState
from workers.exposition import Exposition, not_ready
from workers.plain_http import Answer, PlainHttp

if TYPE_CHECKING:
    from email.message import Message

    from engine.metrics import MetricsPage, PageSample, ProcessSlots
    from engine.settings import Settings

log = structlog.get_logger(__name__)

_BEAT_S = 1.0
# A torn look is over in microseconds; a lost reading stays lost.
_LOOKS = 3
_LOOK_AGAIN_S = 0.002


async def settled(page: MetricsPage) -> tuple[PageSample, dict[str, int]]:
    """Return a snapshot and the accounting difference of each tenant, looked at again before it is believed.

    A difference counts only if no look found the tenant's numbers in balance.
    """
    sample = page.snapshot()
    differences = {slug: tenant.accounting_difference for slug, tenant in sample.tenants.items()}
    for _ in range(_LOOKS - 1):
        if not any(differences.values()):
            break
        await asyncio.sleep(_LOOK_AGAIN_S)
        sample = page.snapshot()
        differences = {
            slug: tenant.accounting_difference if differences.get(slug, 1) else 0
            for slug, tenant in sample.tenants.items()
        }
    return sample, differences


class Aggregator:
    """The three pages over one metrics page."""

    def __init__(self, page: MetricsPage) -> None:
        self._page = page
        self._exposition = Exposition()
        self.http = PlainHttp({"/metrics": self._metrics, "/livez": self._livez, "/readyz": self._readyz})

    async def _metrics(self, headers: Message) -> Answer:
        sample, differences = await settled(self._page)
        body, content_type = self._exposition.render(sample, differences, headers.get("Accept", ""))
        return Answer(body, content_type)

    async def _livez(self, _: Message) -> Answer:
        return Answer(b"alive\n")

    async def _readyz(self, _: Message) -> Answer:
        # Not ourselves: who reads this sees that we answer.
        others = [
            (process, not_ready(process))
            for process in self._page.snapshot().processes
            if process.kind is not ProcessKind.AGGREGATOR
        ]
        ready = all(reason is None for _, reason in others)
        body = orjson.dumps(
            {
                "ready": ready,
                "processes": [
                    {"process": process.kind, "index": process.index, "ready": reason is None}
                    | ({"reason": reason} if reason is not None else {})
                    for process, reason in others
                ],
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        return Answer(body, "application/json", HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


async def _beat(slots: ProcessSlots) -> None:
    while True:
        slots.beat()
        await asyncio.sleep(_BEAT_S)


async def _serve(settings: Settings, page: MetricsPage) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    slots = page.aggregator()
    http = Aggregator(page).http
    port = await http.start(settings.host, settings.metrics_port, setting="metrics_port")
    beating = asyncio.create_task(_beat(slots))
    slots.set_state(ProcessState.READY)
    log.info("metrics are served", url=f"http://{settings.host}:{port}/metrics")
    try:
        await stopping.wait()
        slots.set_state(ProcessState.STOPPING)
    finally:
        beating.cancel()
        await http.stop()
    slots.set_state(ProcessState.STOPPED)


def main(settings: Settings, page: MetricsPage, index: int) -> int:  # noqa: ARG001  (there is one aggregator)
    """Serve until SIGTERM; return the exit status. Raises ConfigurationError when the port cannot be had."""
    asyncio.run(_serve(settings, page))
    return 0
