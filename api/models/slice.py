"""Models: what the slice adds to the application."""

from __future__ import annotations

from ..http.prometheus_metrics import MetricValues
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .routes import router
from .service import ModelService


def _metric_values(services: ServiceRegistry) -> MetricValues:
    models = services.find(ModelService)
    challengers = {} if models is None else models.challengers
    return {"trustwatch_model_shadow_agent_days": {(version,): days for version, days in challengers.items()}}


SLICE = Slice("models", routers=(router,), metrics=_metric_values)
