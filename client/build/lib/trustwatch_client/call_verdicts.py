"""Verdicts on calls before they are made, asked of the service for one call at a time."""

from __future__ import annotations

import asyncio
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Literal
from urllib.parse import quote, urlencode

import httpx2
import msgspec

from .access_tokens import AsyncTokenSource, TokenSource
from .caller import Caller
from .counters import Counted, Counters
from .events import AuditEvent, Call
from .risk_answers import CallVerdict, classify_refusal
from .service_connection import AsyncClosedOnExit, AsyncServiceConnection, ClosedOnExit, ServiceConnection, completed
from .settings import validate_url
from .timing import Clock, SystemClock
from .trust_errors import FailureCause, TrustUnavailable

BUDGET_S = 0.25


_log = logging.getLogger("trustwatch_client")

_ALLOWED = CallVerdict("allow", allow=True)


class _CallQuestions:
    """Questions, answers, and what holds without one: the same for threads and for asyncio."""

    def __init__(self, url: str, fail_mode: Literal["open", "closed"], *, insecure_http: bool) -> None:
        if fail_mode not in ("open", "closed"):
            raise ValueError(f"fail_mode is {fail_mode!r}; it is open or closed")
        self._url = validate_url(url, insecure_http=insecure_http) + "/v1/agents/"
        self._fail_open = fail_mode == "open"
        self.counters = Counters("asked", "fail_open", "fail_closed")
        self._logged_causes: set[FailureCause] = set()

    def request(self, caller: Caller, call: Call | AuditEvent, arguments_hash: str | None) -> tuple[str, bytes]:
        """URL and body of the question about *call*; counted."""
        self.counters.increment("asked")
        named = {name: value for name, value in (("tenant", caller.tenant), ("issuer", caller.issuer)) if value}
        return f"{self._url}{quote(caller.agent_id, safe='')}/calls/evaluate?{urlencode(named)}", _question(
            caller.add_to_call(call if isinstance(call, Call) else call.as_call()), arguments_hash
        )

    def read(self, caller: Caller, reply: httpx2.Response) -> CallVerdict:
        """The verdict of a reply, or what holds without one. Raises TrustUnavailable."""
        if reply.status_code != 200:
            return self._apply_fail_mode(caller, *classify_refusal(reply.status_code, reply.content))
        try:
            verdict = msgspec.json.decode(reply.content, type=CallVerdict)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self.without_answer(caller, error)
        self._logged_causes.clear()
        return verdict

    def without_answer(self, caller: Caller, error: Exception) -> CallVerdict:
        """The verdict that holds after *error*, whatever it is. Raises TrustUnavailable."""
        return self._apply_fail_mode(caller, _cause_of(error), type(error).__name__)

    def _apply_fail_mode(self, caller: Caller, cause: FailureCause, detail: str) -> CallVerdict:
        """The verdict that holds without an answer; counted, and logged once until there is one again."""
        self.counters.increment(f"cause_{cause}")
        self.counters.increment("fail_open" if self._fail_open else "fail_closed")
        if cause not in self._logged_causes:
            self._logged_causes.add(cause)
            mode = "open" if self._fail_open else "closed"
            _log.warning("no verdicts on calls from Trustwatch: %s: %s; fail mode %s", cause, detail, mode)
        if self._fail_open:
            return _ALLOWED
        raise TrustUnavailable(cause, f"verdict on a call: {detail}", (caller.agent_id,))


