"""Records inside of what exports and deliveries put around them.

An export is an array, or one object with the records in one member (`Records` of AWS, `value` of Microsoft Graph,
`records` of Azure's event hubs, `items` of Kubernetes, `logEvents` of CloudWatch, `data.events` of Okta's hooks). A
delivery may put each record into an envelope: EventBridge into `detail`, Azure Monitor into `properties`, log shippers
into a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import MalformedEvent
from ..events import decode_json
from .log_lines import decode_object, shipper_text
from .raw_records import split_array
from .record_mapping import UnpackedRecord

WRAPPER_MEMBERS = ("Records", "records", "value", "items", "events", "logEvents")
"""Members of an object that hold records, if they are an array of objects."""

EXPORT_MEMBERS = ("Records", "records", "value")
"""Those of them that only exports have: an empty one holds no record."""

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
    if "agent" in members and "action" in members:  # a native event, whatever else it has
        return None
    data = bytes(members.get("data", b""))
    if data[:1] == b"{" and b'"events"' in data:
        members = members | {"events": _members.decode(data).get("events", msgspec.Raw())}
    for name in WRAPPER_MEMBERS:
        raw = bytes(members.get(name, b"")).strip()
        if raw[:1] == b"[" and raw[1:].lstrip()[:1] in (b"{", b"]" if name in EXPORT_MEMBERS else b"{"):
            return raw
    return None


def unpack_audit_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Records of an audit log, each without its envelope."""
    for raw in unwrap_value(value):
        try:
            record = without_envelope(decode_object(raw))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield UnpackedRecord(raw, record)


def without_envelope(record: dict[str, Any]) -> dict[str, Any]:
    """The record that a delivery has put into another one; else itself. Raises MalformedEvent: broken JSON as text."""
    for member, sign in (("detail", "detail-type"), ("properties", "operationName")):
        inner = record.get(member)
        if sign in record and isinstance(inner, dict):
            return inner
    text = shipper_text(record)
    if text is not None and text.lstrip()[:1] == "{":
        return decode_object(text.encode(errors="surrogatepass"))
    return record
