"""Privacy: what the slice adds to the application."""

from __future__ import annotations

from ..http.problems import ProblemDetails
from ..http.prometheus_metrics import MetricValues
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .routes import router
from .service import ErasureRefused, ErasureService


def _metric_values(services: ServiceRegistry) -> MetricValues:
    erasures = services.find(ErasureService)
    done, failed = (0, 0) if erasures is None else (erasures.done_count, erasures.failed_count)
    return {"trustwatch_erasures_total": {("done",): done, ("failed",): failed}}


def _refused(error: ErasureRefused) -> ProblemDetails:
    return ProblemDetails(409, ErasureRefused.code, "Erasure refused", str(error))


SLICE = Slice("privacy", routers=(router,), problems={ErasureRefused: _refused}, metrics=_metric_values)
