"""Records inside of what exports and deliveries put around them.

An export is an array, or one object with the records in one member (`Records` of AWS, `value` of Microsoft Graph,
`records` of Azure's event hubs, `items` of Kubernetes and Google, `logEvents` of CloudWatch, `data.events` of Okta's
hooks, `hits.hits` of Elasticsearch, `data` of Langfuse, `runs` of LangSmith). A delivery may put each record into an
envelope: EventBridge into `detail`, Azure Monitor into `properties`, Auth0's streams into `data`, Splunk into `event`,
Elasticsearch into `_source`, Pub/Sub into `message.data`, log shippers into a text. Envelopes lie in each other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from .log_lines import AGENTGATEWAY_SIGN, decode_logfmt, decode_object, shipper_text
from .raw_records import split_array
from .record_mapping import UnpackedRecord

WRAPPER_MEMBERS = (
    *("Records", "records", "value", "items", "events", "logEvents", "Events"),
    *("hits", "data", "runs", "observations", "logs", "entries"),
)
"""Members of an object that hold records, if they are an array of objects; the last ones in a page of an API alone."""

_PAGES = {
    "hits": {"total", "max_score"},
    "data": {"meta", "links", "object", "has_more", "cursor", "next", "total", "pagination"},
    "logs": {"start", "limit", "length", "total"},
    "entries": {"nextPageToken"},
    "runs": {"cursors", "parsed_query", "search_cursors"},
    "observations": {"trace", "scores", "id", "name", "timestamp", "metadata"},
}
"""Members of which a page has one, beside those that hold records: other programs call other things so."""

EXPORT_MEMBERS = ("Records", "records", "value")
"""Those of them that only exports have: an empty one holds no record."""

MAX_ENVELOPES = 4
"""Envelopes around one record; what lies deeper stays as it is."""

_ENVELOPES = (("detail", "detail-type"), ("properties", "operationName"), ("data", "log_id"), ("_source", "_index"))
"""Members that hold a record, and what stands beside each."""

_SPLUNK_MEMBERS = {"event", "time", "host", "source", "sourcetype", "index", "fields"}
_WORKSPACE_ACTIVITY = ("actor", "id", "events")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def unwrap_value(value: bytes) -> list[bytes]:
    """Elements of an array, or of the array in an object that wraps records; else the value itself.

    Raises:
        MalformedEvent: it is no JSON.
    """
    text = value.strip()
    if text[:1] == b"[":
        return split_array(text)
    if not any(name.encode() in text for name in WRAPPER_MEMBERS):
        return [text]
    wrapped = wrapped_array(decode_json(_members.decode, text))
    return [text] if wrapped is None else split_array(wrapped)


def wrapped_array(members: dict[str, msgspec.Raw]) -> bytes | None:
    """The array of records among the members of an object; None where it wraps nothing."""
    if _is_one_record(members):
        return None
    for name, inner in (("data", "events"), ("hits", "hits")):
        raw = bytes(members.get(name, b""))
        if raw[:1] == b"{" and f'"{inner}"'.encode() in raw:
            members = members | _members.decode(raw)
    for name in WRAPPER_MEMBERS:
        raw = bytes(members.get(name, b"")).strip()
        if name in _PAGES and len(members) > 1 and not _PAGES[name] & members.keys():
            continue
        if raw[:1] == b"[" and raw[1:].lstrip()[:1] in (b"{", b"]" if name in EXPORT_MEMBERS else b"{"):
            return raw
    return None


def _is_one_record(members: dict[str, msgspec.Raw]) -> bool:
    """True for what has a list of objects of such a name and wraps nothing.

    A native event, a CloudEvent, and an activity of Google Workspace.
    """
    return (
        ("agent" in members and "action" in members)
        or "specversion" in members
        or all(name in members for name in _WORKSPACE_ACTIVITY)
    )


def unpack_audit_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Records of an audit log, each without its envelope."""
    for raw in unwrap_value(value):
        try:
            record = without_envelope(decode_object(raw))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield UnpackedRecord(raw, record)


def unpack_gateway_log(value: bytes, *, logfmt: bool) -> Iterator[UnpackedRecord]:
    """Records of a gateway's log, or lines of it, each with what is in its envelope over what is around it.

    What a shipper adds stays to be read, such as the name of a pod.

    Args:
        value: a record, an array, an object that wraps records, or a line.
        logfmt: whether the gateway writes lines of `key=value` pairs.
    """
    for raw in unwrap_value(value) if value.lstrip()[:1] in (b"{", b"[") else (value,):
        try:
            yield UnpackedRecord(raw, _gateway_record(raw, logfmt))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)


def _gateway_record(raw: bytes, logfmt: bool) -> dict[str, Any]:
    text = raw.lstrip()
    if logfmt and text[:1] != b"{":
        return dict(decode_logfmt(text.decode(errors="replace")))
    outer = decode_object(raw)
    line = (shipper_text(outer) or "") if logfmt else ""
    inner = decode_logfmt(line) if AGENTGATEWAY_SIGN in line else without_envelope(outer)
    return outer if inner is outer else {**outer, **inner}


def without_envelope(record: dict[str, Any]) -> dict[str, Any]:
    """The record that a delivery has put into others; else itself. Raises MalformedEvent: broken JSON as text."""
    for _ in range(MAX_ENVELOPES):
        inner = _enclosed(record)
        if inner is None:
            break
        record = inner
    return record


def _enclosed(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record in an envelope; None where it is none."""
    for member, sign in _ENVELOPES:
        inner = record.get(member)
        if sign in record and isinstance(inner, dict):
            return inner
    text = shipper_text(record) or _carried_text(record)
    if text is not None and text.lstrip()[:1] == "{":
        return decode_object(text.encode(errors="surrogatepass"))
    inner = record.get("event")
    return inner if isinstance(inner, dict) and record.keys() <= _SPLUNK_MEMBERS else None


def _carried_text(record: dict[str, Any]) -> str | None:
    """The record as text, as `lookup-events` of CloudTrail, Splunk, Elastic Agent and Pub/Sub carry it."""
    event, result, message = record.get("event"), record.get("result"), record.get("message")
    if isinstance(record.get("CloudTrailEvent"), str):
        return str(record["CloudTrailEvent"])
    if isinstance(event, str) and record.keys() <= _SPLUNK_MEMBERS:
        return event
    if isinstance(event, dict) and isinstance(event.get("original"), str):
        return str(event["original"])
    if isinstance(result, dict) and isinstance(result.get("_raw"), str):
        return str(result["_raw"])
    if isinstance(message, dict) and isinstance(message.get("data"), str):
        return _base64_text(message["data"])
    return None


def _base64_text(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
