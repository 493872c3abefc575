"""Risk look-up, for threads and for asyncio: what both share (cache, replies, fail mode), then the clients."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import httpx2
import msgspec

from .access_tokens import AsyncTokenSource, TokenSource
from .bounded_cache import BoundedCache
from .counters import Counted, Counters
from .risk_answers import Answer, Question, ServiceProblem, classify_refusal, fail_open_answer, read_answers
from .service_connection import (
    AsyncClosedOnExit,
    AsyncServiceConnection,
    ClosedOnExit,
    Requests,
    ServiceConnection,
    completed,
)
from .settings import RiskSettings, validate_url
from .timing import Clock, SystemClock, parse_retry_after
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


class LookupFailure(NamedTuple):
    """Failure of a look-up, with its cause."""

    cause: FailureCause
    detail: str


LookupResult = Answer | LookupFailure
FlightT = TypeVar("FlightT")

TIMED_OUT = LookupFailure("timeout", "no answer within the time budget")
TOO_MANY_IN_FLIGHT = LookupFailure("busy", "too many questions on their way")
INVALID_QUESTION = LookupFailure("refused", "ids have 1 to 2,048 characters, tenants and issuers at most that")
CONNECTION_CHECK = Question("")
"""Stands for the questions of a request that has none: a check of the connection."""


class _CachedAnswer(NamedTuple):
    answer: Answer
    received_at: float
    fresh_until: float


class AnswerCache:
    """Remembers answers, reads replies, and applies the fail mode. Safe from any thread."""

    def __init__(self, settings: RiskSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.counters = Counters(*LOOKUP_COUNTERS)
        self._answers: BoundedCache[Question, _CachedAnswer] = BoundedCache(settings.cache_size)
        self._paused_until = -math.inf
        self._logged_causes: set[FailureCause] = set()

    def cached_answer(self, question: Question) -> Answer | None:
        """Answer that is still valid, if there is one."""
        kept = self._answers.get(question)
        now = self.clock.steady()
        if kept is None or now >= kept.fresh_until:
            return None
        self.counters.increment("cache")
        return msgspec.structs.replace(kept.answer, source="cache", age_s=now - kept.received_at)

    def immediate_result(self, question: Question) -> LookupResult | None:
        """Result that needs no request: an answer still valid, or the failure of an invalid question; else None."""
        if (answer := self.cached_answer(question)) is not None:
            return answer
        return None if _is_valid_question(question) else INVALID_QUESTION

    def count_request(self) -> None:
        """Count an attempt to ask the service."""
        self.counters.increment("requests")

    def plan(
        self, questions: Sequence[Question], in_flight: Mapping[Question, FlightT]
    ) -> tuple[dict[Question, LookupResult], dict[Question, FlightT], list[Question]]:
        """Sort questions by the way to their answer, so that each agent is asked for once, whoever asks."""
        results: dict[Question, LookupResult] = {}
        flights: dict[Question, FlightT] = {}
        new: list[Question] = []
        for question in dict.fromkeys(questions):
            if (result := self.immediate_result(question)) is not None:
                results[question] = result
            elif (flight := in_flight.get(question)) is not None:
                flights[question] = flight
                self.counters.increment("joined")
            else:
                new.append(question)
        refused = self.pause_failure() if new else None
        if refused is None and len(in_flight) + len(new) > self.settings.max_in_flight:
            refused = TOO_MANY_IN_FLIGHT
        if refused is not None:
            return results | dict.fromkeys(new, refused), flights, []
        return results, flights, new

    def pause_failure(self) -> LookupFailure | None:
        """Failure for questions during the pause after an error; None outside of it."""
        if self.clock.steady() < self._paused_until:
            return LookupFailure("paused", "it failed a moment ago")
        return None

    def read_reply(
        self, questions: Sequence[Question], status: int, headers: Mapping[str, str], body: bytes
    ) -> dict[Question, LookupResult]:
        """Read a reply into one result for each question; answers are remembered."""
        if status != 200:
            cause, detail = classify_refusal(status, body)
            # What is wrong with one question must not keep others from being asked.
            pause = (
                0.0
                if status in _QUESTION_ERROR_STATUSES
                else parse_retry_after(headers.get("retry-after"), self.clock.wall())
            )
            return self.record_failure(questions, cause, detail, pause)
        try:
            replies = read_answers(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self.record_failure(questions, "malformed", f"the reply is no risk answer: {error}")
        if len(replies) != len(questions):
            return self.record_failure(questions, "malformed", f"{len(replies)} answers to {len(questions)} questions")
        self._logged_causes.clear()
        return {
            question: self._accept_reply(question, reply) for question, reply in zip(questions, replies, strict=True)
        }

    def record_failure(
        self, questions: Sequence[Question], cause: FailureCause, detail: str, pause_s: float | None = None
    ) -> dict[Question, LookupResult]:
        """Record the failure of a whole request; no request is made for a moment."""
        wait = self.settings.pause_s if pause_s is None else min(pause_s, MAX_PAUSE_S)
        self._paused_until = self.clock.steady() + wait
        if cause not in self._logged_causes:  # once until it works again: an outage must not flood the log
            self._logged_causes.add(cause)
            log.warning("no risk answers from Trustwatch: %s: %s; fail mode %s", cause, detail, self.settings.fail_mode)
        return dict.fromkeys(questions or (CONNECTION_CHECK,), LookupFailure(cause, detail))

    def record_error(self, questions: Sequence[Question], error: Exception) -> dict[Question, LookupResult]:
        """Record the failure of a request that raised *error*."""
        if isinstance(error, TokenFailed):
            return self.record_failure(questions, "token", str(error))
        if isinstance(error, httpx2.HTTPError):
            return self.record_failure(questions, "network", type(error).__name__)
        return self.record_failure(questions, "token", f"{type(error).__name__} while a token was asked for")

    def raise_if_check_failed(self, results: Mapping[Question, LookupResult]) -> None:
        """Raise TrustUnavailable if a check of the connection failed."""
        if isinstance(failure := results.get(CONNECTION_CHECK), LookupFailure):
            raise TrustUnavailable(failure.cause, failure.detail, ())

    def apply_fail_mode(self, questions: Sequence[Question], results: Mapping[Question, LookupResult]) -> list[Answer]:
        """Answers in the order of *questions*, by the fail mode where there is none.

        Raises:
            TrustUnavailable: the fail mode is closed, and some have no answer.
        """
        answers = [self._apply_fail_mode_to_one(question, results[question]) for question in questions]
        lost = [
            (question, result)
            for question, result in zip(questions, answers, strict=True)
            if isinstance(result, LookupFailure)
        ]
        if lost:
            self.counters.increment("fail_closed", len(lost))
            failure = lost[0][1]
            raise TrustUnavailable(failure.cause, failure.detail, tuple(question.agent_id for question, _ in lost))
        return [result for result in answers if isinstance(result, Answer)]

    def _apply_fail_mode_to_one(self, question: Question, result: LookupResult) -> LookupResult:
        self.counters.increment("asked")
        if isinstance(result, Answer):
            return result
        self.counters.increment(f"cause_{result.cause}")
        mode = self.settings.fail_mode
        if mode == "last_known":
            if (last_known := self._last_known_answer(question)) is not None:
                self.counters.increment("last_known")
                return last_known
            mode = self.settings.without_last_known
        if mode == "closed":
            return result
        self.counters.increment("fail_open")
        return fail_open_answer(question, self.settings.unknown_policy)

    def _last_known_answer(self, question: Question) -> Answer | None:
        kept = self._answers.get(question)
        if kept is None:
            return None
        age = self.clock.steady() - kept.received_at
        if age > self.settings.last_known_s:
            return None
        return msgspec.structs.replace(kept.answer, source="last_known", age_s=age)

    def _accept_reply(self, question: Question, reply: Answer | ServiceProblem) -> LookupResult:
        if isinstance(reply, ServiceProblem):
            return LookupFailure("refused", f"{reply.code or reply.status}: {reply.detail}")
        answer = msgspec.structs.replace(reply, source="service", age_s=0.0)
        if answer.stale:
            self.counters.increment("stale")
            if not self.settings.accept_stale:
                return LookupFailure("stale", "the service says that its answer is out of date")
        self.counters.increment("service")
        self._store(question, answer)
        return answer

    def _store(self, question: Question, answer: Answer) -> None:
        now, left = self.clock.steady(), 0.0
        if answer.expires_at is not None and not answer.stale:
            left = answer.expires_at.timestamp() - self.clock.wall()
        self._answers.put(question, _CachedAnswer(answer, now, now + min(self.settings.cache_s, left)))


def query_body(questions: Sequence[Question]) -> bytes:
    """Body of `POST /v1/risk/query`."""
    return msgspec.json.encode({"agents": questions})


def split_questions(questions: Sequence[Question]) -> list[Sequence[Question]]:
    """Split questions by the service's bound for one request."""
    return [questions[at : at + MAX_QUESTIONS] for at in range(0, len(questions), MAX_QUESTIONS)]