class CallVerdicts(Counted, ClosedOnExit):
    """Asks about calls; safe from any thread. Nothing is cached: each call is another one.

    Args:
        url, token, http, clock, insecure_http: as for `TrustClient`; scope `trust.score:read`.
        fail_mode: what holds without an answer: `open` is as if the service were not there, `closed` is no call.
        budget_s: s, for the answer, a token included.
        workers: threads that ask; more questions at one time wait, within their budget.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        fail_mode: Literal["open", "closed"],
        budget_s: float = BUDGET_S,
        workers: int = 4,
        http: httpx2.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._questions = _CallQuestions(url, fail_mode, insecure_http=insecure_http)
        self._counters = self._questions.counters
        self._budget_s = budget_s
        self._connection = ServiceConnection(token, clock or SystemClock(), http)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="trustwatch-calls")

    def evaluate(self, caller: Caller, call: Call | AuditEvent, *, arguments_hash: str | None = None) -> CallVerdict:
        """The verdict on *call*, which *caller* is about to make.

        Args:
            caller: also says on whose behalf, for which task and with which token, if the call does not.
            call: an event in its place is deprecated; its time and outcome are not sent.
            arguments_hash: of all its arguments (`ArgumentOrigins.hash_arguments`); an approval holds for these alone.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        _warn_of_event(call)
        try:
            question = self._questions.request(caller, call, arguments_hash)
            asked = self._pool.submit(self._ask, *question)
            try:
                reply = asked.result(self._budget_s)
            finally:
                asked.cancel()  # one that has not begun is of no use any more; one under way may bring a token
        except Exception as error:  # whatever it is, the fail mode holds
            return self._questions.without_answer(caller, error)
        return self._questions.read(caller, reply)

    def _ask(self, url: str, question: bytes) -> httpx2.Response:
        return completed(self._connection.requests.ask(url, question, self._budget_s))

    def close(self) -> None:
        """End threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()


class AsyncCallVerdicts(Counted, AsyncClosedOnExit):
    """`CallVerdicts` for asyncio; belongs to the event loop that first uses it.

    Args:
        url, fail_mode, budget_s, http, clock, insecure_http: as for `CallVerdicts`.
        token: as there; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        fail_mode: Literal["open", "closed"],
        budget_s: float = BUDGET_S,
        http: httpx2.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._questions = _CallQuestions(url, fail_mode, insecure_http=insecure_http)
        self._counters = self._questions.counters
        self._budget_s = budget_s
        self._connection = AsyncServiceConnection(token, clock or SystemClock(), http)
        self._tasks: set[asyncio.Task[httpx2.Response]] = set()

    async def evaluate(
        self, caller: Caller, call: Call | AuditEvent, *, arguments_hash: str | None = None
    ) -> CallVerdict:
        """As `CallVerdicts.evaluate`.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        _warn_of_event(call)
        try:
            question = self._questions.request(caller, call, arguments_hash)
            asked = asyncio.create_task(self._connection.requests.ask(*question, self._budget_s))
            self._tasks.add(asked)
            asked.add_done_callback(self._forget)
            # What is late goes on: it may bring the token that the next question needs.
            reply = await asyncio.wait_for(asyncio.shield(asked), self._budget_s)
        except Exception as error:  # whatever it is, the fail mode holds
            return self._questions.without_answer(caller, error)
        return self._questions.read(caller, reply)

    async def close(self) -> None:
        """Cancel questions on their way and end connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    def _forget(self, asked: asyncio.Task[httpx2.Response]) -> None:
        self._tasks.discard(asked)
        if not asked.cancelled():
            asked.exception()  # of one that was late nobody else asks, and asyncio would complain


def _cause_of(error: Exception) -> FailureCause:
    match error:
        case httpx2.TimeoutException() | TimeoutError():
            return "timeout"
        case httpx2.HTTPError():
            return "network"
        case msgspec.MsgspecError() | UnicodeError():  # of the answer, or of a name in the question
            return "malformed"
    return "token"  # of what is left, only a source of tokens runs code of others


def _warn_of_event(call: Call | AuditEvent) -> None:
    if isinstance(call, AuditEvent):
        warnings.warn("evaluate takes a Call; pass event.as_call()", DeprecationWarning, stacklevel=3)


def _question(call: Call, arguments_hash: str | None) -> bytes:
    members = msgspec.to_builtins(call)
    if arguments_hash is not None:
        members["arguments_hash"] = arguments_hash
    return msgspec.json.encode(members)
