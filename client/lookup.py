"""What the sync and the async client share: cache, reading of replies, fail mode. No I/O."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import httpx
import msgspec

from .answers import Answer, Problem, Question, fail_open_answer, read_answers, read_problem
from .clock import Clock
from .counters import Counters
from .errors import Cause, TokenFailed, TrustUnavailable
from .retry import retry_after
from .settings import RiskSettings

log = logging.getLogger("trustwatch.client")

MOST_ID = 2_048
_OF_THE_QUESTION = (400, 409, 413, 422)
QUERY_PATH = "/v1/risk/query"
MOST_QUESTIONS = 1_000
LONGEST_PAUSE_S = 30.0
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""A connection that ended under a request: a look-up may be made again, once, within the same budget."""
COUNTED = (
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


class Failure(NamedTuple):
    """No answer, and why."""

    cause: Cause
    detail: str


Found = Answer | Failure

LATE = Failure("timeout", "no answer within the time budget")
BUSY = Failure("busy", "too many questions on their way")
UNASKABLE = Failure("refused", "ids have 1 to 2,048 characters, tenants and issuers at most that")
NOBODY = Question("")
"""Stands for the questions of a request that has none: a check of the connection."""


class _Kept(NamedTuple):
    answer: Answer
    at: float
    fresh_until: float


class Desk:
    """Remembers answers, reads replies, and applies the fail mode. Safe from any thread.

    Args:
        settings: how risk is looked up.
        clock: both clocks.
    """

    def __init__(self, settings: RiskSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.counters = Counters(*COUNTED)
        self._kept: OrderedDict[Question, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._paused_until = -math.inf
        self._told: set[Cause] = set()

    def cached(self, question: Question) -> Answer | None:
        """The answer that still stands, if there is one."""
        kept = self._get(question)
        now = self.clock.steady()
        if kept is None or now >= kept.fresh_until:
            return None
        self.counters.add("cache")
        return msgspec.structs.replace(kept.answer, source="cache", age_s=now - kept.at)

    def known(self, question: Question) -> Found | None:
        """What needs no request: an answer that still stands, or that the service could not read the question."""
        if (answer := self.cached(question)) is not None:
            return answer
        return None if _askable(question) else UNASKABLE

    def paused(self) -> Failure | None:
        """Whether the service is not to be asked now, after it failed."""
        if self.clock.steady() < self._paused_until:
            return Failure("paused", "it failed a moment ago")
        return None

    def accept(
        self, questions: Sequence[Question], status: int, headers: Mapping[str, str], body: bytes
    ) -> dict[Question, Found]:
        """What a reply says to each question; answers are remembered."""
        if status != 200:
            cause, detail = _refusal(status, body)
            # What is wrong with one question must not keep others from being asked.
            pause = 0.0 if status in _OF_THE_QUESTION else retry_after(headers, self.clock.wall())
            return self.fail(questions, cause, detail, pause)
        try:
            replies = read_answers(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self.fail(questions, "malformed", f"the reply is no risk answer: {error}")
        if len(replies) != len(questions):
            return self.fail(questions, "malformed", f"{len(replies)} answers to {len(questions)} questions")
        self._told.clear()
        return {question: self._take(question, reply) for question, reply in zip(questions, replies, strict=True)}

    def fail(
        self, questions: Sequence[Question], cause: Cause, detail: str, pause_s: float | None = None
    ) -> dict[Question, Found]:
        """The request failed as a whole: nobody asks again for a moment."""
        wait = self.settings.pause_s if pause_s is None else min(pause_s, LONGEST_PAUSE_S)
        self._paused_until = self.clock.steady() + wait
        if cause not in self._told:  # once until it works again: an outage must not flood the log
            self._told.add(cause)
            log.warning("no risk answers from Trustwatch: %s: %s; fail mode %s", cause, detail, self.settings.fail_mode)
        return dict.fromkeys(questions or (NOBODY,), Failure(cause, detail))

    def broken(self, questions: Sequence[Question], error: Exception) -> dict[Question, Found]:
        """The request raised *error*."""
        if isinstance(error, TokenFailed):
            return self.fail(questions, "token", str(error))
        if isinstance(error, httpx.HTTPError):
            return self.fail(questions, "network", type(error).__name__)
        return self.fail(questions, "token", f"{type(error).__name__} while a token was asked for")

    def raise_nobody(self, found: Mapping[Question, Found]) -> None:
        """Raise TrustUnavailable if a check of the connection failed."""
        if isinstance(failure := found.get(NOBODY), Failure):
            raise TrustUnavailable(failure.cause, failure.detail, ())

    def settle(self, questions: Sequence[Question], found: Mapping[Question, Found]) -> list[Answer]:
        """Answers in the order of *questions*, by the fail mode where there is none.

        Raises:
            TrustUnavailable: the fail mode is closed, and some have no answer.
        """
        answers = [self._settled(question, found[question]) for question in questions]
        lost = [(question, one) for question, one in zip(questions, answers, strict=True) if isinstance(one, Failure)]
        if lost:
            self.counters.add("fail_closed", len(lost))
            failure = lost[0][1]
            raise TrustUnavailable(failure.cause, failure.detail, tuple(question.agent_id for question, _ in lost))
        return [one for one in answers if isinstance(one, Answer)]

    def _settled(self, question: Question, found: Found) -> Found:
        self.counters.add("asked")
        if isinstance(found, Answer):
            return found
        self.counters.add(f"cause_{found.cause}")
        mode = self.settings.fail_mode
        if mode == "last_known":
            if (known := self._last_known(question)) is not None:
                self.counters.add("last_known")
                return known
            mode = self.settings.without_last_known
        if mode == "closed":
            return found
        self.counters.add("fail_open")
        return fail_open_answer(question, self.settings.unknown_policy)

    def _last_known(self, question: Question) -> Answer | None:
        kept = self._get(question)
        if kept is None:
            return None
        age = self.clock.steady() - kept.at
        if age > self.settings.last_known_s:
            return None
        return msgspec.structs.replace(kept.answer, source="last_known", age_s=age)

    def _get(self, question: Question) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(question)
            if kept is not None:
                self._kept.move_to_end(question)
            return kept

    def _take(self, question: Question, reply: Answer | Problem) -> Found:
        if isinstance(reply, Problem):
            return Failure("refused", f"{reply.code or reply.status}: {reply.detail}")
        answer = msgspec.structs.replace(reply, source="service", age_s=0.0)
        if answer.stale:
            self.counters.add("stale")
            if not self.settings.accept_stale:
                return Failure("stale", "the service says that its answer is out of date")
        self.counters.add("service")
        self._keep(question, answer)
        return answer

    def _keep(self, question: Question, answer: Answer) -> None:
        now, left = self.clock.steady(), 0.0
        if answer.expires_at is not None and not answer.stale:
            left = answer.expires_at.timestamp() - self.clock.wall()
        with self._lock:
            self._kept[question] = _Kept(answer, now, now + min(self.settings.cache_s, left))
            self._kept.move_to_end(question)
            while len(self._kept) > self.settings.cache_size:
                self._kept.popitem(last=False)


def query_body(questions: Sequence[Question]) -> bytes:
    """Body of `POST /v1/risk/query`."""
    return msgspec.json.encode({"agents": questions})


def chunks(questions: Sequence[Question]) -> list[Sequence[Question]]:
    """As many requests as the service's bound asks for."""
    return [questions[at : at + MOST_QUESTIONS] for at in range(0, len(questions), MOST_QUESTIONS)]


def _askable(question: Question) -> bool:
    """Whether the service reads such a question: ids come from tokens, and whoever chose one must not spoil others."""
    texts = [text for text in (question.agent_id, question.tenant, question.issuer) if text is not None]
    try:
        return bool(question.agent_id) and all(len(text) <= MOST_ID and text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False


def _refusal(status: int, body: bytes) -> tuple[Cause, str]:
    problem = read_problem(body)
    said = f"HTTP {status} {problem.code}".strip()
    if status == 429:
        return "throttled", said
    return ("server_error" if status >= 500 else "refused"), said
