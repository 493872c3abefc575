"""Ways to tell people and programs of a change of level."""

from .alert import ALERT_KIND, ALERT_TYPE, alert_payload, alert_row
from .webhook import WebhookNotifier, WebhookTarget, webhook_client

__all__ = [
    "ALERT_KIND",
    "ALERT_TYPE",
    "WebhookNotifier",
    "WebhookTarget",
    "alert_payload",
    "alert_row",
    "webhook_client",
]
