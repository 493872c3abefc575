"""Risk look-up for threads and for asyncio: first the shared parts (cache, replies, fail mode), then the clients."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar, Unpack

import httpx2
import msgspec

from .risk_answers import (
    UNKNOWN_POLICY,
    Answer,
    Question,
    ServiceProblem,
    TokenPolicy,
    classify_refusal,
    fail_open_answer,
    read_answers,
)
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
    require_positive,
)
from .timing import Clock, parse_retry_after
from .trust_errors import FailureCause, TokenFailed, TrustUnavailable

log = logging.getLogger("trustwatch_client")

MAX_ID_CHARACTERS = 2_048
_QUESTION_ERROR_STATUSES = (400, 409, 413, 422)
QUERY_PATH = "/v1/risk/query"
MAX_QUESTIONS = 1_000
MAX_PAUSE_S = 30.0
LOOKUP_COUNTERS = (
    "asked",
    "cache",
    "joined",
    "requests",
    "service",
    "stale",
    "fail_open",
    "fail_closed",
    "last_known",
)


FailMode = Literal["open", "closed", "last_known"]


class RiskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of risk look-ups.

    Attributes:
        fail_mode: what happens without an answer; it has no default. `open`: *unknown* with its policy, marked
            `fail_open`. `closed`: `TrustUnavailable`. `last_known`: the last answer, if it is not older than
            `last_known_s`, else as in `without_last_known`.
        last_known_s: s, from 0.
        without_last_known: `open` or `closed`.
        budget_s: s, maximum duration of a look-up; a late answer still reaches the cache.
        request_timeout_s: s, maximum duration of a request, even if its callers no longer wait.
        cache_s: s, for which an answer is cached, never past its `expires_at`; stale answers are not cached. 0 queries
            each time. Changes of risk are delayed by as much.
        cache_size: number of answers kept; the least recently used is dropped.
        accept_stale: false treats a `stale` answer as a missing one.
        unknown_policy: the policy of *unknown* in open answers.
        pause_s: s, for which no request is made after a failure, or as in `Retry-After`.
        max_in_flight: maximum number of agents queried at one time; more are `busy`.
        workers: threads that send requests (`TrustClient`).
    """

    fail_mode: FailMode
    last_known_s: float = 300.0
    without_last_known: Literal["open", "closed"] = "closed"
    budget_s: float = 0.05
    request_timeout_s: float = 2.0
    cache_s: float = 1.0
    cache_size: int = 10_000
    accept_stale: bool = True
    unknown_policy: TokenPolicy = UNKNOWN_POLICY
    pause_s: float = 0.5
    max_in_flight: int = 1_000
    workers: int = 4

    def __post_init__(self) -> None:
        if self.fail_mode not in ("open", "closed", "last_known"):
            raise ValueError(f"fail_mode is {self.fail_mode!r}; it is open, closed or last_known")
        require_positive(self, "budget_s", "request_timeout_s", "cache_size", "max_in_flight", "workers")
        require_positive(self, "last_known_s", "cache_s", "pause_s", or_zero=True)


class LookupFailure(NamedTuple):
    cause: FailureCause
    detail: str


LookupResult = Answer | LookupFailure
FlightT = TypeVar("FlightT")

TIMED_OUT = LookupFailure("timeout", "no answer within the time budget")
TOO_MANY_IN_FLIGHT = LookupFailure("busy", "too many agents are queried at one time")
INVALID_QUESTION = LookupFailure("refused", "ids have 1 to 2,048 characters, tenants and issuers at most that")
CONNECTION_CHECK = Question("")
"""Key of the result of a request without queries, which checks the connection."""


class _CachedAnswer(NamedTuple):
    answer: Answer
    received_at: float
    fresh_until: float


