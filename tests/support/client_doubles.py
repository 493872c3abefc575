"""A real HTTP server on loopback that answers by script, clocks that stand still, async objects behind a sync face."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from trustwatch.ingest.events import NativeEvent as ServiceEvent
from trustwatch.ingest.events import decode_event
from trustwatch_client import Answer, AuditEvent, Call, Caller, CallVerdict, TokenPolicy, TrustUnavailable
from trustwatch_client.events import encode_event


class Reply(NamedTuple):
    """What the server answers: `status` (0 hangs up), JSON value or bytes, headers, and how long it waits before."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    wait_s: float = 0.0


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


class Scripted:
    """Answers what `answer` says and remembers requests; without a script it answers as if all agents were calm."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = self.calm
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                owner.requests.append(request)
                reply = owner.answer(request)
                time.sleep(reply.wait_s)
                if reply.status == 0:  # hang up
                    self.close_connection = True
                    return
                raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:  # whoever asked has left
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def calm(self, request: Request) -> Reply:
        if request.path == "/v1/events":
            return Reply(202, {"accepted": len(request.lines), "duplicate": 0, "rejected": 0, "rejections": []})
        return Reply(200, {"answers": [risk(**question) for question in request.json["agents"]]})

    def then(self, *replies: Reply) -> None:
        """Answer with *replies* one after the other, then as before."""
        left, after = list(replies), self.answer
        self.answer = lambda request: left.pop(0) if left else after(request)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def risk(
    agent_id: str,
    tenant: str | None = None,
    issuer: str | None = None,
    *,
    level: str = "low",
    expires_in_s: float = 300,
    **members: Any,
) -> dict[str, Any]:
    """An answer of the service; `allow`, `step_up`, … go into the policy."""
    policy = {
        "allow": True,
        "max_token_lifetime_s": 300,
        "allowed_scopes": None,
        "refresh_allowed": True,
        "step_up": False,
        "revoke": False,
        "step_up_scopes": [],
    }
    policy |= {name: members.pop(name) for name in tuple(members) if name in policy}
    times = [datetime.fromtimestamp(time.time() + plus, UTC).isoformat() for plus in (0, expires_in_s)]
    return {
        "agent_id": agent_id,
        "tenant": tenant,
        "issuer": issuer,
        "risk_level": level,
        "risk_score": 0.1,
        "confidence": 0.9,
        "evaluated_at": times[0],
        "expires_at": times[1],
        "reasons": [],
        "counterfactual": None,
        "token_policy": policy,
        "decision_id": None,
        "model_version": "m",
        "policy_version": "1",
        "mode": "enforce",
        "stale": False,
        **members,
    }


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.start, self.now = time.time(), 0.0

    def wall(self) -> float:
        return self.start + self.now

    def steady(self) -> float:
        return self.now


class Looped:
    """An async object as a sync one: its coroutines run in a loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Any]) -> None:
        self._loop = loop
        self._inner = self._run(self._made(make))

    async def _made(self, make: Callable[[], Any]) -> Any:
        return make()

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            async def work() -> Any:
                result = inner(*arguments, **named)
                return await result if asyncio.iscoroutine(result) else result

            return self._run(work())

        return call


CALM = TokenPolicy(True, 900, None, True, False, False)
DENY = TokenPolicy(False, 0, (), False, False, True)
WRITES = TokenPolicy(True, 300, None, True, True, False, ("*write*", "*delete*"))
ALL = TokenPolicy(True, 60, None, False, True, False, ("*",))


class RecordingSender:
    """Takes events as a sender does, and reads them as the service does."""

    def __init__(self) -> None:
        self.events: list[ServiceEvent] = []

    def send(self, event: AuditEvent) -> str:
        name, raw = encode_event(event)
        self.events.append(decode_event(raw))
        return name


class ScriptedAnswer:
    """Gives one answer, or none."""

    def __init__(self, policy: TokenPolicy | None, mode: str = "enforce") -> None:
        self.policy, self.mode, self.asked = policy, mode, []

    async def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer:
        self.asked.append((agent_id, tenant, issuer))
        if self.policy is None:
            raise TrustUnavailable("network", "nobody there", (agent_id,))
        return answer(self.policy, self.mode)


class ScriptedJudge:
    """Verdicts on calls that the test chose, None = there is no answer, and the calls asked about by whom."""

    def __init__(self, verdict: CallVerdict | None) -> None:
        self.verdict = verdict
        self.asked: list[Call] = []
        self.callers: list[Caller] = []
        self.hashes: list[str | None] = []

    async def evaluate(self, caller: Caller, call: Call, *, arguments_hash: str | None = None) -> CallVerdict:
        self.asked.append(call)
        self.hashes.append(arguments_hash)
        self.callers.append(caller)
        if self.verdict is None:
            raise TrustUnavailable("network", "nobody there", (caller.agent_id,))
        return self.verdict


class FixedKeys:
    """One key of origins for everybody."""

    def current(self, tenant: str | None) -> bytes | None:
        return b"k" * 32


def answer(policy: TokenPolicy, mode: Any = "enforce") -> Answer:
    return Answer(
        agent_id="bot",
        risk_level="critical",
        risk_score=0.97,
        confidence=0.9,
        token_policy=policy,
        mode=mode,
        counterfactual="secret reason",
    )
