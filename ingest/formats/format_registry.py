"""Formats by name: the values of `format` of a foreign topic, and the parser of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..errors import ConfigError, MalformedEvent
from . import cloudevents, hydra_events, keycloak_events, otlp, record_mapping
from .expressions import JmesPathExpression
from .format_presets import AUDIT_LOG_FORMATS, GATEWAY_FORMATS, read_preset
from .format_signs import SIGNS, Record, SignReader
from .raw_records import FormatParser, ParsedRecords, ParserBudget, RawRecord, split_json, split_ndjson
from .record_mapping import MappingSpec, MultiKindParser, RecordUnpacker
from .wrapped_records import (
    unpack_audit_log,
    unpack_gateway_log,
    unpack_observations,
    unpack_okta_log,
    unpack_workspace_activities,
)

ParserFactory = Callable[[MappingSpec], FormatParser]
"""Makes a parser; given what the settings say under `mapping`."""


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


def _fixed_factory(name: str, parser: FormatParser) -> ParserFactory:
    def make(spec: MappingSpec) -> FormatParser:
        if spec != MappingSpec():
            raise ConfigError(
                f"format `{name}` takes no `mapping`; it is for `mapping` and {', '.join(CONFIGURABLE_FORMATS)}"
            )
        return parser

    return make


def _log_factory(name: str) -> ParserFactory:
    def make(spec: MappingSpec) -> FormatParser:
        merged = spec.merged_over(read_preset(name))
        shows, names_agent = SIGNS[name], _agent_reader(merged)
        if name in GATEWAY_FORMATS:
            unpack = partial(unpack_gateway_log, shows=shows, names_agent=names_agent, logfmt=merged.logfmt)
        else:
            unpack = partial(unpack_audit_log, shows=shows, names_agent=names_agent)
        return MultiKindParser(unpack, {"": merged})

    return make


def _agent_reader(spec: MappingSpec) -> SignReader:
    """Reader that tells if a record as it came names an agent by a mapping; one of wrong types may."""
    expression = JmesPathExpression(spec.members.get("agent.id") or "null")

    def names_agent(record: Record) -> bool:
        try:
            return bool(expression(record))
        except MalformedEvent:
            return True

    return names_agent


def _preset_factory(name: str, unpack: RecordUnpacker) -> ParserFactory:
    return lambda spec: MultiKindParser(unpack, {"": spec.merged_over(read_preset(name))})


def _multi_kind_factory(unpack: RecordUnpacker, bases: Mapping[str, MappingSpec]) -> ParserFactory:
    """Make parsers of a multi-kind format; each setting applies to every kind of record that has such a member."""
    return lambda spec: MultiKindParser(unpack, {kind: spec.merged_over(base) for kind, base in bases.items()})


FORMATS: Mapping[str, ParserFactory] = {
    "native": _fixed_factory("native", parse_native),
    "cloudevents": _fixed_factory("cloudevents", cloudevents.parse_cloudevent),
    "ndjson": _fixed_factory("ndjson", parse_ndjson),
    "mapping": record_mapping.RecordMapping,
    **{name: _log_factory(name) for name in (*GATEWAY_FORMATS, *AUDIT_LOG_FORMATS)},
    "langfuse": _preset_factory("langfuse", unpack_observations),
    "okta": _preset_factory("okta", unpack_okta_log),
    "google-workspace": _preset_factory("google-workspace", unpack_workspace_activities),
    "keycloak": _multi_kind_factory(keycloak_events.unpack_keycloak_events, keycloak_events.KEYCLOAK_MAPPINGS),
    "hydra": _multi_kind_factory(hydra_events.unpack_hydra_log, {"log": hydra_events.HYDRA_LOG_MAPPING}),
    "otlp": _multi_kind_factory(otlp.unpack_export, otlp.OTLP_MAPPINGS),
}

CONFIGURABLE_FORMATS = [name for name in FORMATS if name not in ("native", "cloudevents", "ndjson", "mapping")]
"""Formats that have a mapping of their own, which settings may change."""


def create_parser(name: str, spec: MappingSpec | None = None) -> FormatParser:
    """The parser of a format. Raises ConfigError."""
    maker = FORMATS.get(name)
    if maker is None:
        raise ConfigError(f"no format `{name}`; one of {', '.join(FORMATS)}")
    if spec is not None and spec.records and name != "mapping":
        raise ConfigError(f"mapping `records`: it is for complete mappings; format `{name}` opens what it knows")
    return maker(spec or MappingSpec())
