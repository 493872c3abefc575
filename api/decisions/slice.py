"""Decisions: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.agent_lookup import AgentResolver
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from .routes import router
from .service import DecisionService
from .trends import DecisionTrends


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor = services.get(Runtime), services.get(StoreExecutor)
    return DecisionService(runtime, services.get(AgentResolver), executor), DecisionTrends(runtime, executor)


SLICE = Slice("decisions", routers=(router,), services=_make_services)