class _Lookups:
    """Shared part of both clients: remembered answers, replies, and the fail mode. Thread-safe."""

    _url: str
    _clock: Clock
    _requests: Requests

    def _prepare(self, settings: RiskSettings) -> None:
        self._settings = settings
        self._counters = Counters(*LOOKUP_COUNTERS)
        self._answers: BoundedCache[Question, _CachedAnswer] = BoundedCache(settings.cache_size)
        self._flights: dict[Question, Any] = {}
        self._lock = threading.Lock()
        self._paused_until = -math.inf
        self._logged_causes: set[FailureCause] = set()

    def _start_requests(
        self, questions: Sequence[Question], start: Callable[[Sequence[Question]], FlightT]
    ) -> tuple[dict[Question, LookupResult], dict[Question, FlightT]]:
        """Return the results that are known, and the running requests for the others. No agent is queried twice."""
        results: dict[Question, LookupResult] = {}
        flights: dict[Question, FlightT] = {}
        new: list[Question] = []
        with self._lock:
            for question in dict.fromkeys(questions):
                kept, now = self._answers.get(question), self._clock.steady()
                if kept is not None and now < kept.fresh_until:
                    self._counters.increment("cache")
                    age_s = now - kept.received_at
                    results[question] = msgspec.structs.replace(kept.answer, source="cache", age_s=age_s)
                elif not _is_valid_question(question):
                    results[question] = INVALID_QUESTION
                elif (flight := self._flights.get(question)) is not None:
                    self._counters.increment("joined")
                    flights[question] = flight
                else:
                    new.append(question)
            refused = self._pause_failure() if new else None
            if refused is None and len(self._flights) + len(new) > self._settings.max_in_flight:
                refused = TOO_MANY_IN_FLIGHT
            if refused is not None:
                return results | dict.fromkeys(new, refused), flights
            for at in range(0, len(new), MAX_QUESTIONS):
                chunk = new[at : at + MAX_QUESTIONS]
                started = dict.fromkeys(chunk, start(chunk))
                flights |= started
                self._flights |= started
        return results, flights

    def _pause_failure(self) -> LookupFailure | None:
        if self._clock.steady() < self._paused_until:
            return LookupFailure("paused", "a request failed a moment ago")
        return None

    async def _fetch_answers(self, chunk: Sequence[Question], timeout_s: float) -> dict[Question, LookupResult]:
        """Request answers for *chunk*. Raises nothing unless it is canceled."""
        try:
            if chunk and (failure := self._pause_failure()) is not None:  # it failed in the meantime
                return dict.fromkeys(chunk, failure)
            url, body = self._url + QUERY_PATH, msgspec.json.encode({"agents": chunk})
            reply = await self._requests.ask(url, body, timeout_s, lambda: self._counters.increment("requests"))
            return self._read_reply(chunk, reply)
        except TokenFailed as error:
            return self._record_failure(chunk, "token", str(error))
        except httpx2.HTTPError as error:
            return self._record_failure(chunk, "network", type(error).__name__)
        except Exception as error:  # anything that a token callable raises: the fail mode applies
            return self._record_failure(chunk, "token", f"the token callable raised {type(error).__name__}")
        finally:
            with self._lock:
                for question in chunk:
                    self._flights.pop(question, None)

    def _read_reply(self, questions: Sequence[Question], reply: httpx2.Response) -> dict[Question, LookupResult]:
        """Read a reply into one result for each query; answers are cached."""
        if reply.status_code != 200:
            cause, detail = classify_refusal(reply.status_code, reply.content)
            pause_s = parse_retry_after(reply.headers.get("retry-after"), self._clock.wall())
            if reply.status_code in _QUESTION_ERROR_STATUSES:  # an invalid query must not delay others
                pause_s = 0.0
            return self._record_failure(questions, cause, detail, pause_s)
        try:
            answers = read_answers(reply.content)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._record_failure(questions, "malformed", f"the reply is not a risk answer: {error}")
        if len(answers) != len(questions):
            return self._record_failure(questions, "malformed", f"{len(answers)} answers to {len(questions)} questions")
        self._logged_causes.clear()
        return {question: self._accept(question, one) for question, one in zip(questions, answers, strict=True)}

    def _accept(self, question: Question, reply: Answer | ServiceProblem) -> LookupResult:
        if isinstance(reply, ServiceProblem):
            return LookupFailure("refused", f"{reply.code or reply.status}: {reply.detail}")
        answer = msgspec.structs.replace(reply, source="service", age_s=0.0)
        fresh_s = 0.0
        if answer.stale:
            self._counters.increment("stale")
            if not self._settings.accept_stale:
                return LookupFailure("stale", "the service marked its answer as out of date")
        elif answer.expires_at is not None:
            fresh_s = min(self._settings.cache_s, answer.expires_at.timestamp() - self._clock.wall())
        self._counters.increment("service")
        now = self._clock.steady()
        self._answers.put(question, _CachedAnswer(answer, now, now + fresh_s))
        return answer

    def _record_failure(
        self, questions: Sequence[Question], cause: FailureCause, detail: str, pause_s: float | None = None
    ) -> dict[Question, LookupResult]:
        wait = self._settings.pause_s if pause_s is None else min(pause_s, MAX_PAUSE_S)
        self._paused_until = self._clock.steady() + wait
        if cause not in self._logged_causes:  # once per outage: it must not flood the log
            self._logged_causes.add(cause)
            mode = self._settings.fail_mode
            log.warning("no risk answers from Trustwatch: %s: %s; fail mode %s", cause, detail, mode)
        return dict.fromkeys(questions or (CONNECTION_CHECK,), LookupFailure(cause, detail))

    def _raise_if_check_failed(self, results: Mapping[Question, LookupResult]) -> None:
        if isinstance(failure := results.get(CONNECTION_CHECK), LookupFailure):
            raise TrustUnavailable(failure.cause, failure.detail, ())

    def _apply_fail_mode(self, questions: Sequence[Question], results: Mapping[Question, LookupResult]) -> list[Answer]:
        """Return answers in the order of *questions*; the fail mode replaces those that are missing.

        Raises:
            TrustUnavailable: the fail mode is closed, and some have no answer.
        """
        settings, count = self._settings, self._counters.increment
        keeps = settings.fail_mode == "last_known"
        mode = settings.without_last_known if keeps else settings.fail_mode
        answers: list[Answer] = []
        lost: list[tuple[str, LookupFailure]] = []
        for question in questions:
            count("asked")
            result = results[question]
            if isinstance(result, Answer):
                answers.append(result)
                continue
            count(f"cause_{result.cause}")
            kept = self._answers.get(question) if keeps else None
            if kept is not None and (age_s := self._clock.steady() - kept.received_at) <= settings.last_known_s:
                count("last_known")
                answers.append(msgspec.structs.replace(kept.answer, source="last_known", age_s=age_s))
            elif mode == "open":
                count("fail_open")
                answers.append(fail_open_answer(question, settings.unknown_policy))
            else:
                count("fail_closed")
                lost.append((question.agent_id, result))
        if lost:
            failure = lost[0][1]
            raise TrustUnavailable(failure.cause, failure.detail, tuple(agent_id for agent_id, _ in lost))
        return answers


