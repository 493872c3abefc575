"""Search: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from trustwatch.scoring.records.erasures import Erasure

from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from ..privacy.service import ErasureService
from .routes import router
from .service import SearchService

SEARCH_THREADS = 2
"""Searches that go on at once; others wait."""


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    erasures = services.find(ErasureService)
    open_erasures = _nothing_is_erased if erasures is None else erasures.open_erasures
    # Threads of its own: whoever searches holds up nobody's lists.
    return (SearchService(services.get(Runtime), StoreExecutor(SEARCH_THREADS), open_erasures),)


async def _nothing_is_erased() -> Sequence[Erasure]:
    return ()


SLICE = Slice("search", routers=(router,), services=_make_services)
