"""Bodies for incoming webhooks of Slack, and of chats that take the same: blocks, and `text` for those without.

Names come from agents, who may be hostile. In blocks they stand in `plain_text` objects, which format nothing; in
`text`, which chats read as their mark-up, they are escaped.
"""

from __future__ import annotations

from typing import Any

from ...records.agents import RiskLevel
from .alert_content import AlertContent, truncate

MAX_HEADER, MAX_FIELD, MAX_SECTION, MAX_TEXT = 150, 2_000, 3_000, 4_000
"""Slack's limits in characters; a message beyond them is refused as a whole. The last one is what Slack advises."""

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ZERO_WIDTH_SPACE = "\u200b"  # zero width: shown as nothing, and ends what would be mark-up or a mention (`@channel`)
_ESCAPES = str.maketrans(_ENTITIES | {char: char + _ZERO_WIDTH_SPACE for char in "*_~`@#[]!|\\"})
_LEVEL_SYMBOLS = {
    RiskLevel.UNKNOWN: "⚪",
    RiskLevel.LOW: "🟢",
    RiskLevel.MEDIUM: "🟡",
    RiskLevel.HIGH: "🟠",
    RiskLevel.CRITICAL: "🔴",
}


def render_slack(alert: AlertContent) -> dict[str, Any]:
    """*alert* as the body of a POST to an incoming webhook."""
    sign = _LEVEL_SYMBOLS[alert.level]
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain_text(f"{sign} {alert.title}", MAX_HEADER)}]
    if alert.fields:
        fields = [_plain_text(f"{label}: {value}", MAX_FIELD) for label, value in alert.fields]
        blocks.append({"type": "section", "fields": fields})
    if alert.indicators:
        came_with = [_plain_text(f"{label}: {value}", MAX_FIELD) for label, value in alert.indicators]
        blocks.append({"type": "section", "fields": came_with})
    if alert.reasons:
        blocks.append({"type": "section", "text": _plain_text("\n".join(f"• {r}" for r in alert.reasons), MAX_SECTION)})
    links = _links(alert)
    if links:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": links, "verbatim": True}})
    return {"text": _fallback_text(alert), "blocks": blocks}


def escape_markup(value: str) -> str:
    """*value* so that no chat reads mark-up, a link or a mention in it.

    >>> escape_markup("<!channel> & co")
    '&lt;!\\u200bchannel&gt; &amp; co'
    """
    return value.translate(_ESCAPES)


def _fallback_text(alert: AlertContent) -> str:
    """Title and first reasons. Each part is cut before it is escaped, so that no entity is cut in two."""
    parts = [alert.title, *alert.reasons[:3]]
    return "\n".join(escape_markup(truncate(part, 200)) for part in parts)[:MAX_TEXT]


def _links(alert: AlertContent) -> str:
    """Links as far as they fit; a link that is cut would lead elsewhere."""
    shown = ""
    for label, url in alert.links:
        link = f"<{url.replace('&', '&amp;')}|{escape_markup(truncate(label, 75))}>"
        longer = f"{shown} · {link}" if shown else link
        if len(longer) <= MAX_SECTION:
            shown = longer
    return shown


def _plain_text(value: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": truncate(value, most), "emoji": False}
