"""Rendering of a stored alert as the bytes that one kind of target takes.

It happens at delivery, so that the outbox holds one format and a target whose format changes is right at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from .alert_content import AlertContent, parse_alert
from .alert_events import CLOUDEVENTS_CONTENT_TYPE, with_console_link
from .ocsf import render_ocsf
from .pagerduty import render_pagerduty
from .slack import render_slack

AlertFormat = Literal["cloudevents", "slack", "pagerduty", "ocsf"]
ALERT_FORMATS: tuple[AlertFormat, ...] = get_args(AlertFormat)

SIGNED_FORMATS: frozenset[AlertFormat] = frozenset({"cloudevents", "ocsf"})
"""Formats of receivers that check a signature. The others know us by a secret in the URL or the body."""

STATEFUL_FORMATS: frozenset[AlertFormat] = frozenset({"pagerduty", "ocsf"})
"""Formats that keep one incident or finding per agent: there nothing repeats, and each end has to be sent."""

JSON_CONTENT_TYPE = "application/json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class RenderedAlert(NamedTuple):
    """Body of a request to a target."""

    body: bytes
    content_type: str


def render_alert(
    payload: bytes,
    alert_format: AlertFormat,
    suppressed_before: int = 0,
    routing_key: str = "",
    console: str = "",
) -> RenderedAlert | None:
    """*payload* (a CloudEvent as JSON) as *alert_format*; None where that kind of target has nothing to do.

    Args:
        payload: from the outbox.
        alert_format: format of the target.
        suppressed_before: alerts that cool-down kept back since the previous one.
        routing_key: of PagerDuty.
        console: URL of the console, which the alert then links to; "" = there is none.

    Raises:
        msgspec.DecodeError: the payload is no JSON object. Nothing else makes it fail.
    """
    event = with_console_link(_decode(payload), console)
    data = event.get("data")
    if isinstance(data, dict):
        data["suppressed_before"] = suppressed_before
    alert = parse_alert(event)
    body = _render_body(event, alert, alert_format, routing_key)
    if body is None:
        return None
    content_type = CLOUDEVENTS_CONTENT_TYPE if alert_format == "cloudevents" else JSON_CONTENT_TYPE
    return RenderedAlert(_encode(body), content_type)


def _render_body(
    event: dict[str, Any],
    alert: AlertContent,
    alert_format: AlertFormat,
    routing_key: str,
) -> Mapping[str, Any] | None:
    if alert_format == "slack":
        return render_slack(alert)
    if alert_format == "pagerduty":
        return render_pagerduty(alert, routing_key)
    if alert_format == "ocsf":
        return None if alert.kind == "case" else render_ocsf(alert)
    return event
