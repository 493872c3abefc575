"""Risk look-up and events, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2

from .access_tokens import AsyncTokenSource, TokenSource
from .answer_cache import (
    QUERY_PATH,
    TIMED_OUT,
    AnswerCache,
    LookupResult,
    query_body,
    split_questions,
)
from .counters import Counted
from .risk_answers import Answer, Question
from .service_connection import (
    AsyncClosedOnExit,
    AsyncServiceConnection,
    ClosedOnExit,
    Requests,
    ServiceConnection,
    completed,
)
from .settings import RiskSettings, validate_url
from .timing import Clock, SystemClock


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
