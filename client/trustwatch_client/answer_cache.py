"""Logic shared by the sync and the async client: cache, reading of replies, fail mode. No I/O."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import httpx2
import msgspec

from .bounded_cache import BoundedCache
from .counters import Counters
from .risk_answers import Answer, Question, ServiceProblem, fail_open_answer, read_answers, read_problem
from .settings import RiskSettings
from .timing import Clock, retry_after
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
    """Remembers answers, reads replies, and applies the fail mode. Safe from any thread.

    Args:
        settings: of look-ups.
        clock: both clocks.
    """

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
        """Sort questions by the way to their answer, so that each agent is asked for once, whoever asks.

        Args:
            in_flight: the requests on their way, by question.

        Returns:
            Results that need no request, requests on their way that will bring others, and questions to ask now. During
            a pause, and when too many requests are on their way, the last are answered by a failure instead.
        """
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
            pause = 0.0 if status in _QUESTION_ERROR_STATUSES else retry_after(headers, self.clock.wall())
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


def classify_refusal(status: int, body: bytes) -> tuple[FailureCause, str]:
    """Cause of a reply that is no answer, and what it says; no text of it but the code."""
    problem = read_problem(body)
    said = f"HTTP {status} {problem.code}".strip()
    if status == 429:
        return "throttled", said
    return ("server_error" if status >= 500 else "refused"), said
