"""Acts of people: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.agent_lookup import AgentResolver
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from .routes import router
from .service import ActService


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    return (ActService(services.get(Runtime), services.get(StoreExecutor), services.get(AgentResolver)),)


SLICE = Slice("acts", routers=(router,), services=_make_services)
