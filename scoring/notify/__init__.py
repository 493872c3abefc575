"""Ways to tell people and programs of a change of level, or of a silence."""

from .alert import ALERT_KIND, ALERT_TYPE, SILENCE_TYPE, Silence, alert_payload, alert_row, silence_row
from .webhook import WebhookNotifier, WebhookTarget, webhook_client

__all__ = [
    "ALERT_KIND",
    "ALERT_TYPE",
    "SILENCE_TYPE",
    "Silence",
    "WebhookNotifier",
    "WebhookTarget",
    "alert_payload",
    "alert_row",
    "silence_row",
    "webhook_client",
]
