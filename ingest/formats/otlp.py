"""OpenTelemetry: traces and logs as OTLP/JSON, the body of OTLP/HTTP or of a record of the collector's Kafka exporter.

The parser takes spans with attributes of generative AI, MCP or A2A, events of Ory Hydra on spans, and access logs of
agentgateway and Envoy. It skips everything else, and never reads the input and output of a model or tool.

A client of a collector can write any id into a span: all ids are self-asserted, unless the mapping of the source
removes `agent.self_asserted`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from ..extras import missing_packages
from .format_presets import read_preset
from .raw_records import MAX_REPEATED_BYTES, Enclosure, ParserBudget, Surroundings
from .record_mapping import UnpackedRecord

SPAN_KIND, HYDRA_KIND, AGENTGATEWAY_KIND, ENVOY_KIND = "span", "hydra", "agentgateway", "envoy"

AGENTGATEWAY_SCOPE = "agentgateway.access"
OTLP_SPAN_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
FAILED_STATUS_CODES = (2, "STATUS_CODE_ERROR")
_MAX_REPEATED_RESOURCE, _MAX_SCOPE_NAME = MAX_REPEATED_BYTES - 1024, 256
"""Largest resource that dead letters repeat, and longest name of a scope that they repeat, in bytes. They leave out a
longer name, which no known format has."""

MAX_VALUE_DEPTH = 16
"""Nested lists and objects in a value of an attribute; deeper ones are read as null."""

OTLP_PRESETS = {
    SPAN_KIND: "otlp-span",
    HYDRA_KIND: "otlp-hydra",
    AGENTGATEWAY_KIND: "otlp-agentgateway",
    ENVOY_KIND: "otlp-envoy",
}
HYDRA_EVENTS = frozenset(read_preset("otlp-hydra").values["type"])
"""Names of events on spans that are taken. The set also holds grant types, but no event has the name of one."""


class _OtlpAttribute(msgspec.Struct):
    key: str = ""
    value: Any = None


class _OtlpSpanEvent(msgspec.Struct):
    name: str = ""
    timeUnixNano: Any = 0
    attributes: list[_OtlpAttribute] = []


class _OtlpSpan(msgspec.Struct):
    traceId: str = ""
    spanId: str = ""
    name: str = ""
    kind: Any = 0
    startTimeUnixNano: Any = 0
    endTimeUnixNano: Any = 0
    attributes: list[_OtlpAttribute] = []
    events: list[_OtlpSpanEvent] = []
    status: dict[str, Any] | None = None


class _OtlpLogRecord(msgspec.Struct):
    timeUnixNano: Any = 0
    observedTimeUnixNano: Any = 0
    attributes: list[_OtlpAttribute] = []
    traceId: str = ""


class _OtlpResource(msgspec.Struct):
    attributes: list[_OtlpAttribute] = []


class _OtlpScope(msgspec.Struct):
    name: str = ""


class _OtlpScoped(msgspec.Struct):
    """Spans or log records of one scope."""

    scope: _OtlpScope | None = None
    spans: list[msgspec.Raw] = []
    logRecords: list[msgspec.Raw] = []


class _OtlpGroup(msgspec.Struct):
    """Spans or log records of one resource."""

    resource: _OtlpResource | None = None
    scopeSpans: list[_OtlpScoped] = []
    scopeLogs: list[_OtlpScoped] = []


class _OtlpExport(msgspec.Struct):
    resourceSpans: list[_OtlpGroup] | None = None
    resourceLogs: list[_OtlpGroup] | None = None


_INTEGER = re.compile(r"-?[0-9]{1,19}")
_body = msgspec.json.Decoder(_OtlpExport)
_span = msgspec.json.Decoder(_OtlpSpan)
_log = msgspec.json.Decoder(_OtlpLogRecord)


def unpack_export(value: bytes) -> Iterator[UnpackedRecord]:
    """Spans, events on spans and log records of an export request. Raises MalformedEvent."""
    body = decode_json(_body.decode, value)
    if body.resourceSpans is None and body.resourceLogs is None:
        raise MalformedEvent("no OTLP/JSON: neither `resourceSpans` nor `resourceLogs`")
    for traced in body.resourceSpans or ():
        resource = _Resource(traced.resource or _OtlpResource(), "resourceSpans", "scopeSpans")
        for spans in traced.scopeSpans:
            enclosure = resource.enclosure(spans.scope or _OtlpScope(), "spans")
            for raw in spans.spans:
                yield from _unpack_span(bytes(raw), resource.attributes, enclosure)
    for logged in body.resourceLogs or ():
        resource = _Resource(logged.resource or _OtlpResource(), "resourceLogs", "scopeLogs")
        for logs in logged.scopeLogs:
            scope = logs.scope or _OtlpScope()
            enclosure = resource.enclosure(scope, "logRecords")
            for raw in logs.logRecords:
                yield _unpack_log_record(bytes(raw), scope, enclosure)


class _Resource:
    """A resource of many records, which is decoded, encoded and hashed once."""

    def __init__(self, resource: _OtlpResource, member: str, scoped_member: str) -> None:
        self.attributes = _plain_attributes(resource.attributes)
        beginning, whole = f'{{"{member}":[{{"resource":'.encode(), msgspec.json.encode(resource)
        is_short = len(whole) <= _MAX_REPEATED_RESOURCE
        short = whole if is_short else msgspec.json.encode(_shortened(resource))
        scoped = f',"{scoped_member}":['.encode()
        self._surroundings = Surroundings((beginning, whole, scoped), (beginning, short, scoped), b"]}]}")

    def enclosure(self, scope: _OtlpScope, member: str) -> Enclosure:
        """Export request around records of a scope."""
        name = msgspec.json.encode(scope.name)
        name = name if len(name) <= _MAX_SCOPE_NAME else b'""'
        return Enclosure(self._surroundings, b'{"scope":{"name":%b},"%b":[' % (name, member.encode()), b"]}")


def _shortened(resource: _OtlpResource) -> _OtlpResource:
    """Keep the attributes that fit, in order; those that events are read from are short."""
    left = _MAX_REPEATED_RESOURCE
    kept = []
    for attribute in resource.attributes:
        size = len(msgspec.json.encode(attribute))
        if size <= left:
            left -= size
            kept.append(attribute)
    return _OtlpResource(kept)


def _unpack_span(raw: bytes, resource: dict[str, Any], enclosure: Enclosure) -> Iterator[UnpackedRecord]:
    """The span itself, and every event of Hydra on it."""
    try:
        span = decode_json(_span.decode, raw)
        attributes = _plain_attributes(span.attributes)
        record = _span_record(span, attributes, resource)
        hydra_records = [
            event_record
            for number, event in enumerate(span.events)
            if (event_record := _event_record(span, number, event))
        ]
    except MalformedEvent as error:
        yield UnpackedRecord(raw, MalformedEvent(f"span cannot be read: {error}"), enclosure=enclosure)
        return
    taken = any(name.startswith(("gen_ai.", "mcp.", "a2a.")) for name in attributes)
    if taken or not hydra_records:
        yield UnpackedRecord(raw, record if taken else None, SPAN_KIND, enclosure)
    for event_record in hydra_records:
        yield UnpackedRecord(raw, event_record, HYDRA_KIND, enclosure)


def _unpack_log_record(raw: bytes, scope: _OtlpScope, enclosure: Enclosure) -> UnpackedRecord:
    try:
        log = decode_json(_log.decode, raw)
        attributes = _plain_attributes(log.attributes)
        time = _nanoseconds(log.timeUnixNano) or _nanoseconds(log.observedTimeUnixNano)
    except MalformedEvent as error:
        return UnpackedRecord(raw, MalformedEvent(f"log record cannot be read: {error}"), enclosure=enclosure)
    if scope.name == AGENTGATEWAY_SCOPE:
        trace = {"trace.id": log.traceId} if log.traceId else {}
        return UnpackedRecord(raw, {**trace, **attributes, "time": time}, AGENTGATEWAY_KIND, enclosure)
    is_envoys = "start_time" in attributes and "response_code" in attributes
    return UnpackedRecord(raw, attributes if is_envoys else None, ENVOY_KIND, enclosure)


def _span_record(span: _OtlpSpan, attributes: dict[str, Any], resource: dict[str, Any]) -> dict[str, Any]:
    kind = str(span.kind).removeprefix("SPAN_KIND_")
    if isinstance(span.kind, int) and 0 <= span.kind < len(OTLP_SPAN_KINDS):
        kind = OTLP_SPAN_KINDS[span.kind]
    start, end = _nanoseconds(span.startTimeUnixNano), _nanoseconds(span.endTimeUnixNano)
    own = attributes.get("gen_ai.agent.id") or attributes.get("gen_ai.agent.name")
    # A client's span of this kind names the agent that is called, not the caller.
    asked = own if kind == "CLIENT" and attributes.get("gen_ai.operation.name") == "invoke_agent" else None
    service = None if kind == "SERVER" else resource.get("service.name")
    ours = attributes.get("client_id") or resource.get("client_id") or (None if asked else own)
    return {
        "id": f"{span.traceId}:{span.spanId}" if span.traceId and span.spanId else None,
        "time": start or end or None,
        "kind": kind,
        "name": span.name,
        "agent": ours or resource.get("gen_ai.agent.id") or service,
        "peer": asked,
        "outcome": attributes.get("error.type") or ("error" if _failed(span) else "success"),
        "duration_ms": (end - start) / 1e6 if end >= start > 0 else None,
        "trace_id": span.traceId,
        "attributes": attributes,
        "resource": resource,
    }


def _failed(span: _OtlpSpan) -> bool:
    return span.status is not None and span.status.get("code") in FAILED_STATUS_CODES


def _event_record(span: _OtlpSpan, number: int, event: _OtlpSpanEvent) -> dict[str, Any] | None:
    if event.name not in HYDRA_EVENTS:
        return None
    return {
        "id": f"{span.traceId}:{span.spanId}:{number}" if span.traceId and span.spanId else None,
        "name": event.name,
        "time": _nanoseconds(event.timeUnixNano) or _nanoseconds(span.startTimeUnixNano) or None,
        "trace_id": span.traceId,
        "failed": _failed(span),
        "attributes": _plain_attributes(event.attributes),
    }


def _nanoseconds(value: Any) -> int:
    """Read a 64-bit integer, which is text in OTLP/JSON; 0 if there is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**20:
        return value
    if value in (None, ""):
        return 0
    raise MalformedEvent("a time must be nanoseconds since 1970, as text or number")


