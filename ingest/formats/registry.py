"""Formats by name: what `format` of a foreign topic may be, and the parser of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import ConfigError
from . import cloudevents, mapping
from .bodies import split_json, split_ndjson
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
            raise ConfigError(f"format `{name}` takes no `mapping`; it is for `mapping` and {', '.join(PRESETS)}")
        return parser

    return make


def _preset(base: MappingSpec) -> Maker:
    return lambda spec: mapping.Mapping(spec.over(base))


FORMATS: Mapping[str, Maker] = {
    "native": _fixed("native", parse_native),
    "cloudevents": _fixed("cloudevents", cloudevents.parse_kafka),
    "ndjson": _fixed("ndjson", parse_ndjson),
    "mapping": mapping.Mapping,
    **{name: _preset(base) for name, base in PRESETS.items()},
}


def parser_of(name: str, spec: MappingSpec | None = None) -> Parser:
    """The parser of a format.

    Raises:
        ConfigError: there is no such format, or its mapping is wrong.
    """
    maker = FORMATS.get(name)
    if maker is None:
        raise ConfigError(f"no format `{name}`; one of {', '.join(FORMATS)}")
    return maker(spec or MappingSpec())
