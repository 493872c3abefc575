"""Foreign topics: gateways and authorization servers write there in their own formats, each topic with one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.formats import FormatParser, MappingSpec, create_parser
from ...ingest.formats.mapping import AnonymousPolicy
from ...ingest.formats.members import TimeFormat
from .about import Name, SettingsPart, SilenceSeconds, setting

MappingExpression = Annotated[str, msgspec.Meta(max_length=4096)]
TopicEventRate = Annotated[float, msgspec.Meta(ge=0.1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class MappingSettings(SettingsPart, frozen=True):
    """How a record becomes an audit event; what is given here wins over what the format says."""

    members: Annotated[
        Mapping[Name, MappingExpression],
        setting("JMESPath by event member (`agent.id`, `attributes.NAME`); a constant is `'text'`, empty removes it"),
    ] = {}
    values: Annotated[
        Mapping[Name, Mapping[str, str]],
        setting("by member: what a value becomes; `4xx` is a class of HTTP status, `*` every other value"),
    ] = {}
    when: Annotated[MappingExpression, setting("JMESPath: records for which it gives nothing or false are skipped")] = (
        ""
    )
    anonymous: Annotated[
        AnonymousPolicy | None, setting("what becomes of a record that names no agent; null is refuse")
    ] = None
    time_format: Annotated[TimeFormat | None, setting("of `time`: text, or a number since 1970; null is rfc3339")] = (
        None
    )
    logfmt: Annotated[bool, setting("take lines of `key=value` pairs besides JSON")] = False

    def spec(self) -> MappingSpec:
        """The same for `trustwatch.ingest.formats`."""
        return MappingSpec(
            members=self.members,
            values=self.values,
            when=self.when,
            anonymous=self.anonymous,
            time_format=self.time_format,
            encoding="logfmt" if self.logfmt else None,
        )


class ForeignTopicSettings(SettingsPart, frozen=True):
    """One foreign topic: a source of events, bound like a caller to what it may speak for."""

    topic: Annotated[TopicName, setting("topic to read")]
    name: Annotated[Name, setting("name of the source in logs, metrics and dead letters; no caller may have it")]
    format: Annotated[
        str,
        setting(
            "`native`, `cloudevents`, `ndjson`, `envoy`, `agentgateway`, `kong`, `apisix`, `caddy`, `keycloak`, "
            "`hydra`, `otlp` or `mapping`"
        ),
    ]
    tenants: Annotated[tuple[Name, ...], setting("tenants it may speak for; the only one is the default", min_length=1)]
    issuers: Annotated[
        tuple[Name, ...], setting("agent issuers it may name; the only one is the default", min_length=1)
    ]
    mapping: Annotated[MappingSettings, setting("own mapping (`mapping`), or changes to that of a gateway")] = (
        MappingSettings()
    )
    sources: Annotated[tuple[Name, ...], setting("glob patterns of the event `source` it may use")] = ()
    trusted: Annotated[bool, setting("whether its word on an agent's type and capabilities counts")] = False
    events_per_s: Annotated[
        TopicEventRate | None, setting("events per second that are read; the rest waits in Kafka. null is no limit")
    ] = None
    silence_s: Annotated[
        SilenceSeconds | None, setting("it counts as silent after so long without a record, s; null is never")
    ] = None
    start: Annotated[Literal["earliest", "latest"], setting("where reading begins the first time")] = "earliest"

    def __post_init__(self) -> None:
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def parser(self) -> FormatParser:
        """Takes its records apart. Raises ConfigError where format or mapping is wrong."""
        return create_parser(self.format, self.mapping.spec())
