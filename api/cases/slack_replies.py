"""Answers to people who pressed a button in Slack, seen by them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import httpx2
import structlog

from ...ingest.outgoing_http import connection_error_text
from ...ingest.printable_text import printable_line
from ...scoring.delivery.notifiers.alert_content import truncate
from ...scoring.delivery.notifiers.slack import MAX_SECTION, escape_markup
from .slack_requests import is_response_url

TIMEOUT_S: Final = 10.0
MAX_TEXT: Final = 300

_log = structlog.get_logger(__name__)


def reply(text: str, lines: Sequence[str] = (), blocks: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A message for one person: *text* and each of *lines* on a line, since names that agents chose stand in them."""
    said = "\n".join([printable_line(text), *(f"• {printable_line(line)}" for line in lines)])
    section = {"type": "section", "text": {"type": "plain_text", "text": truncate(said, MAX_SECTION), "emoji": False}}
    fallback = escape_markup(truncate(printable_line(text), MAX_TEXT))
    return {"response_type": "ephemeral", "text": fallback, "blocks": [section, *blocks]}


class SlackReplies:
    """Sends such answers.

    Args:
        client: from `make_webhook_client`; it follows no redirect.
    """

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def send(self, response_url: str, message: dict[str, Any], *, replaces: bool) -> bool:
        """Answer once; True = Slack took it. *replaces* the message with the button, which its presser alone sees."""
        if not is_response_url(response_url):
            _log.warning("slack_response_url_refused", reason="it is not on hooks.slack.com")
            return False
        body = {**message, "replace_original": replaces}
        try:
            answer = await self._client.post(response_url, json=body, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            _log.warning("slack_reply_failed", error=connection_error_text(error))
            return False
        if not answer.is_success:
            _log.warning("slack_reply_failed", error=f"HTTP {answer.status_code}")
        return bool(answer.is_success)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()
