"""OTLP as protobuf, made into the OTLP/JSON that `otlp` reads: what SDKs and servers send unless told otherwise.

Needs the extra `otlp` (opentelemetry-proto). Without it nothing here is of use, and nothing is imported.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import msgspec

from ..errors import MalformedEvent

OtlpSignal = Literal["traces", "logs"]

_SIGNAL_NAMES: dict[OtlpSignal, tuple[str, str, str, str]] = {
    "traces": ("trace.v1.trace_service_pb2", "ExportTraceService", "rejected_spans", "resourceSpans"),
    "logs": ("logs.v1.logs_service_pb2", "ExportLogsService", "rejected_log_records", "resourceLogs"),
}
_ID_MEMBERS = ("traceId", "spanId", "parentSpanId")


@cache
def protobuf_available() -> bool:
    """Whether the extra is installed."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.proto") is not None


def protobuf_to_json(signal: OtlpSignal, body: bytes) -> bytes:
    """An export request as OTLP/JSON, where ids are hexadecimal.

    Raises:
        MalformedEvent: it is no such message.
    """
    decode_error = import_module("google.protobuf.message").DecodeError
    message = _new_message(signal, "Request")
    try:
        message.ParseFromString(body)
        request = import_module("google.protobuf.json_format").MessageToDict(message)
    except (decode_error, ValueError, RecursionError) as error:
        raise MalformedEvent(f"no OTLP protobuf of {signal}: {error}") from None
    request.setdefault(_SIGNAL_NAMES[signal][3], [])
    for record in _exported_records(request):
        record.update({name: base64.b64decode(record[name]).hex() for name in _ID_MEMBERS if name in record})
    return msgspec.json.encode(request)


def protobuf_response(signal: OtlpSignal, rejected: int, message: str) -> bytes:
    """The answer to an export request; no bytes at all where everything was taken."""
    answer = _new_message(signal, "Response")
    if rejected:
        setattr(answer.partial_success, _SIGNAL_NAMES[signal][2], rejected)
        answer.partial_success.error_message = message
    return bytes(answer.SerializeToString())


def _new_message(signal: OtlpSignal, kind: str) -> Any:
    module, prefix, _, _ = _SIGNAL_NAMES[signal]
    return getattr(import_module(f"opentelemetry.proto.collector.{module}"), f"{prefix}{kind}")()


def _exported_records(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for traced in request.get("resourceSpans", ()):
        for scoped in traced.get("scopeSpans", ()):
            yield from scoped.get("spans", ())
    for logged in request.get("resourceLogs", ()):
        for scoped in logged.get("scopeLogs", ()):
            yield from scoped.get("logRecords", ())