def _is_valid_question(question: Question) -> bool:
    """True if the service reads such a question: ids come from tokens, and a bad one must not spoil a whole request."""
    texts = [text for text in (question.agent_id, question.tenant, question.issuer) if text is not None]
    try:
        return bool(question.agent_id) and all(
            len(text) <= MAX_ID_CHARACTERS and text.encode() is not None for text in texts
        )
    except UnicodeEncodeError:
        return False


class _Lookups(Counted):
    """What both clients share."""

    def __init__(self, url: str, settings: RiskSettings, clock: Clock | None, *, insecure_http: bool) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + QUERY_PATH
        self._clock = clock or SystemClock()
        self._answer_cache = AnswerCache(settings, self._clock)
        self._counters = self._answer_cache.counters
        self._settings = settings

    async def _request_answers(
        self, requests: Requests, chunk: Sequence[Question], timeout_s: float
    ) -> dict[Question, LookupResult]:
        """Request answers for *chunk*; never raises except when cancelled."""
        try:
            if chunk and (failure := self._answer_cache.pause_failure()) is not None:  # it failed while this one waited
                return dict.fromkeys(chunk, failure)
            reply = await requests.ask(self._url, query_body(chunk), timeout_s, self._answer_cache.count_request)
            return self._answer_cache.read_reply(chunk, reply.status_code, reply.headers, reply.content)
        except Exception as error:  # whatever a token callable of the user's raises: the fail mode holds
            return self._answer_cache.record_error(chunk, error)


