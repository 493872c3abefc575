"""Sources of events: the claims that each may make, whichever way its events come."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.raw_records import FormatParser
from trustwatch.ingest.formats.record_mapping import MappingSpec, mapping_spec
from trustwatch.ingest.settings import Name, SettingsPart, setting

EventRate = Annotated[float, msgspec.Meta(gt=0)]
SilenceSeconds = Annotated[float, msgspec.Meta(ge=10)]


ANY_NAME: Final = "*"
"""In a list of names: all."""
SELF = "self"
"""In a list of agents: the client of the source's own token."""

MARKING_FORMATS = frozenset({"envoy", "agentgateway", "hydra", "keycloak"})
"""Formats that know our refusals by members which the gateway or authorization server alone writes."""


def only_name(names: Collection[str]) -> str | None:
    """The default of what an event does not name: the only name that there is, else None."""
    return next(iter(names)) if len(names) == 1 and ANY_NAME not in names else None


class EventSourceSettings(SettingsPart, frozen=True):
    """A source of events, and the claims that these may make. With a name alone: none."""

    name: Annotated[Name, setting("unique name in logs, metrics and dead letters")]
    tenants: Annotated[tuple[Name, ...], setting("tenants that it may query and send events for; `*` is all")] = ()
    issuers: Annotated[tuple[Name, ...], setting("issuers of agents in its events; `*` is all")] = ()
    sources: Annotated[tuple[Name, ...], setting("globs of `source` in its events")] = ()
    agents: Annotated[
        tuple[Name, ...] | None,
        setting(
            "globs of agent ids in its events; `self` is the client of its token; null is "
            "`[self]`, with `settings_version` 1 all"
        ),
    ] = None
    gateway: Annotated[
        bool | None,
        setting(
            "it authenticates agents; events of other callers are self-asserted; null is true "
            "unless `agents` has `self`"
        ),
    ] = None
    enforces: Annotated[
        bool | None,
        setting(
            "it enforces our verdicts, so it may set `caused_by`; null is true for gateways "
            "with `format` `envoy`, `agentgateway`, `hydra` or `keycloak`"
        ),
    ] = None
    trusted: Annotated[bool, setting("it may state an agent's type and capabilities")] = False
    events_per_s: Annotated[EventRate | None, setting("limit of events per second; null is none")] = None
    silence_s: Annotated[
        SilenceSeconds | None, setting("it counts as silent after so long without an event, s; null is never")
    ] = None
    format: Annotated[
        str, setting("what it sends to `/v1/events`: a format as of `kafka.topics`; `native` is as the media type says")
    ] = "native"
    mapping: Annotated[
        Mapping[str, Any],
        setting(
            "own mapping (`mapping`) or changes to that of `format`; see [mappings](../docs/ingest-topics.md#a-mapping)"
        ),
    ] = {}

    def __post_init__(self) -> None:
        if self.enforces and not self.is_gateway:
            raise ValueError("`enforces` is for gateways: its word on what we caused would hide what it does itself")
        if self.trusted and not self.is_gateway:
            raise ValueError(
                "`trusted` is for gateways: an agent would choose its own peer group; name the `agents` or leave it out"
            )
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def is_gateway(self) -> bool:
        """True if a token vouches for the agents that its events name."""
        return self.gateway if self.gateway is not None else SELF not in (self.agents or ())

    @property
    def may_mark(self) -> bool:
        """True if it may mark an event as caused by us."""
        return self.enforces if self.enforces is not None else self.is_gateway and self.format in MARKING_FORMATS

    def parser(self) -> FormatParser:
        """The parser of its records. Raises ConfigError where format or mapping is wrong."""
        return create_parser(self.format, self.own_mapping())

    def own_mapping(self) -> MappingSpec | None:
        """Its `mapping`, if it has one. Raises ConfigError."""
        return mapping_spec(self.mapping) if self.mapping else None

    @property
    def max_silence_s(self) -> float:
        """Seconds without an event after which it counts as silent; infinite where it never does."""
        return math.inf if self.silence_s is None else self.silence_s
