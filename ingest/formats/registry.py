"""Formats by name: what `format` of a foreign topic may be, and the parser of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import ConfigError
from . import cloudevents, hydra, keycloak, mapping, otlp
from .bodies import split_json, split_ndjson
from .family import Family, Unpack
from .mapping import MappingSpec
from .parcel import Parcel, Parsed, Parser
from .presets import PRESETS

Maker = Callable[[MappingSpec], Parser]
"""Makes a parser; given what the settings say under `mapping`."""


def parse_native(value: bytes, _headers: Mapping[str, str]) -> Parsed:
    """A native event, or an array of them."""
    return Parsed([Parcel(raw) for raw in split_json(value)])


def parse_ndjson(value: bytes, _headers: Mapping[str, str]) -> Parsed:
    """Native events, one per line."""
    return Parsed([Parcel(raw) for raw in split_ndjson(value)])


def _fixed(name: str, parser: Parser) -> Maker:
    def make(spec: MappingSpec) -> Parser:
        if spec != MappingSpec():
            raise ConfigError(f"format `{name}` takes no `mapping`; it is for `mapping` and {', '.join(MAPPED)}")
        return parser

    return make


def _preset(base: MappingSpec) -> Maker:
    return lambda spec: mapping.Mapping(spec.over(base))


def _family(unpack: Unpack, bases: Mapping[str, MappingSpec]) -> Maker:
    """What the settings say holds for every kind of record that has such a member."""
    return lambda spec: Family(unpack, {kind: spec.over(base) for kind, base in bases.items()})


FORMATS: Mapping[str, Maker] = {
    "native": _fixed("native", parse_native),
    "cloudevents": _fixed("cloudevents", cloudevents.parse_kafka),
    "ndjson": _fixed("ndjson", parse_ndjson),
    "mapping": mapping.Mapping,
    **{name: _preset(base) for name, base in PRESETS.items()},
    "keycloak": _family(keycloak.unpack, keycloak.SPECS),
    "hydra": _family(hydra.unpack, {"log": hydra.LOG}),
    "otlp": _family(otlp.unpack, otlp.SPECS),
}

MAPPED = [name for name in FORMATS if name not in ("native", "cloudevents", "ndjson", "mapping")]
"""Formats that have a mapping of their own, which settings may change."""


def parser_of(name: str, spec: MappingSpec | None = None) -> Parser:
    """The parser of a format.

    Raises:
        ConfigError: there is no such format, or its mapping is wrong.
    """
    maker = FORMATS.get(name)
    if maker is None:
        raise ConfigError(f"no format `{name}`; one of {', '.join(FORMATS)}")
    return maker(spec or MappingSpec())
