"""Verdicts on calls before they are made, asked of the service for one call at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote, urlencode

import httpx
import msgspec

from .access_tokens import AsyncAccessTokens, AsyncTokenSource, bearer_header
from .answer_cache import classify_refusal
from .caller import Caller
from .counters import Counters
from .events import AuditEvent
from .settings import validate_url
from .timing import Clock, SystemClock
from .trust_errors import FailureCause, TrustUnavailable

_ASKED = (
    "action",
    "effect",
    "resource",
    "arguments",
    "principal",
    "delegation",
    "task",
    "peer",
    "scopes",
    "client",
    "credential",
    "bytes_in",
)
"""Members of an event that are known before the call."""
_CALL_TYPES = ("api.call", "tool.call", "a2a.message")


class CallVerdict(msgspec.Struct, frozen=True):
    """Answer about one call.

    Attributes:
        decision: what policy says of the call, whatever the mode.
        allow: what to do.
        reason: code of the decision.
        approval_id: approval of this very call that waits for a person; None = none does.
    """

    decision: Literal["allow", "step_up", "deny"]
    allow: bool
    reason: str = ""
    approval_id: str | None = None


_log = logging.getLogger("trustwatch.client")

_ALLOWED = CallVerdict("allow", allow=True)


class AsyncCallVerdicts:
    """Asks about calls, for one event loop. Nothing is cached: each call is another one.

    Args:
        url, token, http, clock, insecure_http: as for `AsyncTrustClient`; scope `trust.score:read`.
        fail_mode: what holds without an answer: `open` is as if the service were not there, `closed` is no call.
        budget_s: s, for the answer.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        fail_mode: Literal["open", "closed"],
        budget_s: float = 0.25,
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + "/v1/agents/"
        self._fail_open = fail_mode == "open"
        self._budget_s = budget_s
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(trust_env=False)
        self._tokens = AsyncAccessTokens(token, clock or SystemClock(), self._http)
        self._counters = Counters("asked", "fail_open", "fail_closed")
        self._logged_causes: set[FailureCause] = set()

    async def evaluate(self, caller: Caller, event: AuditEvent) -> CallVerdict:
        """The verdict on the call that *event* is about to tell of, made by *caller*.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        named = {name: value for name, value in (("tenant", caller.tenant), ("issuer", caller.issuer)) if value}
        url = f"{self._url}{quote(caller.agent_id, safe='')}/calls/evaluate?{urlencode(named)}"
        self._counters.increment("asked")
        try:
            reply = await self._post(url, _question(event))
            verdict = msgspec.json.decode(reply.content, type=CallVerdict) if reply.status_code == 200 else None
        except Exception as error:  # whatever it is, the fail mode holds
            return self._apply_fail_mode(caller, _cause_of(error), type(error).__name__)
        if verdict is None:
            return self._apply_fail_mode(caller, *classify_refusal(reply.status_code, reply.content))
        self._logged_causes.clear()
        return verdict

    async def _post(self, url: str, body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"} | bearer_header(await self._tokens.get())
        return await self._http.post(url, content=body, headers=headers, timeout=self._budget_s)

    def counts(self) -> Mapping[str, int]:
        """Counters by name; docs/client.md lists them."""
        return self._counters.as_dict()

    def _apply_fail_mode(self, caller: Caller, cause: FailureCause, detail: str) -> CallVerdict:
        """What holds without an answer; counted, and logged once until there is one again."""
        self._counters.increment(f"cause_{cause}")
        self._counters.increment("fail_open" if self._fail_open else "fail_closed")
        if cause not in self._logged_causes:
            self._logged_causes.add(cause)
            mode = "open" if self._fail_open else "closed"
            _log.warning("no verdicts on calls from Trustwatch: %s: %s; fail mode %s", cause, detail, mode)
        if self._fail_open:
            return _ALLOWED
        raise TrustUnavailable(cause, f"verdict on a call: {detail}", (caller.agent_id,))

    async def close(self) -> None:
        """End connections."""
        if self._owns_http:
            await self._http.aclose()


def _cause_of(error: Exception) -> FailureCause:
    match error:
        case httpx.TimeoutException():
            return "timeout"
        case httpx.HTTPError():
            return "network"
        case msgspec.MsgspecError() | UnicodeDecodeError():
            return "malformed"
    return "token"  # of what is left, only a source of tokens runs code of others


def _question(event: AuditEvent) -> bytes:
    told = {name: value for name in _ASKED if (value := getattr(event, name)) is not None}
    if event.type in _CALL_TYPES:
        told["type"] = event.type
    return msgspec.json.encode(told)
