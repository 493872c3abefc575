"""Verdicts on calls before they are made, each by one request; and approvals, which let step-ups pass."""

from __future__ import annotations

import asyncio
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Unpack
from urllib.parse import quote, urlencode

import httpx2
import msgspec

from .events import AuditEvent, Call, Caller
from .risk_answers import CallVerdict, classify_refusal
from .service_connection import (
    AsyncTokenSource,
    BoundedCache,
    Counters,
    LoopClient,
    LoopOptions,
    Requests,
    ThreadClient,
    ThreadOptions,
    TokenSource,
    completed,
)
from .trust_errors import FailureCause, TrustUnavailable

BUDGET_S = 0.25
FailMode = Literal["open", "closed"]

_log = logging.getLogger("trustwatch_client")


class _Verdicts:
    _url: str
    _requests: Requests

    def _prepare(self, fail_mode: FailMode, budget_s: float) -> None:
        if fail_mode not in ("open", "closed"):
            raise ValueError(f"fail_mode is {fail_mode!r}; it is open or closed")
        self._fail_mode = fail_mode
        self._budget_s = budget_s
        self._counters = Counters("asked", "fail_open", "fail_closed")
        self._logged_causes: set[FailureCause] = set()

    def _count(self, call: Call | AuditEvent) -> None:
        self._counters.increment("asked")
        if isinstance(call, AuditEvent):
            warnings.warn("evaluate takes a Call; pass event.as_call()", DeprecationWarning, stacklevel=3)

    async def _ask(self, caller: Caller, call: Call | AuditEvent, arguments_hash: str | None) -> httpx2.Response:
        url = f"{self._url}/v1/agents/{quote(caller.agent_id, safe='')}/calls/evaluate?{urlencode(_names_of(caller))}"
        question = msgspec.to_builtins(caller.add_to_call(call if isinstance(call, Call) else call.as_call()))
        if arguments_hash is not None:
            question["arguments_hash"] = arguments_hash
        return await self._requests.ask(url, msgspec.json.encode(question), self._budget_s)

    def _verdict_of(self, caller: Caller, reply: httpx2.Response) -> CallVerdict:
        if reply.status_code != 200:
            return self._apply_fail_mode(caller, *classify_refusal(reply.status_code, reply.content))
        try:
            verdict = msgspec.json.decode(reply.content, type=CallVerdict)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._without_answer(caller, error)
        self._logged_causes.clear()
        return verdict

    def _without_answer(self, caller: Caller, error: Exception) -> CallVerdict:
        cause: FailureCause = "token"  # only a token callable runs code of others
        match error:
            case httpx2.TimeoutException() | TimeoutError():
                cause = "timeout"
            case httpx2.HTTPError():
                cause = "network"
            case msgspec.MsgspecError() | UnicodeError():  # of the answer, or of a name in the request
                cause = "malformed"
        return self._apply_fail_mode(caller, cause, type(error).__name__)

    def _apply_fail_mode(self, caller: Caller, cause: FailureCause, detail: str) -> CallVerdict:
        self._counters.increment(f"cause_{cause}")
        self._counters.increment(f"fail_{self._fail_mode}")
        if cause not in self._logged_causes:
            self._logged_causes.add(cause)
            _log.warning("no verdicts on calls from Trustwatch: %s: %s; fail mode %s", cause, detail, self._fail_mode)
        if self._fail_mode == "open":
            return CallVerdict("allow", allow=True)
        raise TrustUnavailable(cause, f"verdict on a call: {detail}", (caller.agent_id,))


