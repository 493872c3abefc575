"""Records inside of what exports and deliveries put around them.

An export is an array, or one object with the records in one member (`Records` of AWS, `value` of Microsoft Graph,
`records` of Azure's event hubs, `items` of Kubernetes and Google, `logEvents` of CloudWatch, `data.events` of Okta's
hooks, `hits.hits` of Elasticsearch, pages of other APIs). A delivery may put each record into an
envelope: EventBridge into `detail`, Azure Monitor into `properties`, Auth0's streams into `data`, Splunk into `event`,
Elasticsearch into `_source`, Pub/Sub into `message.data`, log shippers into a text. Envelopes lie in each other.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from .format_presets import SIGNS, Record, SignReader
from .raw_records import (
    AGENTGATEWAY_SIGN,
    MAX_BODY_RECORDS,
    TEXT_MEMBERS,
    decode_logfmt,
    decode_object,
    shipper_text,
    split_array,
    split_records,
)
from .record_mapping import UnpackedRecord

_EXPORT_LISTS = ("Records", "records", "value", "items", "events", "logEvents")
WRAPPER_MEMBERS = (
    *_EXPORT_LISTS,
    *("Events", "hits", "data", "runs", "logs", "entries"),
)
"""Members of an object that hold records, if they are an array of objects."""

_PAGE_SIGNS = {
    "Events": b'"CloudTrailEvent"',
    "hits": b'"_source"',
    "data": b'"traceId"',
    "runs": b'"run_type"',
    "logs": b'"log_id"',
    "entries": b'"protoPayload"',
}
"""Names that records in a page of an API have: other programs call lists of other things so."""

EXPORT_MEMBERS = ("Records", "records", "value")
"""Those of them that only exports have: an empty one holds no record."""

MAX_ENVELOPES = 4
"""Maximum number of envelopes around one record; deeper ones stay as they are."""

MAX_REPEATED_MEMBERS = 256
"""Members of an object around several records, each of which is read together with them."""

_ENVELOPES = (("detail", "detail-type"), ("properties", "operationName"), ("data", "log_id"), ("_source", "_index"))
"""Members that hold a record, and a member that each has next to it."""

_SPLUNK_MEMBERS = {"event", "time", "host", "source", "sourcetype", "index", "fields"}
_WORKSPACE_ACTIVITY = ("actor", "id", "events")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode = msgspec.json.Decoder().decode


def unwrap_value(value: bytes, most: int | None = None) -> list[bytes]:
    """Elements of an array, or of the array in an object that wraps records; else the value itself.

    Raises MalformedEvent.
    """
    text = value.strip()
    if text[:1] == b"[":
        return split_array(text, most=most)
    if not any(name.encode() in text for name in WRAPPER_MEMBERS):
        return [text]
    wrapped = wrapped_array(decode_json(_members.decode, text))
    return [text] if wrapped is None else split_array(wrapped, most=most)


def wrapped_array(members: dict[str, msgspec.Raw]) -> bytes | None:
    """The array of records among the members of an object; None if it wraps nothing."""
    if _is_one_record(members):
        return None
    for name, inner in (("data", "events"), ("hits", "hits")):
        raw = bytes(members.get(name, b""))
        if raw[:1] == b"{" and f'"{inner}"'.encode() in raw:
            members = members | decode_json(_members.decode, raw)
    for name in WRAPPER_MEMBERS:
        raw = bytes(members.get(name, b"")).strip()
        if _PAGE_SIGNS.get(name, b"") not in raw:
            continue
        if raw[:1] == b"[" and raw[1:].lstrip()[:1] in (b"{", b"]" if name in EXPORT_MEMBERS else b"{"):
            return raw
    return None


def _is_one_record(members: dict[str, msgspec.Raw]) -> bool:
    """Return whether an object is a record although it may have a list of such a name.

    True for a native event, a CloudEvent, an activity of Google Workspace, and a run of LangSmith.
    """
    return (
        ("agent" in members and "action" in members)
        or "specversion" in members
        or ("run_type" in members and not members.keys().isdisjoint(("start_time", "trace_id")))
        or all(name in members for name in _WORKSPACE_ACTIVITY)
    )


def names_nobody(_record: Record) -> bool:
    """Default of what a parser knows of a record's agent."""
    return False


