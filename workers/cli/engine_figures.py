"""What a running engine says on its two ports, as the demo's view shows it."""

from __future__ import annotations

from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from engine.errors import ScadaError
from workers.cli.live_view import Figures, LatestValue, Rate
from workers.cli.ports import http_get
from workers.rpc.client import ReadingClient

_STORED = "scada_readings_ingested_total"


class EngineFigures:
    """Asks one engine for its figures; keeps one gRPC connection."""

    def __init__(self, *, metrics_port: int, grpc_port: int, tenant: str) -> None:
        self._metrics_port = metrics_port
        self._tenant = tenant
        self._client = ReadingClient(f"127.0.0.1:{grpc_port}", tenant)
        self._rate = Rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def now(self, *, now_s: float) -> Figures:
        """Return the figures of now; what cannot be had is named in them."""
        total: int | None = None
        latest: list[LatestValue] = []
        trouble = ""
        try:
            total = self._stored()
            latest = self._latest()
        except ScadaError as exc:
            trouble = str(exc)
        return Figures(self._rate.per_s(total, now_s=now_s), total, latest, trouble)

    def _stored(self) -> int:
        status, text = http_get(self._metrics_port, "/metrics")
        if status != 200:
            raise ScadaError(f"/metrics on port {self._metrics_port} does not answer")
        return sum(
            int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == _STORED and sample.labels.get("tenant") == self._tenant
        )

    def _latest(self) -> list[LatestValue]:
        found = [
            LatestValue(
                well=each.tag.well_name,
                tag=each.tag.tag_name,
                unit=each.tag.unit or "",
                value=each.value,
                text=each.text_value,
                status=each.status,
                time_us=each.ts_us,
            )
            for each in self._client.latest()
        ]
        return sorted(found, key=lambda each: each.well)
