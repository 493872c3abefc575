"""The bare ASGI layer in front of FastAPI: answers what cannot wait itself, passes everything else on.

FastAPI's routing and dependencies cost several times what an answer from memory costs, and that answer is asked for
while a token is being issued or a call waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...scoring.store.read_scope import NOBODY, reads_of
from .problems import ProblemDetails, send_problem
from .prometheus_metrics import ServiceMetrics
from .request_body import declared_body_length, limit_body
from .slice import FastRoute

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Bytes of a request body, except those with events, which have their own bound."""


class FastPath:
    """The application that the server runs.

    Args:
        app: FastAPI, behind.
        routes: asked in order, before it.
        streamed_paths: paths whose routes bound the body themselves, and take room in memory as it arrives.
        metrics: counts every request that goes to *app*; routes count theirs.
        monotonic: seconds, for durations.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[FastRoute],
        streamed_paths: Collection[str],
        metrics: ServiceMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.app = app
        self._routes = tuple(routes)
        self._streamed_paths = frozenset(streamed_paths)
        self._metrics = metrics
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application.

        No request reads anything of a tenant from the store before somebody has said whose it is.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with reads_of(NOBODY):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path") or b""
        for route in self._routes:
            if (handler := route.find_handler(path)) is not None:
                await handler(scope, receive, send)
                return
        await self._forward(scope, receive, send)

    async def _forward_bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._streamed_paths:
            await self.app(scope, receive, send)
        elif declared_body_length(scope) > MAX_REQUEST_BYTES:
            detail = f"the body may have {MAX_REQUEST_BYTES} bytes"
            await send_problem(ProblemDetails(413, "body_too_large", "Body too large", detail), send, with_body=True)
        else:
            await self.app(scope, limit_body(receive, MAX_REQUEST_BYTES), send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._forward_bounded(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path_format", "")
            route = scope.get("root_path", "") + route if route else "(none)"
            self._metrics.counter("trustwatch_http_requests_total", route, str(status)).inc()
            self._metrics.histogram("trustwatch_http_request_seconds", route).observe(self._monotonic() - start)
