"""CloudEvents 1.0 over HTTP (structured, binary, batch) and in Kafka records (structured, binary), with native events.

Identity: CloudEvents makes `source` + `id` of the envelope the identity of an event, and gateways retry and filter by
them. They therefore replace `id` and `source` of the event inside. `time` and `trace_id` (from the
extension `traceparent`) are used only if the event itself has none.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from .raw_records import ParsedRecords, ParserBudget, RawRecord, split_array

NATIVE_CLOUDEVENT_TYPE = "io.trustwatch.audit.v1"
SPEC_VERSION = "1.0"
CONTEXT_ATTRIBUTES = ("specversion", "type", "source", "id", "time", "traceparent")
"""Context attributes that are read in binary mode."""

_JSON_TYPE = re.compile(r"(application|text)/([\w.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_QUOTED_PAIR = re.compile(r"\\(.)")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class CloudEventEnvelope(msgspec.Struct):
    """Context attributes of one CloudEvent; `data` is raw JSON, empty where absent. Extensions are not read."""

    specversion: str | None = None
    type: str | None = None
    source: str | None = None
    id: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    traceparent: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


_envelope = msgspec.json.Decoder(CloudEventEnvelope)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_structured(raw: bytes) -> bytes:
    """Decode a CloudEvent in JSON format (`application/cloudevents+json`) to native JSON. Raises MalformedEvent."""
    envelope = decode_json(_envelope.decode, raw)
    _check_envelope(envelope)
    return _native_event(envelope, _envelope_data(envelope))


def decode_http_binary(headers: Mapping[str, str], body: bytes) -> bytes:
    """Decode a CloudEvent in HTTP binary mode, with attributes in `ce-*` headers, to native event JSON.

    Raises MalformedEvent.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    values = {
        name: _decode_header(name, lowered[f"ce-{name}"]) for name in CONTEXT_ATTRIBUTES if f"ce-{name}" in lowered
    }
    return decode_binary(values, lowered.get("content-type"), body)


def decode_binary(attributes: Mapping[str, str], content_type: str | None, body: bytes) -> bytes:
    """Decode a CloudEvent in binary mode with decoded attributes to native event JSON. Raises MalformedEvent."""
    values = {name: attributes[name] for name in CONTEXT_ATTRIBUTES if name in attributes}
    envelope = CloudEventEnvelope(datacontenttype=content_type, data=msgspec.Raw(body), **values)
    _check_envelope(envelope)
    return _native_event(envelope, _envelope_data(envelope))


def structured_record(raw: bytes) -> RawRecord:
    """A CloudEvent in JSON format."""
    return RawRecord(raw, lambda: decode_structured(raw), "$.data")


def parse_cloudevent(value: bytes, headers: Mapping[str, str], _budget: ParserBudget | None = None, /) -> ParsedRecords:
    """Parse the CloudEvent in a Kafka record: binary with `ce_` headers (not percent-encoded), else structured."""
    attributes = _binary_attributes(headers)
    if not attributes:
        return ParsedRecords([structured_record(value)])
    raw = binary_envelope(attributes, value)
    content_type = headers.get("content-type") or None
    return ParsedRecords([RawRecord(raw, lambda: decode_binary(attributes, content_type, value))])


def structured_value(value: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the value of a Kafka record; of a CloudEvent in binary mode its structured form."""
    attributes = _binary_attributes(headers)
    return binary_envelope(attributes, value) if attributes else value


def _binary_attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """Return context attributes in headers of a Kafka record; {} if it is not a CloudEvent in binary mode."""
    if headers.get("content-type", "").lower().startswith("application/cloudevents"):
        return {}
    return {name: headers[f"ce_{name}"] for name in CONTEXT_ATTRIBUTES if f"ce_{name}" in headers}


def binary_envelope(attributes: Mapping[str, str], body: bytes) -> bytes:
    """Convert a CloudEvent in binary mode to the structured form, since a dead letter would lose its headers."""
    return msgspec.json.encode({**attributes, "data_base64": base64.b64encode(body).decode()})


def split_batch(raw: bytes, most: int | None = None) -> list[bytes]:
    """Split a batch (`application/cloudevents-batch+json`) for `decode_structured`. Raises MalformedEvent."""
    return split_array(raw, "an array of CloudEvents", most)


def _decode_header(name: str, value: str) -> str:
    """Unquote a header value and percent-decode it once (HTTP binding, section 3.1.3.2)."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
    if _BAD_PERCENT.search(value):
        raise MalformedEvent(f"header `ce-{name}` is not percent-encoded", f"$.{name}")
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise MalformedEvent(f"header `ce-{name}` is not percent-encoded UTF-8", f"$.{name}") from None


def _check_envelope(envelope: CloudEventEnvelope) -> None:
    for name in ("specversion", "id", "source", "type"):
        if not getattr(envelope, name):
            raise MalformedEvent(f"required CloudEvents attribute `{name}` is missing or empty", f"$.{name}")
    if envelope.specversion != SPEC_VERSION:
        raise MalformedEvent(f"specversion must be `{SPEC_VERSION}`, is `{envelope.specversion}`", "$.specversion")
    if envelope.type != NATIVE_CLOUDEVENT_TYPE:
        raise MalformedEvent(f"type must be `{NATIVE_CLOUDEVENT_TYPE}`, is `{envelope.type}`", "$.type")
    content_type = envelope.datacontenttype
    if content_type is not None and not _JSON_TYPE.fullmatch(content_type.strip()):
        raise MalformedEvent(f"datacontenttype must be JSON, is `{content_type}`", "$.datacontenttype")


def _envelope_data(envelope: CloudEventEnvelope) -> bytes:
    data, encoded = bytes(envelope.data), envelope.data_base64
    if encoded is None:
        return data
    if data and data != b"null":
        raise MalformedEvent("data and data_base64 exclude each other", "$.data_base64")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvent(f"not base64: {error}", "$.data_base64") from None


def _native_event(envelope: CloudEventEnvelope, data: bytes) -> bytes:
    """Return the event inside, with the identity of the envelope and otherwise unchanged members."""
    path = "$.data" if envelope.data_base64 is None else "$.data_base64"
    if not data:
        raise MalformedEvent("data is missing; it must be a native event", path)
    try:
        members = _members.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"data is not a JSON object: {error}", path) from None
    members["id"] = _raw_json(envelope.id)
    members["source"] = _raw_json(envelope.source)
    if envelope.time and _is_absent(members, "time"):
        members["time"] = _raw_json(envelope.time)
    trace = _TRACEPARENT.fullmatch(envelope.traceparent or "")
    if trace and _is_absent(members, "trace_id"):
        members["trace_id"] = _raw_json(trace[1])
    return msgspec.json.encode(members)


def _raw_json(value: str | None) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _is_absent(members: dict[str, msgspec.Raw], name: str) -> bool:
    return name not in members or bytes(members[name]) == b"null"