def unpack_audit_log(
    value: bytes, *, shows: SignReader, names_agent: SignReader = names_nobody
) -> Iterator[UnpackedRecord]:
    """Records of an audit log, each without its envelope."""
    for raw in unwrap_value(value, MAX_BODY_RECORDS):
        try:
            record = decode_object(raw)
            is_whole = shows(record) or names_agent(record)
            found = [record] if is_whole else enclosed_records(record, shows) or [record]
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield from (UnpackedRecord(raw, inner) for inner in found)


def unpack_gateway_log(
    value: bytes, *, shows: SignReader, names_agent: SignReader, logfmt: bool
) -> Iterator[UnpackedRecord]:
    """Unpack records or lines of a gateway's log; members inside an envelope win over those around it.

    Mappings can also read what a shipper adds, such as the name of a pod.
    """
    for raw in unwrap_value(value, MAX_BODY_RECORDS) if value.lstrip()[:1] in (b"{", b"[") else (value,):
        text = raw.lstrip()
        try:
            if logfmt and text[:1] != b"{":
                found: Iterable[dict[str, Any]] = [dict(decode_logfmt(text.decode(errors="replace")))]
            else:
                outer = decode_object(raw)
                is_whole = shows(outer) or names_agent(outer)
                found = [outer] if is_whole else _opened_gateway_records(outer, shows, logfmt)
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield from (UnpackedRecord(raw, record) for record in found)


def _opened_gateway_records(outer: dict[str, Any], shows: SignReader, logfmt: bool) -> Iterable[dict[str, Any]]:
    line = (shipper_text(outer) or "") if logfmt else ""
    if AGENTGATEWAY_SIGN in line and line.lstrip()[:1] != "{":
        return [{**outer, **decode_logfmt(line)}]
    inside = enclosed_records(outer, shows)
    check_surroundings(outer, len(inside))
    return ({**outer, **inner} for inner in inside) if inside else [outer]


def check_surroundings(outer: dict[str, Any], records: int) -> None:
    """Raise MalformedEvent if many members would be repeated with each of several records that an object holds."""
    if records > 1 and len(outer) > MAX_REPEATED_MEMBERS:
        raise MalformedEvent(
            f"an object around {records} records has {len(outer)} members, limit is {MAX_REPEATED_MEMBERS}: send the "
            "records one by one"
        )


def enclosed_records(record: dict[str, Any], shows: SignReader, depth: int = MAX_ENVELOPES) -> list[dict[str, Any]]:
    """Return the records that a delivery has put into envelopes; [] for a bare record.

    Records with the signs of a format are taken as they are. Raises MalformedEvent for broken JSON instead of a record.
    """
    inner = _enclosed_value(record) if depth else None
    if isinstance(inner, dict) and not shows(inner):
        lists = (inner.get(name) for name in _EXPORT_LISTS)
        listed = next((found for found in lists if isinstance(found, list)), None)
        if listed is None:
            return enclosed_records(inner, shows, depth - 1)
        inner = listed
    found: list[dict[str, Any]] = []
    for part in inner if isinstance(inner, list) else [inner]:
        if isinstance(part, dict):
            found += [part] if shows(part) else enclosed_records(part, shows, depth - 1)
    return found


def _enclosed_value(record: dict[str, Any]) -> Any:
    for member, sign in _ENVELOPES:
        inner = record.get(member)
        if sign in record and isinstance(inner, dict):
            return inner
    for text in (*(record.get(name) for name in TEXT_MEMBERS), *_carried_texts(record)):
        if isinstance(text, str) and text.lstrip()[:1] in ("{", "["):
            return decode_json(_decode, text.encode(errors="surrogatepass"))
    inner = record.get("event")
    return inner if isinstance(inner, dict) and record.keys() <= _SPLUNK_MEMBERS else None