class TrustClient(_Lookups, ClosedOnExit):
    """Looks risk up within a time budget; safe from any thread.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.score:read`: a callable, asked for each request, or
            `ClientCredentials`.
        settings: cache, budget, and the fail mode, which must be named.
        http: an httpx2 client of your own (proxy, certificates); it stays yours to close. Without one, neither proxies
            nor other things of the environment are used.
        clock: for tests.
        insecure_http: allows http to another machine, for a mesh that encrypts by itself.

    Raises:
        ValueError: a setting or the URL is wrong.
        TypeError: *http* is of another library.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        settings: RiskSettings,
        *,
        http: httpx2.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        super().__init__(url, settings, clock, insecure_http=insecure_http)
        self._connection = ServiceConnection(token, self._clock, http)
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="trustwatch-risk")
        self._requests_in_flight: dict[Question, Future[dict[Question, LookupResult]]] = {}
        self._lock = threading.Lock()

    def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer:
        """Risk of one agent, at most `budget_s` from now.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        return self.query([Question(agent_id, tenant, issuer)])[0]

    def query(self, questions: Sequence[Question]) -> list[Answer]:
        """Risk of several agents, in the order of *questions*, all within one `budget_s`.

        Raises:
            TrustUnavailable: some have no answer, and the fail mode is closed; `agents` names them.
        """
        deadline = self._clock.steady() + self._settings.budget_s
        results, flights = self._start_requests(questions)
        for question, flight in flights.items():
            try:
                results[question] = flight.result(max(0.0, deadline - self._clock.steady()))[question]
            except TimeoutError:
                results[question] = TIMED_OUT
        return self._answer_cache.apply_fail_mode(questions, results)

    def check(self, timeout_s: float = 10.0) -> None:
        """Ask once without budget and fail mode, so that a wrong token, URL or binding shows at start. Warms
        connections.

        Raises:
            TrustUnavailable: with the cause.
        """
        results = self._pool.submit(self._fetch_answers, (), timeout_s).result()
        self._answer_cache.raise_if_check_failed(results)

    def close(self) -> None:
        """End threads and connections after the requests on their way, up to `request_timeout_s`."""
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()

    def _start_requests(
        self, questions: Sequence[Question]
    ) -> tuple[dict[Question, LookupResult], dict[Question, Future[dict[Question, LookupResult]]]]:
        """Start the requests that are needed; see `AnswerCache.plan` for what is returned."""
        with self._lock:
            results, flights, new = self._answer_cache.plan(questions, self._requests_in_flight)
            for chunk in split_questions(new):
                flight = self._pool.submit(self._fetch_answers, chunk, self._settings.request_timeout_s)
                flights |= dict.fromkeys(chunk, flight)
                self._requests_in_flight |= dict.fromkeys(chunk, flight)
        return results, flights

    def _fetch_answers(self, chunk: Sequence[Question], timeout_s: float) -> dict[Question, LookupResult]:
        """Request answers for *chunk*; never raises."""
        try:
            return completed(self._request_answers(self._connection.requests, chunk, timeout_s))
        finally:
            with self._lock:
                for question in chunk:
                    self._requests_in_flight.pop(question, None)


