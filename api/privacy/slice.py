"""Privacy: what the slice adds to the application."""

from __future__ import annotations

from ..http.prometheus_metrics import MetricValues
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .routes import router
from .service import ErasureService


def _metric_values(services: ServiceRegistry) -> MetricValues:
    erasures = services.find(ErasureService)
    done, failed = (0, 0) if erasures is None else (erasures.done_count, erasures.failed_count)
    return {"trustwatch_erasures_total": {("done",): done, ("failed",): failed}}


SLICE = Slice("privacy", routers=(router,), metrics=_metric_values)
