"""A collector of traces: takes OTLP over HTTP as published, and keeps the spans."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from .endpoint import Endpoint


class CollectedSpan(NamedTuple):
    """One span, with what its process says of itself."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class TraceCollector(Endpoint):
    """Receiver on loopback. `statuses` answers the next requests so, then all with 200."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.statuses: list[int] = []
        super().__init__(self._take)

    def _take(self, request: Endpoint.Request) -> Endpoint.Answer:
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.keep(*request[1:])
        return status, {"content-type": "application/x-protobuf"}, ExportTraceServiceResponse().SerializeToString()

    def keep(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.paths.append(path)
        self.headers.append(headers)
        self.bodies.append(body)
        for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(of_process.resource.attributes)
            for scope in of_process.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        CollectedSpan(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.kind,
                            span.status.code == span.status.STATUS_CODE_ERROR,
                            _values(span.attributes),
                            resource,
                        )
                    )

    def named(self, name: str) -> list[CollectedSpan]:
        return [span for span in self.spans if span.name == name]

    def of_trace(self, trace_id: str) -> list[CollectedSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait(self, until: Callable[[], Any], within_s: float = 60.0) -> Any:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := until():
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {within_s} s; there are {sorted({span.name for span in self.spans})}")


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