class CallVerdicts(_Verdicts, ThreadClient):
    """Requests verdicts on calls. Thread-safe. Nothing is cached, since each call is different.

    Args:
        url, token, http, clock, insecure_http: as for `TrustClient`; scope `trust.score:read`.
        fail_mode: applies if there is no answer: `open` allows the call, `closed` raises TrustUnavailable.
        budget_s: s, for the answer, including a token.
        workers: threads that send requests; more requests at one time wait, within their budget.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        fail_mode: FailMode,
        budget_s: float = BUDGET_S,
        workers: int = 4,
        **options: Unpack[ThreadOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(fail_mode, budget_s)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="trustwatch-calls")

    def evaluate(self, caller: Caller, call: Call | AuditEvent, *, arguments_hash: str | None = None) -> CallVerdict:
        """Return the verdict on *call*, which *caller* is about to make.

        Args:
            caller: also supplies principal, task and token if the call does not name them.
            call: passing an event is deprecated; its time and outcome are not sent.
            arguments_hash: of all its arguments (`ArgumentOrigins.hash_arguments`); an approval covers only these.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        self._count(call)
        try:
            asked = self._pool.submit(lambda: completed(self._ask(caller, call, arguments_hash)))
            try:
                reply = asked.result(self._budget_s)
            finally:
                asked.cancel()  # a request that runs continues: it may fetch a token
        except Exception as error:  # the fail mode applies to every error
            return self._without_answer(caller, error)
        return self._verdict_of(caller, reply)

    def close(self) -> None:
        """End threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        super().close()


class AsyncCallVerdicts(_Verdicts, LoopClient):
    """`CallVerdicts` for asyncio; belongs to the event loop that first uses it.

    Args:
        url, fail_mode, budget_s, http, clock, insecure_http: as for `CallVerdicts`.
        token: as for `CallVerdicts`; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        fail_mode: FailMode,
        budget_s: float = BUDGET_S,
        **options: Unpack[LoopOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(fail_mode, budget_s)

    async def evaluate(
        self, caller: Caller, call: Call | AuditEvent, *, arguments_hash: str | None = None
    ) -> CallVerdict:
        """Like `CallVerdicts.evaluate`. Raises TrustUnavailable."""
        self._count(call)
        try:
            asked = self._start(self._ask(caller, call, arguments_hash))
            # A late request continues: it may fetch the token that the next one needs.
            reply = await asyncio.wait_for(asyncio.shield(asked), self._budget_s)
        except Exception as error:  # the fail mode applies to every error
            return self._without_answer(caller, error)
        return self._verdict_of(caller, reply)


def _names_of(caller: Caller) -> dict[str, str]:
    return {name: value for name, value in (("tenant", caller.tenant), ("issuer", caller.issuer)) if value}


INTERVENTIONS_PATH = "/v1/interventions"
MAX_CACHED_CALLERS = 10_000


class _ApprovedScopes(msgspec.Struct, frozen=True):
    scopes: tuple[str, ...] = ()


class _ApprovalsPage(msgspec.Struct, frozen=True):
    items: tuple[_ApprovedScopes, ...] = ()


class Approvals(LoopClient):
    """Approvals that persons gave at the service (`trustwatch approvals`), for one event loop.

    They are queried only if an answer requires a step-up, since the service reads them from its database. Without an
    answer nothing is approved. Approvals are requested where tokens are issued, or by the service's checks for
    gateways.

    Args:
        url, token, http, clock, insecure_http: as for `AsyncTrustClient`; scope `trust.score:read`.
        cache_s: s, for which approved scopes are remembered.
        timeout_s: s.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        cache_s: float = 1.0,
        timeout_s: float = 0.5,
        **options: Unpack[LoopOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._cache_s, self._timeout_s = cache_s, timeout_s
        self._cached_scopes: BoundedCache[tuple[str | None, ...], tuple[float, tuple[str, ...]]]
        self._cached_scopes = BoundedCache(MAX_CACHED_CALLERS)

    async def __call__(self, caller: Caller) -> tuple[str, ...]:
        """Return the scopes that are approved for *caller* now; none if the service does not answer."""
        who = caller.agent_id, caller.tenant, caller.issuer
        cached = self._cached_scopes.get(who)
        if cached is not None and cached[0] > self._clock.steady():
            return cached[1]
        query = {"kind": "approval", "status": "approved", "agent_id": caller.agent_id, "limit": "500"}
        scopes: tuple[str, ...] = ()
        try:
            url, params = self._url + INTERVENTIONS_PATH, query | _names_of(caller)
            reply = await self._requests.send("GET", url, self._timeout_s, params=params)
            reply.raise_for_status()
            page = msgspec.json.decode(reply.content, type=_ApprovalsPage)
            scopes = tuple(scope for item in page.items for scope in item.scopes)
        except Exception as error:  # network, token, or an invalid page
            _log.warning("approvals are unavailable: %s", type(error).__name__)
        self._cached_scopes.put(who, (self._clock.steady() + self._cache_s, scopes))
        return scopes