def _plain_attributes(attributes: Sequence[_OtlpAttribute]) -> dict[str, Any]:
    return {attribute.key: _plain_value(attribute.value, 0) for attribute in attributes}


def _plain_value(value: Any, depth: int) -> Any:
    """An `AnyValue` without its wrapper."""
    if not isinstance(value, dict) or not value or depth > MAX_VALUE_DEPTH:
        return None
    kind, inner = next(iter(value.items()))
    if kind == "intValue":
        return int(inner) if isinstance(inner, str) and _INTEGER.fullmatch(inner) else inner
    if kind == "arrayValue":
        items = inner.get("values") if isinstance(inner, dict) else None
        return [_plain_value(item, depth + 1) for item in items] if isinstance(items, list) else []
    return inner if kind in ("stringValue", "boolValue", "doubleValue") else None


# OTLP as protobuf, the default of SDKs and servers, is converted to OTLP/JSON, so that one reader serves both. It needs
# the extra `otlp` (opentelemetry-proto), which is imported only when a body is read.


OtlpSignal = Literal["traces", "logs"]

_SIGNAL_NAMES: dict[OtlpSignal, tuple[str, str, str]] = {
    "traces": ("trace.v1.trace_service_pb2", "ExportTraceService", "rejected_spans"),
    "logs": ("logs.v1.logs_service_pb2", "ExportLogsService", "rejected_log_records"),
}
_MEMBER_NAMES: dict[OtlpSignal, tuple[tuple[str, str], ...]] = {
    "traces": (("resource_spans", "resourceSpans"), ("scope_spans", "scopeSpans"), ("spans", "spans")),
    "logs": (("resource_logs", "resourceLogs"), ("scope_logs", "scopeLogs"), ("log_records", "logRecords")),
}
"""Names of lists in protobuf and in JSON, from the outside to the records."""
MAX_MESSAGES = 1_000_000
"""Messages in one export request: resources, spans, attributes and their values."""

