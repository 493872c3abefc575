"""Sources of events: the claims that each may make, whichever way its events come."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.formats.format_registry import create_parser
from ...ingest.formats.raw_records import FormatParser
from ...ingest.formats.record_mapping import MappingSpec
from ...ingest.settings import Name, SettingsPart, setting

EventRate = Annotated[float, msgspec.Meta(gt=0)]
SilenceSeconds = Annotated[float, msgspec.Meta(ge=10)]


class EventSourceSettings(SettingsPart, frozen=True):
    """A source of events, and the claims that these may make. With a name alone: none."""

    name: Annotated[Name, setting("name of the source in logs, metrics and dead letters; no other source has it")]
    tenants: Annotated[tuple[Name, ...], setting("tenants it may ask about and speak for; `*` is all")] = ()
    issuers: Annotated[tuple[Name, ...], setting("agent issuers its events may name; `*` is all")] = ()
    sources: Annotated[tuple[Name, ...], setting("glob patterns of the event `source` it may use")] = ()
    trusted: Annotated[bool, setting("whether its word on an agent's type and capabilities counts")] = False
    events_per_s: Annotated[EventRate | None, setting("events per second it may send; null is no limit of its own")] = (
        None
    )
    silence_s: Annotated[
        SilenceSeconds | None, setting("it counts as silent after so long without an event, s; null is never")
    ] = None
    format: Annotated[
        str, setting("what it sends to `/v1/events`: a format as of `kafka.topics`; `native` is as the media type says")
    ] = "native"
    mapping: Annotated[MappingSpec, setting("own mapping (`mapping`), or changes to that of its `format`")] = (
        MappingSpec()
    )

    def __post_init__(self) -> None:
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def parser(self) -> FormatParser:
        """The parser of its records. Raises ConfigError where format or mapping is wrong."""
        return create_parser(self.format, self.mapping)

    @property
    def max_silence_s(self) -> float:
        """Seconds without an event after which it counts as silent; infinite where it never does."""
        return math.inf if self.silence_s is None else self.silence_s
