"""Spans of requests by OpenTelemetry's ASGI middleware, if the standard variables `OTEL_*` name a collector."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trustwatch.ingest.extras import install_line, missing_packages

from ..settings.service_settings import TRACES_PATH
from .fast_path import REQUEST_ID_KEY, FastPath

if TYPE_CHECKING:  # versions before it ignore the argument
    from fastapi.telemetry import TelemetryConfig

FASTAPI_TELEMETRY_OFF: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""Else paths and queries of requests and messages of errors, with agents' names in them, go to whatever collector the
environment names, and to whatever provider another library of the process has set."""

KNOWN_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that appear in the name of a span; any other word of a caller does not."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_REQUEST: Final = "trustwatch.request"

_log = structlog.get_logger(__name__)


def trace_requests(app: FastPath) -> ASGIApp:
    """Wrap the application in a span for each request; return it unchanged if the environment names no collector."""
    if not any(map(os.environ.get, _ENDPOINTS)) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return app
    if missing_packages("traces"):
        _log.warning("requests_not_traced", variables=_ENDPOINTS, needs=install_line("traces"))
        return app
    return _TracedRequests(app)


class _TracedRequests:
    """Runs the middleware with only what a collector may see of a request: no path, query, header or address."""

    def __init__(self, app: FastPath) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", "trustwatch")
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # names of the current conventions
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._app, self._trace = app, trace
        self._middleware = OpenTelemetryMiddleware(
            self._answer,
            default_span_details=lambda shown: (shown["method"], {}),
            tracer_provider=provider,
            exclude_spans=["receive", "send"],
            http_capture_headers_server_response=[
                "content-type"
            ],  # an empty list would be replaced by the environment's
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan of the application.

        Our intake of spans is not traced: a collector that hands its spans on to us would get them back forever.
        """
        if scope["type"] != "http" or scope["path"] == TRACES_PATH:
            await self._app(scope, receive, send)
            return
        parents = [header for header in scope["headers"] if header[0] == b"traceparent"]
        shown = {
            "type": "http",
            "method": scope["method"] if scope["method"] in KNOWN_METHODS else "_OTHER",
            "headers": parents if len(parents) == 1 else [],
            _REQUEST: scope,
        }
        await self._middleware(shown, receive, send)

    async def _answer(self, shown: Scope, receive: Receive, send: Send) -> None:
        scope, span = shown[_REQUEST], self._trace.get_current_span()
        if not span.is_recording():
            await self._app(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = self._app.route_template(scope)
                span.update_name(f"{shown['method']} {route}")
                span.set_attributes({"http.route": route, "trustwatch.request_id": scope.get(REQUEST_ID_KEY, "")})
            await send(message)

        with structlog.contextvars.bound_contextvars(trace_id=format(span.get_span_context().trace_id, "032x")):
            try:
                await self._app(scope, receive, send_named)
            except Exception as error:  # the middleware would record its message, which may hold names
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(self._trace.StatusCode.ERROR)
                span.end()
                raise
