"""Posting to a channel of Slack as the bot of an app (`chat.postMessage`): messages about one case in one thread.

An incoming webhook answers without the message's `ts`, and takes no `thread_ts`, so it can have no threads.
"""

from __future__ import annotations

from typing import Any, Final

import httpx2
import msgspec

from ....ingest.printable_text import printable_line
from ...records.agents import RiskLevel
from ...records.commits import LeasedDelivery, MessageThread
from ..delivery_target import DeliveryResult
from ..retry_after import parse_retry_after
from .slack_app_settings import SlackAppSettings

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Most bytes of an answer that are read: it repeats the message, with every character escaped at worst."""

CONTENT_TYPE: Final = "application/json; charset=utf-8"

_LATER: Final = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "team_added_to_org",
        # What an administrator of the workspace can mend, without a change here:
        "not_in_channel",
        "channel_not_found",
        "missing_scope",
        "accesslimited",
        "ekm_access_denied",
    }
)
_GONE: Final = frozenset(
    {"invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "is_archived"}
)
_NO_THREAD: Final = frozenset(
    {
        "thread_not_found",
        "message_not_found",
        "cannot_reply_to_message",
        "restricted_action_thread_locked",
        "restricted_action_non_threadable_channel",
    }
)
"""Errors about the message that is to be followed: somebody removed it, or nothing may follow it."""


class SlackAnswer(msgspec.Struct):
    """Members of an answer of Slack's Web API. HTTP says 200 whether or not it is `ok`."""

    ok: bool
    error: str = ""
    channel: str = ""
    ts: str = ""


class _Metadata(msgspec.Struct):
    event_payload: dict[str, str]
    event_type: str = "trustwatch_alert"


_decode = msgspec.json.Decoder(SlackAnswer).decode
_decode_message = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


async def post_to_channel(
    client: httpx2.AsyncClient,
    url: str,
    app: SlackAppSettings,
    row: LeasedDelivery,
    message: bytes,
    *,
    rises: bool,
    now_ms: int,
) -> DeliveryResult:
    """Post *message* once, after what was told of its case there before; without a thread where that message is gone.

    Slack has no key by which it knows a message again: one whose answer was lost is posted once more.

    Args:
        client: from `make_webhook_client`.
        url: of `chat.postMessage`.
        app: who posts, and where.
        row: what is delivered.
        message: blocks and text, as JSON.
        rises: it tells of trouble; where that is worse than before, a reply shows in the channel, too.
        now_ms: UTC milliseconds.
    """
    thread = row.thread if row.thread is not None and row.thread.channel == app.channel else None
    level = RiskLevel(row.row.level)
    body = {
        "channel": app.channel,
        "unfurl_links": False,
        "unfurl_media": False,
        "metadata": _Metadata({"id": row.row.key}),
        **_decode_message(message),
    }
    if thread is not None:
        reply = body | {"thread_ts": thread.ts, "reply_broadcast": rises and level > thread.level}
        result, answer = await _post(client, url, app, reply, now_ms)
        if answer is None or answer.error not in _NO_THREAD:
            told = max(level, thread.level) if rises else thread.level
            went_on = MessageThread(thread.channel, thread.ts, told)
            return result._replace(thread=went_on) if result.outcome == "delivered" else result
    result, answer = await _post(client, url, app, body, now_ms)
    if result.outcome != "delivered" or answer is None or not answer.ts:
        return result
    return result._replace(thread=MessageThread(app.channel, answer.ts, level))


async def _post(
    client: httpx2.AsyncClient, url: str, app: SlackAppSettings, body: dict[str, Any], now_ms: int
) -> tuple[DeliveryResult, SlackAnswer | None]:
    """One request; the answer where there is one that can be read."""
    headers = {"content-type": CONTENT_TYPE, "authorization": f"Bearer {app.bot_token.reveal()}"}
    async with client.stream("POST", url, content=_encode(body), headers=headers) as response:
        retry_after = response.headers.get("retry-after")
        return read_answer(response.status_code, retry_after, await _read(response), now_ms)


def read_answer(
    status: int, retry_after: str | None, body: bytes, now_ms: int
) -> tuple[DeliveryResult, SlackAnswer | None]:
    """Meaning of an answer of the Web API, and the answer where it can be read.

    Args:
        status: HTTP status; 429 comes with `Retry-After`.
        retry_after: that header, None = absent.
        body: JSON, if it is Slack that answered.
        now_ms: UTC milliseconds.
    """
    if status == 429 or status >= 500:
        return DeliveryResult("retry", f"HTTP {status}", parse_retry_after(retry_after, now_ms)), None
    try:
        answer = _decode(body)
    except msgspec.DecodeError:
        error = f"HTTP {status}: not an answer of Slack's Web API"
        return DeliveryResult("retry" if status < 300 else "failed", error), None
    if answer.ok:
        return DeliveryResult("delivered"), answer
    error = f"Slack: {printable_line(answer.error, 100) or 'not ok'}"
    if answer.error in _LATER:
        return DeliveryResult("retry", error, parse_retry_after(retry_after, now_ms)), answer
    return DeliveryResult("gone" if answer.error in _GONE else "failed", error), answer


async def _read(response: httpx2.Response) -> bytes:
    data = b""
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            break
    return data[:MAX_ANSWER_BYTES]
