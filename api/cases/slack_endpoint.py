"""`POST /v1/slack/interactions`: buttons that people pressed in Slack.

Slack wants an answer within three seconds, so the click is answered once it is proved, and done behind the answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from ...scoring.delivery.notifiers.webhook_target import WebhookTarget
from ..http.line_limit import LineLimit
from ..http.problems import ProblemDetails, send_problem
from ..http.request_body import RequestBodyTooLong, read_request_body
from ..http.runtime import Runtime
from .slack_acts import SlackActs
from .slack_requests import SlackClick, SlackRequestRefused, SlackSignatures, read_click

INTERACTIONS_PATH: Final = "/v1/slack/interactions"
MAX_BODY: Final = 256 * 1024
"""Bytes: a payload repeats the message whose button was pressed."""
MAX_AT_WORK: Final = 32
"""Clicks that are worked on at once; with more, people have to press again."""
CLOSING_S: Final = 5.0
"""Seconds that clicks at work have when the service ends."""

_log = structlog.get_logger(__name__)


class SlackEndpoint:
    """ASGI handler of clicks, where a target of the settings has buttons.

    Args:
        runtime: settings in force, and clocks.
        acts: does what was pressed.
    """

    def __init__(self, runtime: Runtime, acts: SlackActs) -> None:
        self._runtime = runtime
        self._acts = acts
        self._signatures = SlackSignatures(runtime.clock())
        self._refusals = LineLimit(runtime.monotonic)
        self._at_work: set[asyncio.Task[None]] = set()
        self._refused: Counter[str] = Counter()

    @property
    def outcomes(self) -> Counter[str]:
        """Clicks so far by what came of them."""
        return self._acts.outcomes + self._refused

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This endpoint, where a target has buttons."""
        return self if path == INTERACTIONS_PATH.encode() and self._targets() else None

    def template(self, path: bytes) -> str:
        """See `FastRoute`."""
        return path.decode()

    def _targets(self) -> list[WebhookTarget]:
        return [target for target in self._runtime.settings.webhooks if target.interactions is not None]

    async def start(self) -> None:
        """See `LifespanService`: there is nothing to start."""

    async def close(self) -> None:
        """End once the clicks at hand are done, or have had their time."""
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=CLOSING_S)
        await self._acts.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of Slack."""
        try:
            status = await self._take(scope, receive)
        except SlackRequestRefused as refused:
            self._refused[refused.outcome] += 1
            self._refusals.write(_log.warning, "slack_request_refused", outcome=refused.outcome, why=str(refused))
            status = 400 if refused.outcome == "malformed" else 401
            problem = ProblemDetails(status, refused.code, "Refused", f"{refused}; nothing was done")
            await send_problem(problem, send, with_body=scope["method"] != "HEAD")
            return
        if status:
            headers = [(b"content-length", b"0"), (b"cache-control", b"no-store")]
            headers += [(b"allow", b"POST")] * (status == 405) + [(b"retry-after", b"1")] * (status == 503)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    async def _take(self, scope: Scope, receive: Receive) -> int:
        """Status of the answer; 0 where Slack went away. Raises SlackRequestRefused."""
        if scope["method"] != "POST":
            return 405
        timestamps = [value for name, value in scope["headers"] if name == b"x-slack-request-timestamp"]
        signatures = [value for name, value in scope["headers"] if name == b"x-slack-signature"]
        headers = self._signatures.read_headers(timestamps, signatures, self._runtime.clock())
        try:
            body = await read_request_body(receive, MAX_BODY)
        except RequestBodyTooLong:
            return 413
        if body is None:
            return 0
        if len(self._at_work) >= MAX_AT_WORK:
            self._refused["busy"] += 1
            return 503
        signed_for = self._signatures.check(headers, body, self._targets(), self._runtime.clock())
        click = read_click(body)
        if click is None:
            self._refused["ignored"] += 1
        else:
            self._begin(click, signed_for)
        return 200

    def _begin(self, click: SlackClick, signed_for: list[WebhookTarget]) -> None:
        task = asyncio.create_task(self._acts.run(click, signed_for))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
