"""Settings of foreign topics, each with one mapping."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.formats.format_registry import FORMATS
from trustwatch.ingest.settings import Name, setting

from .event_source_settings import SELF, EventSourceSettings

TopicEventRate = Annotated[float, msgspec.Meta(ge=0.1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class ForeignTopicSettings(EventSourceSettings, frozen=True, kw_only=True):
    """One foreign topic: a source of events that must say what it may speak for, and in which format."""

    topic: Annotated[TopicName, setting("topic to read", before="name")]
    format: Annotated[
        str,
        setting(f"one of {', '.join(f'`{name}`' for name in FORMATS)}", after="name"),
    ]
    tenants: Annotated[
        tuple[Name, ...], setting("tenants of its events; a single one is the default", after="name", min_length=1)
    ]
    issuers: Annotated[
        tuple[Name, ...],
        setting("issuers of its agents; a single one is the default", after="tenants", min_length=1),
    ]
    agents: Annotated[
        tuple[Name, ...],
        setting("globs of agent ids in its records", after="sources", min_length=1),
    ] = ("*",)
    events_per_s: Annotated[
        TopicEventRate | None,
        setting("limit of events per second; the rest waits in Kafka", after="trusted"),
    ] = None
    start: Annotated[Literal["earliest", "latest"], setting("where reading begins the first time")] = "earliest"

    def __post_init__(self) -> None:
        if SELF in self.agents:
            raise ValueError("`agents`: `self` is the client of a token, and a topic has none; list the agents")
        super().__post_init__()
