"""Ways to tell people and programs of a change of level, a silence or an approval that is wanted."""

from .alert import (
    ALERT_ROW_KIND,
    ALERT_TYPE,
    APPROVAL_TYPE,
    SILENCE_TYPE,
    TEST_TYPE,
    SilentSource,
    build_alert_payload,
    build_alert_row,
    build_silence_row,
    build_test_alert_row,
)
from .render import ALERT_FORMATS, SIGNED_FORMATS, STATEFUL_FORMATS, AlertFormat, render_alert
from .webhook import WebhookNotifier, WebhookTarget, make_webhook_client

__all__ = [
    "ALERT_FORMATS",
    "ALERT_ROW_KIND",
    "ALERT_TYPE",
    "APPROVAL_TYPE",
    "SIGNED_FORMATS",
    "SILENCE_TYPE",
    "STATEFUL_FORMATS",
    "TEST_TYPE",
    "AlertFormat",
    "SilentSource",
    "WebhookNotifier",
    "WebhookTarget",
    "build_alert_payload",
    "build_alert_row",
    "build_silence_row",
    "build_test_alert_row",
    "make_webhook_client",
    "render_alert",
]