QueryTask = asyncio.Task[dict[Question, LookupResult]]


class AsyncTrustClient(_Lookups, AsyncClosedOnExit):
    """`TrustClient` for asyncio; belongs to the event loop that first uses it.

    Args:
        url, settings, http, clock, insecure_http: as for `TrustClient`.
        token: as there; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        settings: RiskSettings,
        *,
        http: httpx2.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        super().__init__(url, settings, clock, insecure_http=insecure_http)
        self._connection = AsyncServiceConnection(token, self._clock, http)
        self._requests_in_flight: dict[Question, QueryTask] = {}
        self._tasks: set[QueryTask] = set()

    async def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer:
        """Risk of one agent, at most `budget_s` from now.

        Raises:
            TrustUnavailable: there is no answer, and the fail mode is closed.
        """
        return (await self.query([Question(agent_id, tenant, issuer)]))[0]

    async def query(self, questions: Sequence[Question]) -> list[Answer]:
        """Risk of several agents, in the order of *questions*, all within one `budget_s`.

        Raises:
            TrustUnavailable: some have no answer, and the fail mode is closed; `agents` names them.
        """
        results, flights = self._start_requests(questions)
        if flights:
            await asyncio.wait(set(flights.values()), timeout=self._settings.budget_s)
        for question, flight in flights.items():
            landed = flight.done() and not flight.cancelled()
            results[question] = flight.result()[question] if landed else TIMED_OUT
        return self._answer_cache.apply_fail_mode(questions, results)

    async def check(self, timeout_s: float = 10.0) -> None:
        """As `TrustClient.check`.

        Raises:
            TrustUnavailable: with the cause.
        """
        self._answer_cache.raise_if_check_failed(await self._fetch_answers((), timeout_s))

    async def close(self) -> None:
        """Cancel requests on their way and end connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    def _start_requests(
        self, questions: Sequence[Question]
    ) -> tuple[dict[Question, LookupResult], dict[Question, QueryTask]]:
        """Start the requests that are needed; see `AnswerCache.plan` for what is returned."""
        results, flights, new = self._answer_cache.plan(questions, self._requests_in_flight)
        for chunk in split_questions(new):
            task = asyncio.create_task(self._fetch_answers(chunk, self._settings.request_timeout_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            flights |= dict.fromkeys(chunk, task)
            self._requests_in_flight |= dict.fromkeys(chunk, task)
        return results, flights

    async def _fetch_answers(self, chunk: Sequence[Question], timeout_s: float) -> dict[Question, LookupResult]:
        """Request answers for *chunk*; never raises except when cancelled."""
        try:
            return await self._request_answers(self._connection.requests, chunk, timeout_s)
        finally:
            for question in chunk:
                self._requests_in_flight.pop(question, None)
