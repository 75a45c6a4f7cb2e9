"""The one place that wires the stages; the flow is drawn in engine/pipeline/wiring.py."""

from engine.pipeline.wiring import TenantPipeline

__all__ = ["TenantPipeline"]
