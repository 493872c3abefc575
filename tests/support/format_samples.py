"""What tests of foreign formats share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

LINES = Path(__file__).parent / "lines"
"""What running servers wrote: Keycloak 26.7.3, Ory Hydra 2.3.0 and node-oidc-provider of `scripts/services`."""


class Taken(NamedTuple):
    """What became of a value: native events, how many records were skipped, and reasons of refusals."""

    events: list[dict[str, Any]]
    skipped: int
    refusals: list[str]


def taken(name: str, value: bytes | str | object, spec: MappingSpec | None = None) -> Taken:
    """A value through a format; every event is one that the door takes. Objects are sent as JSON."""
    raw = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    parcels, skipped = create_parser(name, spec)(raw, {})
    events, refusals = [], []
    for parcel in parcels:
        assert parcel.to_native is not None
        try:
            native = parcel.to_native()
        except MalformedEvent as error:
            refusals.append(f"{error.path}: {error.reason}")
        else:
            decode_event(native)
            events.append(json.loads(native))
    return Taken(events, skipped, refusals)


def one(name: str, value: bytes | str | object, **members: str) -> dict[str, Any]:
    """The only event of a value, without its id."""
    spec = MappingSpec(members={member.replace("__", "."): text for member, text in members.items()})
    events, skipped, refusals = taken(name, value, spec)
    assert (len(events), skipped, refusals) == (1, 0, [])
    events[0].pop("id")
    return events[0]
