"""The bare ASGI layer where requests are traced: a span around each.

What is not traced runs through `FastPath` alone, so that it costs nothing there.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from starlette.types import Message, Receive, Scope, Send

from trustwatch.ingest.spans import RecordedSpans, Span

from ..settings.service_settings import TRACES_PATH
from .fast_path import FastPath, route_template
from .request_ids import REQUEST_ID_KEY

KNOWN_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that stand in the name of a span; any other word of a caller does not."""

_INTAKE_OF_SPANS: Final = TRACES_PATH.encode()
_TRACEPARENT: Final = b"traceparent"
_MAX_TRACEPARENT: Final = 128


class TracedPath(FastPath):
    """`FastPath` with a span around each request.

    Args:
        spans: of requests.
        arguments: of `FastPath`.
    """

    def __init__(self, spans: RecordedSpans, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        structlog.contextvars.unbind_contextvars("trace_id")  # of the request before it on this connection
        traceparent = given_traceparent(scope)
        if not traceparent and scope.get("raw_path") == _INTAKE_OF_SPANS:
            # A collector that gets our spans may hand all it gets on to us: a span of that would come back for ever.
            await super().__call__(scope, receive, send)
            return
        with self._spans.request_span("request", traceparent) as span:
            if not span.recorded:
                await super().__call__(scope, receive, send)
                return
            status = 0

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await super().__call__(scope, receive, watched)
            finally:
                self._describe(span, scope, status)

    def _describe(self, span: Span, scope: Scope, status: int) -> None:
        """Say which route was asked how, and what came of it: no path, no query, no name."""
        method = scope["method"] if scope["method"] in KNOWN_METHODS else "_OTHER"
        route = self._template(scope)
        span.rename(f"{method} {route}")
        span.note(
            {
                "http.request.method": method,
                "http.route": route,
                "trustwatch.request_id": scope.get(REQUEST_ID_KEY, ""),
            }
        )
        if status:  # else its client went away before there was an answer
            span.note({"http.response.status_code": status})
        if status >= 500:
            span.mark_failed(str(status))

    def _template(self, scope: Scope) -> str:
        path = scope.get("raw_path") or b""
        for route in self._routes:
            if route.find_handler(path) is not None:
                return route.template(path)
        return route_template(scope)


def given_traceparent(scope: Scope) -> str:
    """The `traceparent` that a request brings; "" where it brings none, or more than one."""
    given = ""
    for name, value in scope["headers"]:
        if name == _TRACEPARENT:
            if given or len(value) > _MAX_TRACEPARENT:
                return ""
            given = value.decode("latin-1")
    return given