_BYTES_OR_MESSAGE, _FIXED_BYTES = 2, {1: 8, 5: 4}
"""Wire types: with a length, and of a fixed one. Groups, which OTLP does not have, are refused."""

_ID_MEMBERS = ("traceId", "spanId", "parentSpanId")


@cache
def protobuf_available() -> bool:
    """True if the extra `otlp` is installed."""
    return not missing_packages("otlp")


def protobuf_to_json(signal: OtlpSignal, body: bytes) -> bytes:
    """Convert an export request to OTLP/JSON, where ids are hexadecimal.

    Raises MalformedEvent.
    """
    decode_error = import_module("google.protobuf.message").DecodeError
    message = _new_message(signal, "Request")
    budget = ParserBudget()
    budget.open_value(body)
    try:
        _check_message_count(body, message.DESCRIPTOR)
        message.ParseFromString(body)
        request = _exported_groups(signal, message, budget)
    except (decode_error, ValueError, LookupError, RecursionError) as error:
        raise MalformedEvent(f"no OTLP protobuf of {signal}: {error}") from None
    made = msgspec.json.encode(request)
    budget.check_bytes(len(made))
    return made


def _exported_groups(signal: OtlpSignal, message: Any, budget: ParserBudget) -> dict[str, Any]:
    """The members of an export request that are read, record by record."""
    to_dict = import_module("google.protobuf.json_format").MessageToDict
    top, middle, inner = _MEMBER_NAMES[signal]
    groups = []
    for group in getattr(message, top[0]):
        scopes = []
        for scoped in getattr(group, middle[0]):
            records = []
            for record in getattr(scoped, inner[0]):
                made = to_dict(record)
                made.update({name: base64.b64decode(made[name]).hex() for name in _ID_MEMBERS if name in made})
                records.append(made)
                budget.count(None)
            scopes.append({"scope": to_dict(scoped.scope), inner[1]: records})
        groups.append({"resource": to_dict(group.resource), middle[1]: scopes})
    return {top[1]: groups}