def _is_valid_question(question: Question) -> bool:
    """Return whether the service accepts the query, because one bad ID must not fail a whole request."""
    texts = [text for text in (question.agent_id, question.tenant, question.issuer) if text is not None]
    try:
        return bool(question.agent_id) and all(
            len(text) <= MAX_ID_CHARACTERS and text.encode() is not None for text in texts
        )
    except UnicodeEncodeError:
        return False


class TrustClient(_Lookups, ThreadClient):
    """Looks up risk within a time budget. Thread-safe.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.score:read`: a callable, called for each request, or
            `ClientCredentials`.
        settings: cache, budget, and the fail mode, which has no default.
        http: your own httpx2 client (proxy, certificates), which you close. The default client ignores proxies and
            other settings of the environment.
        clock: for tests.
        insecure_http: allows http to another machine, for a service mesh that encrypts.

    Raises:
        ValueError: a setting or the URL is invalid.
        TypeError: *http* is a client of another library.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        settings: RiskSettings,
        **options: Unpack[ThreadOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(settings)
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="trustwatch-risk")

    def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer:
        """Return the risk of one agent, after at most `budget_s`.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        return self.query([Question(agent_id, tenant, issuer)])[0]

    def query(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the risk of several agents, in the order of *questions*, within one `budget_s`.

        Raises:
            TrustUnavailable: some have no answer, and the fail mode is closed; `agents` names them.
        """
        deadline = self._clock.steady() + self._settings.budget_s
        results, flights = self._start_requests(questions, self._submit)
        for question, flight in flights.items():
            try:
                results[question] = flight.result(max(0.0, deadline - self._clock.steady()))[question]
            except TimeoutError:
                results[question] = TIMED_OUT
        return self._apply_fail_mode(questions, results)

    def check(self, timeout_s: float = 10.0) -> None:
        """Query once without budget and fail mode, so that a wrong token, URL or scope raises at startup. Opens a
        connection.

        Raises:
            TrustUnavailable: with the cause.
        """
        self._raise_if_check_failed(self._submit((), timeout_s).result())

    def close(self) -> None:
        """Stop threads and close connections after running requests, which take up to `request_timeout_s`."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def _submit(self, chunk: Sequence[Question], timeout_s: float = 0.0) -> Future[dict[Question, LookupResult]]:
        wait_s = timeout_s or self._settings.request_timeout_s
        return self._pool.submit(lambda: completed(self._fetch_answers(chunk, wait_s)))


class AsyncTrustClient(_Lookups, LoopClient):
    """`TrustClient` for asyncio; belongs to the event loop that first uses it.

    Args:
        url, settings, http, clock, insecure_http: as for `TrustClient`.
        token: as for `TrustClient`; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        settings: RiskSettings,
        **options: Unpack[LoopOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(settings)

    async def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer:
        """Like `TrustClient.risk`. Raises TrustUnavailable."""
        return (await self.query([Question(agent_id, tenant, issuer)]))[0]

    async def query(self, questions: Sequence[Question]) -> list[Answer]:
        """Like `TrustClient.query`. Raises TrustUnavailable."""
        results, flights = self._start_requests(
            questions, lambda chunk: self._start(self._fetch_answers(chunk, self._settings.request_timeout_s))
        )
        if flights:
            await asyncio.wait(set(flights.values()), timeout=self._settings.budget_s)
        for question, flight in flights.items():
            landed = flight.done() and not flight.cancelled()
            results[question] = flight.result()[question] if landed else TIMED_OUT
        return self._apply_fail_mode(questions, results)

    async def check(self, timeout_s: float = 10.0) -> None:
        """Like `TrustClient.check`. Raises TrustUnavailable."""
        self._raise_if_check_failed(await self._fetch_answers((), timeout_s))
