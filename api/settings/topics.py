"""Foreign topics: gateways and authorization servers write there in their own formats, each topic with one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.formats import MappingSpec, Parser, parser_of
from ...ingest.formats.mapping import Anonymous
from ...ingest.formats.members import TimeFormat
from .about import Name, Part, Silence, about

Expression = Annotated[str, msgspec.Meta(max_length=4096)]
AtLeastTenth = Annotated[float, msgspec.Meta(ge=0.1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class MappingSettings(Part, frozen=True):
    """How a record becomes an audit event; what is given here wins over what the format says."""

    members: Annotated[
        Mapping[Name, Expression],
        about("JMESPath by event member (`agent.id`, `attributes.NAME`); a constant is `'text'`, empty removes it"),
    ] = {}
    values: Annotated[
        Mapping[Name, Mapping[str, str]],
        about("by member: what a value becomes; `4xx` is a class of HTTP status, `*` every other value"),
    ] = {}
    when: Annotated[Expression, about("JMESPath: records for which it gives nothing or false are skipped")] = ""
    anonymous: Annotated[Anonymous | None, about("what becomes of a record that names no agent; null is refuse")] = None
    time_format: Annotated[TimeFormat | None, about("of `time`: text, or a number since 1970; null is rfc3339")] = None
    logfmt: Annotated[bool, about("take lines of `key=value` pairs besides JSON")] = False

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


class KafkaTopicSettings(Part, frozen=True):
    """One foreign topic: a source of events, bound like a caller to what it may speak for."""

    topic: Annotated[TopicName, about("topic to read")]
    name: Annotated[Name, about("name of the source in logs, metrics and dead letters; no caller may have it")]
    format: Annotated[
        str,
        about(
            "`native`, `cloudevents`, `ndjson`, `envoy`, `agentgateway`, `kong`, `apisix`, `caddy`, `keycloak`, "
            "`hydra`, `otlp` or `mapping`"
        ),
    ]
    tenants: Annotated[tuple[Name, ...], about("tenants it may speak for; the only one is the default", min_length=1)]
    issuers: Annotated[tuple[Name, ...], about("agent issuers it may name; the only one is the default", min_length=1)]
    mapping: Annotated[MappingSettings, about("own mapping (`mapping`), or changes to that of a gateway")] = (
        MappingSettings()
    )
    sources: Annotated[tuple[Name, ...], about("glob patterns of the event `source` it may use")] = ()
    trusted: Annotated[bool, about("whether its word on an agent's type and capabilities counts")] = False
    events_per_s: Annotated[
        AtLeastTenth | None, about("events per second that are read; the rest waits in Kafka. null is no limit")
    ] = None
    silence_s: Annotated[
        Silence | None, about("it counts as silent after so long without a record, s; null is never")
    ] = None
    start: Annotated[Literal["earliest", "latest"], about("where reading begins the first time")] = "earliest"

    def __post_init__(self) -> None:
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def parser(self) -> Parser:
        """Takes its records apart. Raises ConfigError where format or mapping is wrong."""
        return parser_of(self.format, self.mapping.spec())
