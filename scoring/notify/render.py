"""From a stored alert to the bytes that one kind of target takes.

It happens at delivery, so that the outbox holds one format and a target whose format changes is right at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from .alert import CONTENT_TYPE
from .facts import Facts, facts
from .ocsf import ocsf_body
from .pagerduty import pagerduty_body
from .slack import slack_body

Format = Literal["cloudevents", "slack", "pagerduty", "ocsf"]
FORMATS: tuple[Format, ...] = get_args(Format)

SIGNED: frozenset[Format] = frozenset({"cloudevents", "ocsf"})
"""Formats of receivers that check a signature. The others know us by a secret in the URL or the body."""

STATEFUL: frozenset[Format] = frozenset({"pagerduty", "ocsf"})
"""Formats that keep one incident or finding per agent: there nothing repeats, and each end has to be told."""

JSON = "application/json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Rendered(NamedTuple):
    """What is posted."""

    body: bytes
    content_type: str


def render(payload: bytes, wanted: Format, suppressed_before: int = 0, routing_key: str = "") -> Rendered | None:
    """*payload* (a CloudEvent as JSON) as *wanted*; None where that kind of target has nothing to do.

    Args:
        payload: from the outbox.
        wanted: format of the target.
        suppressed_before: alerts that cool-down kept back since the previous one.
        routing_key: of PagerDuty.

    Raises:
        msgspec.DecodeError: the payload is no JSON object. Nothing else makes it fail.
    """
    event = _decode(payload)
    data = event.get("data")
    if isinstance(data, dict):
        data["suppressed_before"] = suppressed_before
    alert = facts(event)
    body = _body(event, alert, wanted, routing_key)
    return None if body is None else Rendered(_encode(body), CONTENT_TYPE if wanted == "cloudevents" else JSON)


def _body(event: dict[str, Any], alert: Facts, wanted: Format, routing_key: str) -> Mapping[str, Any] | None:
    if wanted == "slack":
        return slack_body(alert)
    if wanted == "pagerduty":
        return pagerduty_body(alert, routing_key)
    if wanted == "ocsf":
        return ocsf_body(alert)
    return event
