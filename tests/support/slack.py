"""A Slack on loopback with the documented shapes: `chat.postMessage` of the Web API, with threads and errors."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode

from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.notifiers.slack_app_settings import (
    SlackAppSettings,
    SlackInteractionSettings,
    SlackPersonSettings,
)
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.agents import LevelName

BOT_TOKEN = "xoxb-not-a-token-of-anybody"
CHANNEL = "C0123456789"
LEVELS: tuple[LevelName, ...] = ("unknown", "low", "medium", "high", "critical")

Refusal = tuple[int, dict[str, str], str]
"""Status, headers and `error` of an answer that is not `ok`; an error "" is an answer that never comes."""


class FakeSlack:
    """Posts into channels of its own; `refusals` are answered first, in order.

    `messages` are what stands in the channels: `ts`, `thread_ts` and the body. `go.clear()` holds every answer back.
    An answer that is lost (`lost` of them) is of a message that stands there all the same.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.refusals: list[Refusal] = []
        self.lost = 0
        self.requests = 0
        self.go = threading.Event()
        self.go.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api/chat.postMessage"

    def _handler(slack) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                slack.go.wait(5)
                slack.requests += 1
                answer = slack._answer(self.headers.get("authorization", ""), body)
                with contextlib.suppress(ConnectionError):
                    if answer is None:
                        self.connection.close()
                        return
                    status, headers, text = answer
                    self.send_response(status)
                    for name, value in {"content-type": "application/json; charset=utf-8", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def _answer(self, authorization: str, raw: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if self.refusals:
            status, headers, error = self.refusals.pop(0)
            return status, headers, json.dumps({"ok": False, "error": error}).encode()
        body = json.loads(raw)
        error = self._fault(authorization, body)
        if error:
            return 200, {}, json.dumps({"ok": False, "error": error}).encode()
        ts = f"15034359{len(self.messages):02}.000247"
        self.messages.append({"ts": ts, **body})
        if self.lost:
            self.lost -= 1
            return None
        return 200, {}, json.dumps({"ok": True, "channel": body["channel"], "ts": ts, "message": body}).encode()

    def _fault(self, authorization: str, body: dict[str, Any]) -> str:
        """As the method's page lists errors."""
        if authorization != f"Bearer {BOT_TOKEN}":
            return "invalid_auth"
        if body.get("channel") != CHANNEL:
            return "channel_not_found"
        if not body.get("text"):
            return "no_text"
        if body.get("thread_ts") and body["thread_ts"] not in [one["ts"] for one in self.messages]:
            return "thread_not_found"
        return ""

    def remove(self, ts: str) -> None:
        """A person removes a message."""
        self.messages = [one for one in self.messages if one["ts"] != ts]

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def slack_target(url: str, name: str = "chat", channel: str = CHANNEL, **values: Any) -> WebhookTarget:
    """A target whose bot posts to the fake."""
    app = SlackAppSettings(bot_token=Secret(BOT_TOKEN), channel=channel)
    given = {"slack_app": app, "levels": LEVELS, "allow_http": True, **values}
    return WebhookTarget(name=name, url=Secret(url), format="slack", **given)


# Clicks, as Slack sends them.

SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"  # of Slack's page about signatures: it signs nothing of anybody
TEAM = "T0000000001"
USER = "U0000000001"
RESPONSE_URL = "https://hooks.slack.com/actions/T0000000001/1/abc"


def interactions(
    *tenants: str,
    secret: str = SIGNING_SECRET,
    user: str = USER,
    home: str | None = None,
    organization: str | None = None,
) -> SlackInteractionSettings:
    """Buttons on cases of *tenants*, and Ann, who may press them."""
    people = (SlackPersonSettings(user=user, name="ann", home=home),)
    return SlackInteractionSettings(
        signing_secret=Secret(secret), team=TEAM, tenants=tenants, people=people, organization=organization
    )


def target_with_buttons(*tenants: str, name: str = "chat", **values: Any) -> WebhookTarget:
    """A target whose messages have buttons."""
    app = SlackAppSettings(bot_token=Secret(BOT_TOKEN), channel=CHANNEL, interactions=interactions(*tenants, **values))
    return slack_target("https://slack.com/api/chat.postMessage", name, slack_app=app)


def click_body(action: str, value: str, **changes: Any) -> bytes:
    """The form that tells of a pressed button, in the shape of Slack's page about `block_actions`."""
    payload = {
        "type": "block_actions",
        "user": {"id": USER, "username": "ann.at.slack", "team_id": TEAM},
        "api_app_id": "A0000000001",
        "container": {"type": "message", "message_ts": "1503435956.000247", "channel_id": CHANNEL},
        "trigger_id": "12466734323.1395872398",
        "team": {"id": TEAM, "domain": "example"},
        "channel": {"id": CHANNEL, "name": "alerts"},
        "response_url": RESPONSE_URL,
        "actions": [
            {
                "type": "button",
                "block_id": "b1",
                "action_id": action,
                "text": {"type": "plain_text", "text": "a label"},
                "value": value,
                "action_ts": "1503435999.000100",
            }
        ],
        **changes,
    }
    return urlencode({"payload": json.dumps(payload)}).encode()


def signed_headers(body: bytes, at: int, secret: str = SIGNING_SECRET) -> dict[str, str]:
    """Headers of a request of Slack's."""
    signature = hmac.new(secret.encode(), b"v0:%d:%s" % (at, body), hashlib.sha256).hexdigest()
    return {
        "content-type": "application/x-www-form-urlencoded",
        "x-slack-request-timestamp": str(at),
        "x-slack-signature": f"v0={signature}",
    }