def _carried_texts(record: dict[str, Any]) -> Iterator[Any]:
    """Records as text, as `lookup-events` of CloudTrail, Splunk, Elastic Agent and Pub/Sub carry them."""
    event, result, message = record.get("event"), record.get("result"), record.get("message")
    yield record.get("CloudTrailEvent")
    if record.keys() <= _SPLUNK_MEMBERS:
        yield event
    if isinstance(event, dict):
        yield event.get("original")
    if isinstance(result, dict):
        yield result.get("_raw")
    if isinstance(message, dict) and isinstance(message.get("data"), str):
        with contextlib.suppress(ValueError):
            yield base64.b64decode(message["data"], validate=True).decode()


# Neither LangSmith nor Langfuse has a member for the agent: the author of a trace names it in its metadata, or in the
# name of the project or trace. So ids are self-asserted, as those of OpenTelemetry spans.


def unpack_observations(value: bytes) -> Iterator[UnpackedRecord]:
    """Unpack observations; those inside a trace get the members that only the trace has."""
    for raw, record, kind, _ in unpack_audit_log(value, shows=SIGNS["langfuse"]):
        observations = record.get("observations") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(observations, list):
            yield UnpackedRecord(raw, record, kind)
            continue
        of_trace = {
            "traceName": record.get("name"),
            "userId": record.get("userId"),
            "sessionId": record.get("sessionId"),
        }
        for observation in observations:
            named = observation if isinstance(observation, dict) else {}
            yield UnpackedRecord(raw, {**of_trace, **named}, kind)


def unpack_workspace_activities(value: bytes) -> Iterator[UnpackedRecord]:
    """Unpack events of activities: an activity may hold several, whose parameters are a list of names and values."""
    for unpacked in unpack_audit_log(value, shows=SIGNS["google-workspace"]):
        raw, record = unpacked.raw, unpacked.record
        events = record.get("events") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(events, list):
            yield unpacked
            continue
        try:
            check_surroundings(record, len(events))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
            continue
        if not events:
            yield UnpackedRecord(raw, None)
        for number, event in enumerate(events):
            named = event if isinstance(event, dict) else {}
            parameters = _parameter_values(named.get("parameters"))
            yield UnpackedRecord(raw, {**record, "event": named, "number": str(number), "parameters": parameters})


def _parameter_values(parameters: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for parameter in parameters if isinstance(parameters, list) else ():
        if isinstance(parameter, dict) and isinstance(parameter.get("name"), str):
            given = (parameter.get(member) for member in ("value", "intValue", "boolValue", "multiValue"))
            values[parameter["name"]] = next((value for value in given if value is not None), None)
    return values


_UNDERSCORE = re.compile(r"_([a-z0-9])")
_TARGET = re.compile(r"target(\d{1,3})")


def unpack_okta_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Events of the log; rows of the table as events of the API."""
    for raw, record, kind, _ in unpack_audit_log(value, shows=SIGNS["okta"]):
        is_row = isinstance(record, dict) and "event_type" in record and "eventType" not in record
        if is_row:
            event: dict[str, Any] = _renamed(record)
            event.setdefault("published", event.get("timestamp"))
            numbers = sorted(int(match[1]) for name in event if (match := _TARGET.fullmatch(name)))
            targets = [event[f"target{number}"] for number in numbers]
            record = {**event, "target": [target for target in targets if isinstance(target, dict)]}
        yield UnpackedRecord(raw, record, kind)


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_UNDERSCORE.sub(lambda match: match[1].upper(), name): _renamed(part) for name, part in value.items()}
    return value


def unpack_hydra_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Lines of the log, or a log shipper's records of them. Lines that are not JSON, such as the banner, are skipped.

    The log of a failed token request is two lines: one with the error, one of the request with its status. The first
    is taken, and of successes the second. The log names no client, so lines become events only if a mapping names the
    caller (`agent.id`), for example from a header that the proxy in front of Hydra sets.
    """
    for raw in split_records(value):
        if raw.lstrip()[:1] != b"{":
            yield UnpackedRecord(raw, None)
            continue
        try:
            record = decode_object(raw)
            text = None if "http_request" in record else shipper_text(record)
            if text is not None and text.lstrip()[:1] == "{":
                record = decode_object(text.encode(errors="surrogatepass"))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield UnpackedRecord(raw, record)
