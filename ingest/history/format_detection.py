"""The format of records, told by what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..errors import MalformedEvent
from ..formats.format_presets import AUDIT_LOG_FORMATS, GATEWAY_FORMATS
from ..formats.format_signs import SIGNS, Record
from ..formats.keycloak_events import KEYCLOAK_LOGGER
from ..formats.log_lines import AGENTGATEWAY_SIGN, decode_object, shipper_text
from ..formats.wrapped_records import enclosed_records

MAX_SHOWN_MEMBERS = 8

ENVELOPED_FORMATS = (*AUDIT_LOG_FORMATS, *GATEWAY_FORMATS)
"""Formats whose parsers open what deliveries put around records."""

_SIGNS_OF_LINES = {"keycloak": f"[{KEYCLOAK_LOGGER}]", "agentgateway": AGENTGATEWAY_SIGN}


def record_format(raw: bytes) -> str | None:
    """The format of one record; None where nothing tells it."""
    if raw.lstrip()[:1] != b"{":
        return _line_format(raw.decode(errors="replace"))
    try:
        record = decode_object(raw)
        return _object_format(record) or _enclosed_format(record) or _text_format(record)
    except MalformedEvent:
        return None


def _object_format(record: Record) -> str | None:
    return next((name for name, shows in SIGNS.items() if shows(record)), None)


def _enclosed_format(record: dict[str, Any]) -> str | None:
    """The format of what is in an envelope, of those that open it."""
    inner = enclosed_records(record, lambda found: _enveloped_format(found) is not None)
    return _enveloped_format(inner[0]) if inner else None


def _enveloped_format(record: Record) -> str | None:
    return next((name for name in ENVELOPED_FORMATS if SIGNS[name](record)), None)


def _text_format(record: Record) -> str | None:
    """The format of a line in a log shipper's record, of those that read it."""
    text = shipper_text(record)
    if text is None or text.lstrip()[:1] != "{":
        return None if text is None else _line_format(text)
    name = _object_format(decode_object(text.encode(errors="surrogatepass")))
    return name if name in ("keycloak", "hydra") else None


def _line_format(line: str) -> str | None:
    return next((name for name, sign in _SIGNS_OF_LINES.items() if sign in line), None)


def most_common_format(records: Iterable[bytes]) -> str | None:
    """The format that most records show; None where none shows any."""
    counts = Counter(name for name in map(record_format, records) if name is not None)
    return counts.most_common(1)[0][0] if counts else None


_LOSSY_EXPORTS = {
    (
        "Event ID",
        "Event source",
    ): "CloudTrail's console leaves roles out of this table: take `aws cloudtrail lookup-events`",
    ("Date (UTC)", "Request ID"): "this table of the Entra portal names too little: download JSON there",
    ("TimeGenerated [UTC]",): "its times are written as one country does: take `az monitor log-analytics query`",
}
"""First columns of tables that can not be read, and what can be had in their place."""


def export_advice(raw: bytes) -> str | None:
    """Advice for whoever has a table of a portal that leaves out what is needed; None for every other record."""
    try:
        names = decode_object(raw).keys()
    except MalformedEvent:
        return None
    return next((advice for columns, advice in _LOSSY_EXPORTS.items() if {*columns} <= names), None)


def describe_record(raw: bytes) -> str:
    """A record in words, for somebody who has to say which format it is: names alone, never values."""
    if raw.lstrip()[:1] != b"{":
        return "a line of text"
    try:
        names = list(decode_object(raw))
    except MalformedEvent:
        return "no JSON"
    shown = ", ".join(f"`{name:.60}`" for name in names[:MAX_SHOWN_MEMBERS])
    return f"an object with {shown}{', …' if len(names) > MAX_SHOWN_MEMBERS else ''}" if names else "an empty object"