def _check_message_count(body: bytes, descriptor: Any) -> None:
    """Raise MalformedEvent for too many messages: each takes some hundred bytes of memory, however short it is."""
    found, waiting = 0, [(0, len(body), descriptor)]
    while waiting:
        at, end, kind = waiting.pop()
        while at < end:
            key, at = _varint(body, at)
            if key & 7 == _BYTES_OR_MESSAGE:
                size, at = _varint(body, at)
                field = kind.fields_by_number.get(key >> 3)
                if field is not None and field.message_type is not None:
                    found += 1
                    waiting.append((at, at + size, field.message_type))
                at += size
            elif key & 7 == 0:
                at = _varint(body, at)[1]
            else:
                at += _FIXED_BYTES[key & 7]
            if found > MAX_MESSAGES:
                raise MalformedEvent(f"it holds more than {MAX_MESSAGES} messages: send fewer records at once")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number of protobuf and the position after it. Raises IndexError if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number has more than 10 bytes")


def protobuf_response(signal: OtlpSignal, rejected: int, message: str) -> bytes:
    """Return the answer to an export request; empty if nothing was rejected."""
    answer = _new_message(signal, "Response")
    if rejected:
        setattr(answer.partial_success, _SIGNAL_NAMES[signal][2], rejected)
        answer.partial_success.error_message = message
    return bytes(answer.SerializeToString())


def _new_message(signal: OtlpSignal, kind: str) -> Any:
    module, prefix, _ = _SIGNAL_NAMES[signal]
    return getattr(import_module(f"opentelemetry.proto.collector.{module}"), f"{prefix}{kind}")()
