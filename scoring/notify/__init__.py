"""Ways to tell people and programs of a change of level, a silence or an approval that is wanted."""

from .alert import (
    ALERT_KIND,
    ALERT_TYPE,
    APPROVAL_TYPE,
    SILENCE_TYPE,
    TEST_TYPE,
    Silence,
    alert_payload,
    alert_row,
    silence_row,
    try_out_row,
)
from .render import FORMATS, SIGNED, STATEFUL, Format, render
from .webhook import WebhookNotifier, WebhookTarget, webhook_client

__all__ = [
    "ALERT_KIND",
    "ALERT_TYPE",
    "APPROVAL_TYPE",
    "FORMATS",
    "SIGNED",
    "SILENCE_TYPE",
    "STATEFUL",
    "TEST_TYPE",
    "Format",
    "Silence",
    "WebhookNotifier",
    "WebhookTarget",
    "alert_payload",
    "alert_row",
    "render",
    "silence_row",
    "try_out_row",
    "webhook_client",
]
