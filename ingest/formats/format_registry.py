"""Formats by name: the values of `format` of a foreign topic, and the parser of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from ..errors import ConfigError, MalformedEvent
from . import otlp
from .cloudevents import parse_cloudevent
from .expressions import JmesPathExpression
from .format_presets import AUDIT_LOG_FORMATS, GATEWAY_FORMATS, SIGNS, Record, SignReader, read_preset
from .keycloak_events import ADMIN_KIND, KEYCLOAK_LOGGER, USER_KIND, unpack_keycloak_events
from .raw_records import (
    AGENTGATEWAY_SIGN,
    FormatParser,
    ParsedRecords,
    ParserBudget,
    RawRecord,
    decode_object,
    shipper_text,
    split_json,
    split_ndjson,
)
from .record_mapping import MappingParser, MappingSpec, RecordMapping, RecordUnpacker
from .wrapped_records import (
    enclosed_records,
    unpack_audit_log,
    unpack_gateway_log,
    unpack_hydra_log,
    unpack_observations,
    unpack_okta_log,
    unpack_workspace_activities,
)


def parse_native(value: bytes, _headers: Mapping[str, str], budget: ParserBudget | None = None, /) -> ParsedRecords:
    """A native event, or an array of them."""
    return _native_records(value, split_json, budget or ParserBudget())


def parse_ndjson(value: bytes, _headers: Mapping[str, str], budget: ParserBudget | None = None, /) -> ParsedRecords:
    """Native events, one per line."""
    return _native_records(value, split_ndjson, budget or ParserBudget())


def _native_records(value: bytes, split: Callable[[bytes, int], list[bytes]], budget: ParserBudget) -> ParsedRecords:
    raws = split(value, budget.open_value(value))
    budget.check_count(len(raws))
    return ParsedRecords([RawRecord(raw) for raw in raws])


MEDIA_TYPE_FORMATS: Mapping[str, FormatParser] = {
    "native": parse_native,
    "cloudevents": parse_cloudevent,
    "ndjson": parse_ndjson,
}
"""Formats that have no mapping; HTTP recognizes them by their media type."""

_KINDS: Mapping[str, tuple[RecordUnpacker, Mapping[str, str]]] = {
    "langfuse": (unpack_observations, {"": "langfuse"}),
    "okta": (unpack_okta_log, {"": "okta"}),
    "google-workspace": (unpack_workspace_activities, {"": "google-workspace"}),
    "keycloak": (unpack_keycloak_events, {USER_KIND: "keycloak", ADMIN_KIND: "keycloak-admin"}),
    "hydra": (unpack_hydra_log, {"": "hydra"}),
    "otlp": (otlp.unpack_export, otlp.OTLP_PRESETS),
}
"""Formats with a dedicated unpacker, and the preset of each kind of record that it gives."""

FORMATS = (*MEDIA_TYPE_FORMATS, "mapping", *GATEWAY_FORMATS, *AUDIT_LOG_FORMATS, "keycloak", "hydra", "otlp")

CONFIGURABLE_FORMATS = [name for name in FORMATS if name not in (*MEDIA_TYPE_FORMATS, "mapping")]
"""Formats whose own mapping the settings may change."""


def create_parser(name: str, spec: MappingSpec | None = None) -> FormatParser:
    """Create the parser of a format; *spec* is `mapping` of the settings. Raises ConfigError."""
    spec = spec or MappingSpec()
    if name not in FORMATS:
        raise ConfigError(f"no format `{name}`; one of {', '.join(FORMATS)}")
    if name == "mapping":
        return RecordMapping(spec)
    if spec.records:
        raise ConfigError(f"mapping `records`: it is for complete mappings; format `{name}` opens what it knows")
    if name in MEDIA_TYPE_FORMATS:
        if spec != MappingSpec():
            raise ConfigError(
                f"format `{name}` takes no `mapping`; it is for `mapping` and {', '.join(CONFIGURABLE_FORMATS)}"
            )
        return MEDIA_TYPE_FORMATS[name]
    if name in _KINDS:
        unpack, presets = _KINDS[name]
        merged = {kind: spec.merged_over(read_preset(of)) for kind, of in presets.items()}
        return MappingParser(unpack, {kind: RecordMapping(whole) for kind, whole in merged.items()})
    spec = spec.merged_over(read_preset(name))
    shows, names_agent = SIGNS[name], _agent_reader(spec)
    if name in GATEWAY_FORMATS:
        unpack = partial(unpack_gateway_log, shows=shows, names_agent=names_agent, logfmt=spec.logfmt)
    else:
        unpack = partial(unpack_audit_log, shows=shows, names_agent=names_agent)
    return MappingParser(unpack, {"": RecordMapping(spec)})


def _agent_reader(spec: MappingSpec) -> SignReader:
    """Return a reader of whether a record names an agent before it is unwrapped; True if types do not fit."""
    expression = JmesPathExpression(spec.members.get("agent.id") or "null")

    def names_agent(record: Record) -> bool:
        try:
            return bool(expression(record))
        except MalformedEvent:
            return True

    return names_agent


# The format of a record, recognized by its members.

MAX_SHOWN_MEMBERS = 8

ENVELOPED_FORMATS = (*AUDIT_LOG_FORMATS, *GATEWAY_FORMATS)
"""Formats whose parsers open what deliveries put around records."""

_SIGNS_OF_LINES = {"keycloak": f"[{KEYCLOAK_LOGGER}]", "agentgateway": AGENTGATEWAY_SIGN}


def record_format(raw: bytes) -> str | None:
    """Return the format of one record; None if it has the signs of no format."""
    if raw.lstrip()[:1] != b"{":
        return _line_format(raw.decode(errors="replace"))
    try:
        record = decode_object(raw)
        name = next((name for name, shows in SIGNS.items() if shows(record)), None)
        inner = [] if name else enclosed_records(record, lambda found: _enveloped_format(found) is not None)
        return name or (_enveloped_format(inner[0]) if inner else None) or _text_format(record)
    except MalformedEvent:
        return None


def _enveloped_format(record: Record) -> str | None:
    return next((name for name in ENVELOPED_FORMATS if SIGNS[name](record)), None)


def _text_format(record: Record) -> str | None:
    """Return the format of a line in a log shipper's record, if its parser reads such records."""
    text = shipper_text(record)
    if text is None or text.lstrip()[:1] != "{":
        return None if text is None else _line_format(text)
    inner = decode_object(text.encode(errors="surrogatepass"))
    name = next((name for name, shows in SIGNS.items() if shows(inner)), None)
    return name if name in ("keycloak", "hydra") else None


def _line_format(line: str) -> str | None:
    return next((name for name, sign in _SIGNS_OF_LINES.items() if sign in line), None)


def most_common_format(records: Iterable[bytes]) -> str | None:
    """Return the format of most records; None if no format is recognized."""
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
"""First columns of tables that cannot be read, and what to export instead."""


def export_advice(raw: bytes) -> str | None:
    """Return what to export instead if a record is of a portal's table that lacks required columns, else None."""
    try:
        names = decode_object(raw).keys()
    except MalformedEvent:
        return None
    return next((advice for columns, advice in _LOSSY_EXPORTS.items() if {*columns} <= names), None)


def describe_record(raw: bytes) -> str:
    """Describe a record for an operator who has to name its format: only names of members, never values."""
    if raw.lstrip()[:1] != b"{":
        return "a line of text"
    try:
        names = list(decode_object(raw))
    except MalformedEvent:
        return "no JSON"
    shown = ", ".join(f"`{name:.60}`" for name in names[:MAX_SHOWN_MEMBERS])
    return f"an object with {shown}{', …' if len(names) > MAX_SHOWN_MEMBERS else ''}" if names else "an empty object"
